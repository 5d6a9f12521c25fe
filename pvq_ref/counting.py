"""Counting the points of the pyramid (spec section 2).

    V(n,k) = V(n-1,k) + V(n,k-1) + V(n-1,k-1),    V(n,k) = U(n,k) + U(n,k+1)

Fischer, "A pyramid vector quantizer", IEEE Trans. Inf. Theory 32(4), 1986; U is RFC 6716's.
Everything that depends on the constraint sum |y_i| = k is here: another constraint brings other
tables.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from pvq_ref import words
from pvq_ref.errors import CapacityError, DomainError
from pvq_ref.jit import kernel
from pvq_ref.words import Words

MAX_NUMBER = (1 << 31) - 1  # of n and k (spec section 12)
MAX_TABLE_BYTES = 1 << 28  # above this a table is refused
MAX_COUNTS = 1 << 22  # counts in a table, which are made as Python integers first
MAX_STEPS = 1 << 34  # products of words that prefix sums take; (128, 6139), 8 bits, takes 2^33.1
MAX_PREFIX_BYTES = 1 << 26  # above this prefix sums are stored at every second, fourth, … a only
ORDERS = ("fischer", "opus", "blocked")


def checked_integer(name: str, value: object, least: int, most: int = MAX_NUMBER) -> int:
    """Return an integer argument, or raise DomainError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise DomainError(f"{name} must be an integer, got {value!r}")
    if not least <= value <= most:
        raise DomainError(f"{name} must be from {least} to {most}, got {value}")
    return int(value)


def count(n: int, k: int) -> int:
    """Count the points of the pyramid: V(n,k), exactly.

    Parameters: n >= 0, the dimension; k >= 0, the pulses. Raises DomainError outside that.
    Closed form of spec section 2 (Fischer 1986).

    >>> count(8, 4)
    2816
    >>> count(32, 56).bit_length()
    101
    """
    n = checked_integer("n", n, 0)
    k = checked_integer("k", k, 0)
    if k == 0:
        return 1
    total, term = 0, 2 * n  # term j is 2^j C(n,j) C(k-1,j-1)
    for j in range(1, min(n, k) + 1):
        total += term
        term = term * 2 * (n - j) * (k - j) // ((j + 1) * j)
    return total


def bits(n: int, k: int) -> int:
    """Return B(n,k), the width in bits of an index (spec section 1)."""
    return (count(n, k) - 1).bit_length()


