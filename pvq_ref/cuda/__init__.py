"""Products with compressed weights on a CUDA device (extra `cuda`; docs/gpu.md).

    t = pvq_ref.cuda.upload(compressed)
    y = pvq_ref.cuda.matmul(t, x)

Numba compiles the kernels when they are first used, for the device that is there. With
NUMBA_ENABLE_CUDASIM=1 they run in Numba's simulator, on NumPy arrays, without a device.
"""

from pvq_ref.cuda import extra as extra  # the first, to say what is missing
from pvq_ref.cuda.device import DeviceArray
from pvq_ref.cuda.expanding import dequantize, unrank
from pvq_ref.cuda.products import matmul
from pvq_ref.cuda.tensor import DeviceTensor
from pvq_ref.cuda.uploading import SlowPathWarning, upload

__all__ = [
    "DeviceArray",
    "DeviceTensor",
    "SlowPathWarning",
    "dequantize",
    "matmul",
    "unrank",
    "upload",
]
