"""Arrays as pvq_ref.cuda takes them: on the device, or on the host where it is simulated."""

import numpy as np

from pvq_ref.cuda import DeviceArray
from pvq_ref.cuda.intrinsics import SIMULATED


class Placed:
    """A copy of an array of any strides, and of all memory that it is a view of."""

    def __init__(self, array):
        whole = array
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        flat = np.lib.stride_tricks.as_strided(whole, (whole.size,), (whole.itemsize,))
        self._held = DeviceArray.of(flat)
        self._offset = array.ctypes.data - whole.ctypes.data
        self._shape, self._strides = array.shape, array.strides

    def __array__(self, dtype=None, copy=None):
        """Return the array as the simulator takes it, or a copy of what the device holds."""
        held = self.memory
        return np.ndarray(self._shape, held.dtype, held, self._offset, self._strides)

    @property
    def memory(self):
        """All elements, whether they belong to the array or not."""
        return self._held.host if SIMULATED else self._held.copy_to_host()

    @property
    def __cuda_array_interface__(self):
        whole = self._held.__cuda_array_interface__
        pointer = whole["data"][0] + self._offset
        return whole | {
            "shape": self._shape,
            "strides": self._strides,
            "data": (pointer, False),
        }
