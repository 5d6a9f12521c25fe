"""Memory, modules and launches on a CUDA device; NumPy and Numba's simulator in their place.

Numba compiles a kernel, and the driver is called to launch it, since Numba's own launch path takes
longer than the kernels run.
"""

import ctypes
import hashlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import version
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pvq_ref.compiler import source_hash
from pvq_ref.cuda.intrinsics import SIMULATED
from pvq_ref.errors import DeviceError, DTypeError, ShapeError
from pvq_ref.jit import cache_directory

if not SIMULATED:
    from cuda.bindings import driver
    from numba import cuda
    from numba.cuda import types


def _check(result: Any) -> Any:
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
    _check(driver.cuInit(0))
    current = _check(driver.cuCtxGetCurrent())
    device = _check(driver.cuCtxGetDevice()) if int(current) else _check(driver.cuDeviceGet(0))
    return _check(driver.cuDevicePrimaryCtxRetain(device)), device


_READY = threading.local()


def use() -> None:
    """Make the context of this library current on the calling thread, unless one is."""
    if SIMULATED or getattr(_READY, "done", False):
        return
    try:
        context, _ = _context()
    except (DeviceError, RuntimeError) as error:
        raise DeviceError(f"a CUDA device must be there, got none ({error})") from None
    if not int(_check(driver.cuCtxGetCurrent())):
        _check(driver.cuCtxSetCurrent(context))
    _READY.done = True


@lru_cache(16)
def _attribute(name: str) -> int:
    use()
    attribute = getattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
    return int(_check(driver.cuDeviceGetAttribute(attribute, _context()[1])))


def processors() -> int:
    """Return the number of multiprocessors."""
    return 2 if SIMULATED else _attribute("MULTIPROCESSOR_COUNT")


def shared_words() -> int:
    """Return the 32-bit words of shared memory that a block can have."""
    if SIMULATED:
        return 227 << 8
    return _attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN") // 4


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
            self.pointer = int(_check(driver.cuMemAllocAsync(self.nbytes, stream)))

    @staticmethod
    def of(array: NDArray[Any]) -> "DeviceArray":
        """Copy an array to the device."""
        array = np.ascontiguousarray(array)
        out = DeviceArray(array.shape, array.dtype)
        if SIMULATED:
            out.host[...] = array
        elif out.nbytes:
            _check(driver.cuMemcpyHtoD(out.pointer, array.ctypes.data, out.nbytes))
        return out

    def copy_to_host(self) -> NDArray[Any]:
        """Return a copy, after all work on the device before it."""
        if SIMULATED:
            return self.host.copy()
        out = np.empty(self.shape, self.dtype)
        if out.nbytes:
            use()
            _check(driver.cuCtxSynchronize())
            _check(driver.cuMemcpyDtoH(out.ctypes.data, self.pointer, out.nbytes))
        return out

    def clear(self, stream: int) -> None:
        """Fill with zeros."""
        if SIMULATED:
            self.host[...] = 0
        elif self.nbytes:
            _check(driver.cuMemsetD8Async(self.pointer, 0, self.nbytes, stream))

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


class _Value(ctypes.Structure):
    """An attribute of a launch (CUlaunchAttribute): its number, and 64 bytes for its value."""

    _fields_ = (
        ("number", ctypes.c_uint),
        ("_gap", ctypes.c_char * 4),
        ("value", ctypes.c_int * 16),
    )


class _Config(ctypes.Structure):
    """How a kernel is launched (CUlaunchConfig)."""

    _fields_ = (
        ("blocks", ctypes.c_uint * 3),
        ("threads", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Value)),
        ("count", ctypes.c_uint),
    )


_PROGRAMMATIC_SERIALIZATION = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION


