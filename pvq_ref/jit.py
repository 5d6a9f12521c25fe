"""The one decorator that compiles kernels.

Importing Numba takes as long as reading a model's headers, so nothing here does: a kernel is a
`_Kernel` until its first call, and `pvq_ref.compiler` does the rest. Compiled code is kept in a
directory (`cache_directory`), and is never older than any file of the package.
"""

import os
import tempfile
import warnings
from collections.abc import Callable
from functools import lru_cache, update_wrapper
from importlib import import_module
from pathlib import Path
from threading import RLock, Thread
from typing import Any, TypeVar

Kernel = TypeVar("Kernel", bound=Callable[..., Any])
PACKAGE = Path(__file__).parent
_LOCK = RLock()


def _is_set(name: str) -> bool:
    """Whether one of Numba's variables is set to a number other than 0."""
    return os.environ.get(name, "0").strip() not in ("", "0")


UNCOMPILED = _is_set("NUMBA_DISABLE_JIT")


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
    checked = "kernels-checked" if _is_set("NUMBA_BOUNDSCHECK") else "kernels"
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pvq_ref" / checked
    choices = [PACKAGE / "__pycache__" / checked, user]
    if os.environ.get("NUMBA_CACHE_DIR"):
        choices = [Path(os.environ["NUMBA_CACHE_DIR"]) / "pvq_ref" / checked]
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


class _Kernel:
    """A kernel, which becomes Numba's dispatcher when it is first called or asked for anything.

    Numba takes it for that dispatcher inside other kernels, because it asks for `_numba_type_`.
    """

    def __init__(self, function: Callable[..., Any], inline: bool, fused: bool = False) -> None:
        update_wrapper(self, function)
        self._function, self._inline, self._fused = function, inline, fused
        self._made: Any = None
        _KERNELS.append(self)

    def _dispatcher(self) -> Any:
        if self._made is None:
            with _LOCK:
                if self._made is None:
                    from pvq_ref.compiler import dispatcher

                    self._made = dispatcher(self._function, self._inline, self._fused)
        return self._made

    def __call__(self, *args: Any) -> Any:
        return (self._made or self._dispatcher())(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dispatcher(), name)


_KERNELS: list[_Kernel] = []


def load_ahead() -> None:
    """Import Numba in a thread, for a caller who has files to read before the first kernel."""
    if not UNCOMPILED:
        Thread(target=import_module, args=("pvq_ref.compiler",), daemon=True).start()


def compilations() -> tuple[int, int]:
    """Return how many kernels this process has compiled, and how many it took from the cache.

    Each counts once for each combination of types that it was called with.
    """
    made = [one._made.stats for one in _KERNELS if one._made is not None and not one._inline]
    compiled = sum(sum(stats.cache_misses.values()) for stats in made)
    return compiled, sum(sum(stats.cache_hits.values()) for stats in made)


def kernel(function: Kernel) -> Kernel:
    """Compile a function of arrays and scalars: no Python objects, no lock, cached on disk."""
    return function if UNCOMPILED else _Kernel(function, inline=False)  # type: ignore[return-value]


def inlined(function: Kernel) -> Kernel:
    """Compile a function into each kernel that calls it, never on its own.

    A call passes an array as seven numbers, which can take longer than what is then done.
    """
    return function if UNCOMPILED else _Kernel(function, inline=True)  # type: ignore[return-value]


def fused_kernel(function: Kernel) -> Kernel:
    """Compile a kernel whose products are exact: adding them may be one instruction with them."""
    return function if UNCOMPILED else _Kernel(function, inline=False, fused=True)  # type: ignore[return-value]


def wrapping_kernel(function: Kernel) -> Kernel:
    """Compile a function whose unsigned arithmetic is meant to wrap around.

    Uncompiled, NumPy would warn of the overflow, which everywhere else is a defect.
    """
    if UNCOMPILED:
        import numpy as np

        return np.errstate(over="ignore")(function)
    return kernel(function)
