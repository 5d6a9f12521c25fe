"""A CUDA device and arrays in its memory; NumPy in their place in Numba's simulator."""

import threading
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pvq_ref.cuda.intrinsics import SIMULATED
from pvq_ref.errors import DeviceError, DTypeError, ShapeError

if not SIMULATED:
    from cuda.bindings import driver


def checked(result: Any) -> Any:
    """Return what a call of the driver gives, or raise DeviceError."""
    code, *values = result
    if code != driver.CUresult.CUDA_SUCCESS:
        _, name = driver.cuGetErrorString(code)
        message = name.decode() if name else str(code)
        raise DeviceError(f"the CUDA driver must succeed, got {message!r}")
    return values[0] if len(values) == 1 else values


@lru_cache(1)
def _context() -> Any:
    """Return the primary context of device 0's current device, made current on first use."""
    checked(driver.cuInit(0))
    current = checked(driver.cuCtxGetCurrent())
    device = checked(driver.cuCtxGetDevice()) if int(current) else checked(driver.cuDeviceGet(0))
    return checked(driver.cuDevicePrimaryCtxRetain(device)), device


_READY = threading.local()


def use() -> None:
    """Make the context of this library current on the calling thread, unless one is."""
    if SIMULATED or getattr(_READY, "done", False):
        return
    try:
        context, _ = _context()
    except (DeviceError, RuntimeError) as error:
        raise DeviceError(f"a CUDA device must be there, got none ({error})") from None
    if not int(checked(driver.cuCtxGetCurrent())):
        checked(driver.cuCtxSetCurrent(context))
    _READY.done = True


@lru_cache(16)
def attribute_of(name: str) -> int:
    """Return one of the driver's attributes of the device."""
    use()
    attribute = getattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
    return int(checked(driver.cuDeviceGetAttribute(attribute, _context()[1])))


def processors() -> int:
    """Return the number of multiprocessors."""
    return 2 if SIMULATED else attribute_of("MULTIPROCESSOR_COUNT")


def shared_words() -> int:
    """Return the 32-bit words of shared memory that a block can have."""
    if SIMULATED:
        return 227 << 8
    return attribute_of("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN") // 4


class DeviceArray:
    """A contiguous array on the device; anything that knows __cuda_array_interface__ takes it."""

    def __init__(self, shape: int | tuple[int, ...], dtype: DTypeLike, stream: int = 0) -> None:
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        self.dtype = np.dtype(dtype)
        self.nbytes = prod(self.shape) * self.dtype.itemsize
        self._stream = stream
        self.pointer = 0
        if SIMULATED:
            self.host = np.zeros(self.shape, self.dtype)
        elif self.nbytes:
            use()
            self.pointer = int(checked(driver.cuMemAllocAsync(self.nbytes, stream)))

    @staticmethod
    def of(array: NDArray[Any]) -> "DeviceArray":
        """Copy an array to the device."""
        array = np.ascontiguousarray(array)
        out = DeviceArray(array.shape, array.dtype)
        if SIMULATED:
            out.host[...] = array
        elif out.nbytes:
            checked(driver.cuMemcpyHtoD(out.pointer, array.ctypes.data, out.nbytes))
        return out

    def copy_to_host(self) -> NDArray[Any]:
        """Return a copy, after all work on the device before it."""
        if SIMULATED:
            return self.host.copy()
        out = np.empty(self.shape, self.dtype)
        if out.nbytes:
            use()
            checked(driver.cuCtxSynchronize())
            checked(driver.cuMemcpyDtoH(out.ctypes.data, self.pointer, out.nbytes))
        return out

    def clear(self, stream: int) -> None:
        """Fill with zeros."""
        if SIMULATED:
            self.host[...] = 0
        elif self.nbytes:
            checked(driver.cuMemsetD8Async(self.pointer, 0, self.nbytes, stream))

    def at(self, elements: int) -> Any:
        """Return the address of an element; for the simulator, the array from there on."""
        if SIMULATED:
            return self.host.reshape(-1)[elements:]
        return self.pointer + elements * self.dtype.itemsize

    def __del__(self) -> None:
        if self.pointer:
            driver.cuMemFreeAsync(self.pointer, self._stream)
            self.pointer = 0

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "version": 3,
            "stream": self._stream or 1,
        }


@lru_cache(16)
def _torch_type(dtype: Any) -> np.dtype[Any] | None:
    name = str(dtype).removeprefix("torch.")
    return np.dtype(name) if name in FLOATS else None


FLOATS = ("float16", "float32", "float64")


class View:
    """An array of another library: pointer, shape, type and strides in elements."""

    __slots__ = ("dtype", "host", "pointer", "shape", "strides")

    def __init__(self, array: Any, name: str) -> None:
        self.host: Any = None
        if SIMULATED:
            self.host = array.host if isinstance(array, DeviceArray) else np.asarray(array)
            self.shape, self.dtype, self.pointer = self.host.shape, self.host.dtype, 0
            strides = self.host.strides
        elif getattr(array, "is_cuda", False) and (dtype := _torch_type(array.dtype)) is not None:
            # A tensor of PyTorch: its __cuda_array_interface__ takes longer than a launch.
            self.shape, self.dtype = tuple(array.shape), dtype
            self.pointer, self.strides = array.data_ptr(), array.stride()
            return
        else:
            try:
                described = array.__cuda_array_interface__
            except Exception as error:  # libraries differ in what they raise
                raise DTypeError(
                    f"{name} must be on the device, with __cuda_array_interface__ (no bfloat16, no "
                    f"gradient), got {type(array).__name__} ({error})"
                ) from None
            self.shape, self.dtype = described["shape"], np.dtype(described["typestr"])
            self.pointer, strides = described["data"][0], described.get("strides")
        if strides is None:
            strides = [
                self.dtype.itemsize * prod(self.shape[i + 1 :]) for i in range(len(self.shape))
            ]
        if self.dtype.name not in FLOATS:
            raise DTypeError(f"{name} must be float16, float32 or float64, got {self.dtype}")
        if any(step % self.dtype.itemsize or step < 0 for step in strides):
            raise ShapeError(
                f"{name} must have strides of whole elements, not below 0, got {strides}"
            )
        self.strides = tuple(step // self.dtype.itemsize for step in strides)

    @property
    def is_contiguous(self) -> bool:
        """Whether elements lie one after the other, in row-major order."""
        expected = [prod(self.shape[i + 1 :]) for i in range(len(self.shape))]
        return all(
            size == 1 or step == one
            for size, step, one in zip(self.shape, self.strides, expected, strict=True)
        )

    def at(self, elements: int) -> Any:
        """Return the address of an element; for the simulator, the memory from there on."""
        if SIMULATED:
            size = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
            flat = np.lib.stride_tricks.as_strided(self.host, (size,), (self.dtype.itemsize,))
            return flat[elements:]
        return self.pointer + elements * self.dtype.itemsize


def stream_number(stream: Any) -> int:
    """Return the address of a stream of any library; 0 is the default one."""
    if stream is None:
        return 0
    for name in ("cuda_stream", "ptr", "handle"):
        stream = getattr(stream, name, stream)
    try:
        return int(getattr(stream, "value", stream) or 0)
    except (TypeError, ValueError):
        raise DTypeError(
            f"stream must be an address or an object with one, got {type(stream).__name__}"
        ) from None
