"""Numba behind `pvq_ref.jit`, imported when the first kernel is called.

Numba's own `cache=True` watches only the file that a kernel stands in, and raises where no
directory is writable. Here the stamp of a cached kernel is a hash over all files of the package, so
that an edit anywhere recompiles it, and where nothing is writable kernels are compiled anew, with a
warning.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.runtime import rtsys

from pvq_ref.jit import PACKAGE, cache_directory

ALLOCATING = frozenset({"empty", "zeros"})  # the functions by which kernels allocate arrays


@lru_cache(1)
def source_hash() -> str:
    """Return a hash over every Python file of the package, names included."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class _Locator(_CacheLocator):  # type: ignore[misc]
    """Where a kernel's cache lies, and what it depends on."""

    def __init__(self, py_func: Callable[..., Any]) -> None:
        self._line = py_func.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        return str(cache_directory())

    def get_source_stamp(self) -> str:
        return source_hash()

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> "_Locator":
        return cls(py_func)


class _Impl(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _Cache(FunctionCache):  # type: ignore[misc]
    _impl_class = _Impl

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return a kernel from the cache, or None.

        Numba's own method first imports all that compiling may need, which takes longer than all
        kernels together. Compiling does that itself.
        """
        rtsys.initialize(target_context)  # for kernels that allocate
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


def dispatcher(function: Callable[..., Any], inline: bool, fused: bool) -> Any:
    """Return Numba's dispatcher of a kernel: without Python objects and lock, cached on disk.

    fused lets the compiler contract a product and a sum into one instruction.
    """
    if inline:
        return numba.njit(inline="always")(function)
    # What allocates nothing need not count references, which takes a while to compile.
    allocates = not ALLOCATING.isdisjoint(function.__code__.co_names)
    compiled: Any = numba.njit(
        nogil=True, error_model="numpy", no_cfunc_wrapper=True, _nrt=allocates,
        fastmath={"contract"} if fused else False,
    )(function)  # fmt: skip
    if cache_directory() is not None:
        compiled._cache = _Cache(function)
    return compiled
