"""Kernels, compiled by Numba and launched by the driver; in the simulator, by Numba.

Numba's own launch path takes longer than the kernels run.
"""

import ctypes
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
from numba import cuda

from pvq_ref.compiler import source_hash
from pvq_ref.cuda.device import attribute_of, checked, use
from pvq_ref.cuda.intrinsics import SIMULATED
from pvq_ref.jit import cache_directory

if not SIMULATED:
    from cuda.bindings import driver
    from numba.cuda import types


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
    return not SIMULATED and attribute_of("COMPUTE_CAPABILITY_MAJOR") >= 9


def has_tensor_cores() -> bool:
    """Whether warps multiply tiles of int8 of 16 by 32 by 8, and copy to shared memory in the
    background (compute capability 8).
    """
    return not SIMULATED and attribute_of("COMPUTE_CAPABILITY_MAJOR") >= 8


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
            self.function: Any = cuda.jit(_simulated(function))
            return
        use()
        capability = (
            attribute_of("COMPUTE_CAPABILITY_MAJOR"),
            attribute_of("COMPUTE_CAPABILITY_MINOR"),
        )
        text = kept_ptx(name, function, arguments, threads, capability)
        entry = text.split(".entry", 1)[1].split("(", 1)[0].strip()
        self._module = checked(driver.cuModuleLoadData(text.encode() + b"\0"))
        loaded = checked(driver.cuModuleGetFunction(self._module, entry.encode()))
        if self.shared > 48 << 10:
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            checked(driver.cuFuncSetAttribute(loaded, attribute, self.shared))
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


def _simulated(function: Callable[..., None]) -> Callable[..., None]:
    """Return the kernel for the simulator, which gives its `cuda` to the module of a kernel alone.

    The modules of the functions that the kernel calls get it here, from each thread and for good:
    to take it away when one thread has returned would take it from those that haven't.
    """

    def kernel(*arguments: Any) -> None:
        for name, module in list(sys.modules.items()):
            if name.startswith("pvq_ref.cuda.") and hasattr(module, "cuda"):
                vars(module)["cuda"] = cuda
        function(*arguments)

    return kernel


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
            checked((driver.CUresult(code),))


def _number(argument: Any) -> int:
    return argument if isinstance(argument, int) else argument.pointer
