"""How much memory may be used, and how many rows threads therefore take at a time.

A tensor is never in memory as a whole; rows go through in ranges. What doesn't fit the limit makes
ranges smaller, then threads fewer. Results depend on neither.
"""

import re
import sys
from dataclasses import dataclass

from pvq_ref.counting import checked_integer
from pvq_ref.errors import DomainError
from pvq_ref.groups import rows_per_range
from pvq_ref.parallel import thread_count

DEFAULT_MEMORY = 256 << 20
FIXED = 96 << 20  # what doesn't depend on threads: kernels and their tables, a block, file pieces
PER_WEIGHT = 80  # bytes for each weight of a range under way, results that wait included
UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def memory_size(text: str) -> int:
    """Return the bytes that a size stands for: a number, K, M, G or T after it (powers of 1024).

    Raises DomainError.

    >>> memory_size("256M")
    268435456
    """
    found = re.fullmatch(r"([0-9]{1,15})([KMGT]?)(i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise DomainError(f"max_memory must be a size such as 256M or 1G, got {text!r}")
    return int(found[1]) << UNITS[found[2].upper()]


@dataclass(frozen=True)
class Limits:
    """Threads, all if None, and bytes of memory beyond those of the program itself."""

    threads: int | None = None
    memory: int = DEFAULT_MEMORY

    def __post_init__(self) -> None:
        thread_count(self.threads)
        checked_integer("max_memory", self.memory, FIXED, sys.maxsize)

    def ranges(self, rows: int, cols: int) -> tuple[int, int]:
        """Return the rows of a range, a multiple of eight, and the threads, of a matrix.

        Raises DomainError if one thread with eight rows takes more than is allowed.
        """
        weights = (self.memory - FIXED) // PER_WEIGHT
        least = min(8, max(1, rows)) * cols
        if least > weights:
            raise DomainError(
                f"max_memory must be {FIXED + least * PER_WEIGHT} or more for rows of {cols} "
                f"columns, got {self.memory}"
            )
        threads = min(thread_count(self.threads), max(1, weights // max(1, 8 * cols)))
        step = max(8, weights // threads // max(1, cols) // 8 * 8)
        return min(step, rows_per_range(cols)), threads