@lru_cache(1)
def _launcher() -> Any:
    """Return the driver's function, called through ctypes: a launch takes a microsecond."""
    function = ctypes.CDLL(
        "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    ).cuLaunchKernelEx
    function.argtypes = [ctypes.c_void_p] * 4
    return function


def can_overlap() -> bool:
    """Whether a kernel can start before the one before it has ended (compute capability 9)."""
    return not SIMULATED and _attribute("COMPUTE_CAPABILITY_MAJOR") >= 9


class Kernel:
    """A compiled kernel. Its arguments are pointers, written as their type, and 32-bit numbers (u).

    name tells it from all other kernels: it is what the compiled text is kept under on disk. shared
    is the words of shared memory that a launch can have at most.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., None],
        arguments: Sequence[str],
        threads: int,
        shared: int = 0,
    ) -> None:
        self.threads, self.shared = threads, 4 * shared
        self.kinds = tuple(arguments)
        if SIMULATED:
            from numba import cuda as simulator

            self.function: Any = simulator.jit(function)
            return
        use()
        capability = (
            _attribute("COMPUTE_CAPABILITY_MAJOR"),
            _attribute("COMPUTE_CAPABILITY_MINOR"),
        )
        text = kept_ptx(name, function, arguments, threads, capability)
        entry = text.split(".entry", 1)[1].split("(", 1)[0].strip()
        self._module = _check(driver.cuModuleLoadData(text.encode() + b"\0"))
        loaded = _check(driver.cuModuleGetFunction(self._module, entry.encode()))
        if self.shared > 48 << 10:
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _check(driver.cuFuncSetAttribute(loaded, attribute, self.shared))
        self.function = int(loaded)

    def bind(
        self,
        arguments: Sequence[Any],
        blocks: int,
        *,
        overlap: bool = False,
        shared: int | None = None,
    ) -> "Launch":
        """Return a launch with these arguments: DeviceArray, View, address or number.

        shared is its words of shared memory, all that the kernel can have by default.
        """
        return Launch(self, arguments, blocks, overlap, shared)


def kept_ptx(
    name: str,
    function: Callable[..., None],
    arguments: Sequence[str],
    threads: int,
    capability: tuple[int, int],
) -> str:
    """Return a kernel's PTX, from the directory of compiled kernels if it is there."""
    known = (source_hash(), version("numba-cuda"), name, tuple(arguments), threads, capability)
    digest = hashlib.sha256(repr(known).encode()).hexdigest()
    directory = cache_directory()
    path = None if directory is None else directory / f"{digest}.ptx"
    if path is not None and path.exists():
        return path.read_text(encoding="utf-8")
    text = ptx(function, arguments, threads, capability)
    if path is not None:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(text)
        os.replace(file.name, path)  # whole or not at all
    return text


def ptx(
    function: Callable[..., None],
    arguments: Sequence[str],
    threads: int,
    capability: tuple[int, int],
) -> str:
    """Compile a kernel, with or without a device."""
    kinds = [
        types.uint32 if name == "u" else types.CPointer(getattr(types, name)) for name in arguments
    ]
    text, _ = cuda.compile(
        function, types.void(*kinds), cc=capability, output="ptx", device=False, abi="numba",
        fastmath=True, launch_bounds=(threads, 1),  # saves no registers for a second block
    )  # fmt: skip
    return str(text)


class Launch:
    """A launch whose arguments can be changed one at a time.

    With `overlap` it may start before the kernel before it on the stream has ended; it then waits
    in `intrinsics.wait_for_last`.
    """

    def __init__(
        self,
        kernel: Kernel,
        arguments: Sequence[Any],
        blocks: int,
        overlap: bool,
        shared: int | None,
    ) -> None:
        self._kernel, self._blocks = kernel, blocks
        self._shared = kernel.shared if shared is None else 4 * shared
        if SIMULATED:
            self._arguments = list(arguments)
            return
        self._held = list(arguments)
        self._values = [
            (ctypes.c_uint32 if kind == "u" else ctypes.c_uint64)(_number(argument))
            for kind, argument in zip(kernel.kinds, arguments, strict=True)
        ]
        self._table = (ctypes.c_void_p * len(self._values))(
            *[ctypes.addressof(value) for value in self._values]
        )
        self._attribute = _Value(number=_PROGRAMMATIC_SERIALIZATION)
        self._attribute.value[0] = 1
        self._config = _Config(
            (blocks, 1, 1), (kernel.threads, 1, 1), self._shared, None,
            ctypes.pointer(self._attribute), int(overlap),
        )  # fmt: skip
        self._call = (
            ctypes.addressof(self._config), kernel.function, ctypes.addressof(self._table), None
        )  # fmt: skip
        self._launcher = _launcher()

    def set(self, place: int, argument: Any) -> None:
        """Change an argument."""
        if SIMULATED:
            self._arguments[place] = argument
        else:
            self._values[place].value = _number(argument)

    def __call__(self, stream: int = 0) -> None:
        """Start the kernel."""
        if SIMULATED:
            hosts = [getattr(one, "host", one) for one in self._arguments]
            hosts = [np.uint32(one) if isinstance(one, int) else one for one in hosts]
            flat = [one.reshape(-1) if isinstance(one, np.ndarray) else one for one in hosts]
            shape = (self._blocks, self._kernel.threads, 0, self._shared)
            self._kernel.function[shape](*flat)
            return
        self._config.stream = stream
        code = self._launcher(*self._call)
        if code:
            _check((driver.CUresult(code),))


def _number(argument: Any) -> int:
    return argument if isinstance(argument, int) else argument.pointer
