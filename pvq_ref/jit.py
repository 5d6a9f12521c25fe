"""The one decorator that compiles kernels.

Numba's own `cache=True` watches only the file that a kernel stands in, and raises where no
directory is writable. Here the stamp of a cached kernel is a hash over all files of the package, so
that an edit anywhere recompiles it, and where nothing is writable kernels are compiled anew, with a
warning.
"""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

Kernel = TypeVar("Kernel", bound=Callable[..., Any])
PACKAGE = Path(__file__).parent


@lru_cache(1)
def _source_hash() -> str:
    """Return a hash over every Python file of the package, names included."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _writable(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError:
        return False
    return True


@lru_cache(1)
def cache_directory() -> Path | None:
    """Return the directory of compiled kernels, or None where none can be written."""
    # Kernels with and without bounds checks are different code under the same key.
    checked = "kernels-checked" if config.BOUNDSCHECK else "kernels"
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pvq_ref" / checked
    choices = [PACKAGE / "__pycache__" / checked, user]
    if config.CACHE_DIR:
        choices = [Path(config.CACHE_DIR) / "pvq_ref" / checked]
    for choice in choices:
        if _writable(choice):
            return choice
    warnings.warn(
        "no directory is writable for compiled kernels, so each process compiles them anew; "
        "set NUMBA_CACHE_DIR to a writable directory",
        RuntimeWarning,
        stacklevel=2,
    )
    return None


def is_cold() -> bool:
    """Whether no kernel has been compiled yet into the cache directory."""
    directory = cache_directory()
    return directory is None or not any(directory.glob("*.nbi"))


class _Locator(_CacheLocator):  # type: ignore[misc]
    """Where a kernel's cache lies, and what it depends on."""

    def __init__(self, py_func: Callable[..., Any]) -> None:
        self._line = py_func.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        return str(cache_directory())

    def get_source_stamp(self) -> str:
        return _source_hash()

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> "_Locator":
        return cls(py_func)


class _Impl(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _Cache(FunctionCache):  # type: ignore[misc]
    _impl_class = _Impl


def kernel(function: Kernel) -> Kernel:
    """Compile a function of arrays and scalars: no Python objects, no lock, cached on disk."""
    compiled: Any = numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(function)
    if not config.DISABLE_JIT and cache_directory() is not None:
        compiled._cache = _Cache(function)
    return compiled  # type: ignore[no-any-return]


def inlined(function: Kernel) -> Kernel:
    """Compile a function into each kernel that calls it, never on its own.

    A call passes an array as seven numbers, which can take longer than what is then done.
    """
    compiled: Any = numba.njit(inline="always")(function)
    return compiled  # type: ignore[no-any-return]


def wrapping_kernel(function: Kernel) -> Kernel:
    """Compile a function whose unsigned arithmetic is meant to wrap around.

    Uncompiled, NumPy would warn of the overflow, which everywhere else is a defect.
    """
    if config.DISABLE_JIT:
        return np.errstate(over="ignore")(function)
    return kernel(function)