def word_count(n: int, k: int) -> int:
    """Return the number of 64-bit words of an index (spec section 3.4)."""
    return max(1, -(-bits(n, k) // 64))


@lru_cache(4096)
def most_pulses(n: int, width: int) -> int:
    """Return the greatest k >= 1 with B(n,k) <= width, or 0 if there is none.

    One coordinate has two points whatever k is: there it is 1.
    """
    if bits(n, 1) > width:
        return 0
    if n == 1:
        return 1
    low, high = 1, 2  # low fits; high doesn't, or is beyond what can be stored
    while high <= MAX_NUMBER and bits(n, high) <= width:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bits(n, middle) <= width else (low, middle)
    return low


def _half_counts(n: int, k: int) -> list[list[int]]:
    """Return U(l,j) for l = 0 … n and j = 0 … k+1."""
    rows = [[1] + [0] * (k + 1)]
    for _ in range(n):
        above = rows[-1]
        rows.append(list(accumulate((above[j] + above[j + 1] for j in range(k + 1)), initial=0)))
    return rows


@dataclass(frozen=True)
class Tables:
    """Counts for the kernels of one pyramid and order; the last axis is words.

    low[l,j] and high[l,j] are what a coordinate adds to the rank when l coordinates are left and j
    pulses stay for the others (spec sections 3.1 and 3.2): for fischer 2 U(l,j) and V(l,j), for
    opus U(l,j) twice, with l up to the block size only for blocked.

    For blocked, level i splits off block i. prefix[start[i,k'] + a // stride] is the sum over j < a
    of V(b,j) V(m,k'-j), m the coordinates after the block; rest[i,j] is V(m,j).
    """

    n: int
    k: int
    block: int
    low: Words
    high: Words
    prefix: Words
    start: NDArray[np.int64]
    rest: Words
    stride: int
    limit: Words  # V(n,k)

    @property
    def words(self) -> int:
        """Words of an index."""
        return int(self.prefix.shape[1]) if self.block else int(self.low.shape[2])


@kernel
def _fill_prefixes(
    prefix: Words, start: NDArray[np.int64], rest: Words, inner: Words, stride: int
) -> None:
    """Fill prefix sums; inner (k+2, words) holds V(b,j)."""
    total = np.zeros(prefix.shape[1], np.uint64)
    for level in range(start.shape[0]):
        for k in range(start.shape[1]):
            total[:] = np.uint64(0)
            for a in range(k + 1):
                if a % stride == 0:
                    prefix[start[level, k] + a // stride] = total
                words.add_product(total, inner[a], rest[level, k - a])


def _refuse_above_limit(n: int, k: int, size: int) -> None:
    if size > MAX_TABLE_BYTES:
        raise CapacityError(
            f"the tables of n = {n}, k = {k} must fit in {MAX_TABLE_BYTES >> 20} MiB, "
            f"got {size >> 20} MiB"
        )


def _prefix_count(levels: int, k: int, stride: int) -> int:
    """Return how many prefix sums there are."""
    whole, part = divmod(k + 1, stride)
    return levels * (stride * whole * (whole + 1) // 2 + part * (whole + 1))


def check_tables(n: int, k: int, order: str, block: int) -> int:
    """Return the stride of the prefix sums that `tables` would store; count nothing else.

    Raises DomainError for an unknown order, CapacityError for tables above MAX_TABLE_BYTES.
    """
    if order not in ORDERS:
        raise DomainError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
    _refuse_above_limit(n, k, 16 * (n + 1) * (k + 2))  # before V itself becomes too large
    if (n + 1) * (k + 2) > MAX_COUNTS:
        raise CapacityError(
            f"the tables of n = {n}, k = {k} must have at most {MAX_COUNTS} counts, "
            f"got {(n + 1) * (k + 2)}"
        )
    size = 8 * word_count(n, k)
    _refuse_above_limit(n, k, 2 * size * (n + 1) * (k + 2))
    levels = -(-n // block) - 1 if order == "blocked" else 0
    steps = levels * k * k // 2 * word_count(min(n, block), k) * size // 8 if levels else 0
    if steps > MAX_STEPS:
        raise CapacityError(
            f"the prefix sums of n = {n}, k = {k} must take at most {MAX_STEPS} steps, got {steps}"
        )
    stride = 1
    while _prefix_count(levels, k, stride) * size > MAX_PREFIX_BYTES and stride <= k:
        stride *= 2
    _refuse_above_limit(n, k, _prefix_count(levels, k, stride) * size)
    return stride


@lru_cache(64)
def tables(n: int, k: int, order: str, block: int) -> Tables:
    """Return the tables of P(n,k) for one of the orders; block counts for blocked only.

    Raises DomainError for an unknown order, CapacityError for tables above MAX_TABLE_BYTES.
    """
    stride = check_tables(n, k, order, block)
    blocked = order == "blocked" and n > block
    depth = block if blocked else n
    inner_words, index_words = word_count(depth, k), word_count(n, k)
    half = _half_counts(n, k)
    full = [[row[j] + row[j + 1] for j in range(k + 1)] + [0] for row in half]

    def table(rows: list[list[int]], width: int) -> Words:
        flat = words.from_integers([value for row in rows for value in row], width)
        return flat.reshape(len(rows), k + 2, width)

    if order == "opus":
        low = high = table(half, index_words)
    else:
        low = table([[2 * u for u in row[:-1]] + [0] for row in half[: depth + 1]], inner_words)
        high = table(full[: depth + 1], inner_words)
    limit = words.from_integers([count(n, k)], index_words)[0]
    if not blocked:
        none = np.zeros((0, index_words), np.uint64)
        return Tables(n, k, 0, low, high, none, np.zeros((0, k + 1), np.int64), low[:0], 1, limit)

    after = list(range(n - block, 0, -block))  # coordinates left after each block that is split off
    rest = table([full[m] for m in after], index_words)
    runs = np.arange(k + 1, dtype=np.int64) // stride + 1
    starts = np.concatenate(([0], np.cumsum(np.tile(runs, len(after)))[:-1]))
    start = np.ascontiguousarray(starts.reshape(len(after), k + 1))
    prefix = np.zeros((_prefix_count(len(after), k, stride), index_words), np.uint64)
    _fill_prefixes(prefix, start, rest, high[block], stride)
    return Tables(n, k, block, low, high, prefix, start, rest, stride, limit)
