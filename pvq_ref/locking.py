"""One process for one output: a lock that dies with its process.

`flock` locks an open file, so the lock is gone however the process ends. The file OUT.lock stays
behind after `kill -9`; that locks nobody out.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pvq_ref.errors import OutputError

# A file system without locks; one run at a time is then up to the user.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


def _try_lock(file: int, path: Path, how: int) -> bool:
    """Lock an open file; return False if its name leads to another file by now."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def locked(target: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of an output, alone or with others that share it. Raises OutputError."""
    path = target.with_name(target.name + ".lock")
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        while not _try_lock(file, path, how):
            os.close(file)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except BlockingIOError:
        os.close(file)
        raise OutputError(
            f"{target} must be written by one run at a time, but another is"
        ) from None
    except OSError as error:
        raise OutputError(f"{target} can't be written: {error}") from error
    try:
        yield
    finally:
        if not shared:  # others that share it would go on with a file that has no name
            path.unlink(missing_ok=True)
        os.close(file)
