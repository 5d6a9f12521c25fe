"""A second process that compiles kernels too, the first time on a machine.

Numba compiles one kernel at a time in a process. What the exact search and the calls around it
take, and what the orders of vectors and the other searches take, are about equal parts.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pvq_ref.jit import PACKAGE, UNCOMPILED, cache_directory, is_cold
from pvq_ref.parallel import thread_count

_CODE = """
import sys
sys.path.insert(0, sys.argv[1])
from pvq_ref.jit import compilations
from pvq_ref.warmup import warm_up_without_search
warm_up_without_search()
print(compilations()[0])
"""


@contextmanager
def accompanied(threads: int | None = None) -> Iterator[subprocess.Popen[bytes] | None]:
    """Have all kernels that need no exact search compiled by a second process meanwhile.

    Gives that process, which prints how many it compiled, or None where it is of no use: kernels
    are there, can't be kept, or threads (all by default) are too few. It ends with the context.
    Should it fail, this process compiles what it lacks.
    """
    useful = is_cold() and cache_directory() is not None and thread_count(threads) > 1
    if UNCOMPILED or not useful or not sys.executable:
        yield None
        return
    command = [sys.executable, "-c", _CODE, str(PACKAGE.parent)]
    none, pipe = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(command, stdin=none, stdout=pipe, stderr=none) as process:
        try:
            yield process
        finally:
            process.terminate()
