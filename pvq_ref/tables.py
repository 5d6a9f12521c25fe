"""The tables that ranking and unranking look things up in (spec sections 2 and 3).

Each order's rank is a sum of counts, and unranking finds the same counts again: a number `left`
falls between two of them. So a table is a set of sorted rows, its edges, one for each level and
number of pulses left:

    fischer   2 U(l,0), V(l,0), 2 U(l,1), V(l,1), …, 2 U(l,j), V(l,j)   l coordinates left
    opus      U(l,0), U(l,1), …, U(l,j+1)                               l coordinates left
    blocked   sum over i < a of V(b,i) V(m,j-i), a = 0 … j+1            m after the level's block

The last edge of a row is above all that is looked for in it. In the first two orders the row of j
pulses is the beginning of that of k.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from pvq_ref import words
from pvq_ref.counting import ORDERS, bits, count, half_counts, word_count
from pvq_ref.errors import CapacityError, DomainError
from pvq_ref.finding import Finder, Guesses, Starts, guesses
from pvq_ref.jit import kernel
from pvq_ref.words import Words

MAX_TABLE_BYTES = 1 << 27  # above this a table is refused
MAX_COUNTS = 1 << 20  # counts in a table, which are made as Python integers first
FREE_COUNTS = 1 << 16  # a table of more is made only for what compression uses: 8 bits a weight
MAX_RATE = 8
MAX_STEPS = 1 << 34  # products of words that prefix sums take; (128, 6139), 8 bits, takes 2^33.1
MAX_PREFIX_BYTES = 1 << 26  # above this prefix sums are stored at every second, fourth, … a only


@dataclass(frozen=True)
class Edges:
    """Sorted rows of numbers: `step · j + 1` from start[level,j] on, and one above them all."""

    values: Words  # (entries, words)
    start: Starts  # (levels, k+1)
    step: int
    widths: NDArray[np.int64]  # (levels,): words that the numbers of a level fill

    @property
    def flat(self) -> Words:
        """The values in one row, which kernels look up faster: entry · words + word."""
        return self.values.reshape(-1)

    @cached_property
    def low(self) -> Words:
        """The least significant words, (entries,)."""
        return np.ascontiguousarray(self.values[:, 0])

    @cached_property
    def guesses(self) -> Guesses:
        """The tables of `pvq_ref.finding`, made when they are first asked for."""
        return guesses(self.values, self.start, self.step)

    @cached_property
    def finder(self) -> Finder:
        """All that `pvq_ref.finding.take` needs."""
        return (self.low, self.flat, self.start, self.widths, *self.guesses)


@dataclass(frozen=True)
class Tables:
    """The tables of one pyramid and order; the last axis of counts is words.

    counts holds the edges of the order itself; for blocked those of fischer, for the coordinates
    inside a block. There sums holds the edges between block sums a, of which only every stride-th
    is stored where they would take too much memory, and rest[level,j] is V(m,j).
    """

    n: int
    k: int
    block: int  # 0 for the orders that have none, and where one block is all
    counts: Edges
    sums: Edges
    rest: Words
    stride: int
    limit: Words  # V(n,k)

    @property
    def words(self) -> int:
        """Words of an index."""
        return int(self.limit.size)

    @cached_property
    def last(self) -> Words:
        """V(n,k) - 1."""
        last: Words = self.limit.copy()
        words.subtract(last, np.ones(1, np.uint64))
        return last

    @cached_property
    def sizes(self) -> Words:
        """V(b,a) for a = 0 … k, one row of words each."""
        first = self.block * (2 * self.k + 2)
        return np.ascontiguousarray(self.counts.values[first + 1 : first + 2 * self.k + 2 : 2])


@kernel
def _fill_prefixes(prefix: Words, start: Starts, rest: Words, sizes: Words, stride: int) -> None:
    """Fill prefix sums, and after those of each row their total."""
    total = np.zeros(prefix.shape[1], np.uint64)
    for level in range(start.shape[0]):
        for j in range(start.shape[1]):
            base = int(start[level, j])
            total[:] = np.uint64(0)
            for a in range(j + 1):
                if a % stride == 0:
                    words.copy(prefix[base + a // stride], total)
                words.add_product(total, sizes[a], rest[level, j - a])
            words.copy(prefix[base + j // stride + 1], total)


def _refuse_above_limit(n: int, k: int, size: int) -> None:
    if size > MAX_TABLE_BYTES:
        raise CapacityError(
            f"the tables of n = {n}, k = {k} must fit in {MAX_TABLE_BYTES >> 20} MiB, "
            f"got {size >> 20} MiB"
        )


def _prefix_count(levels: int, k: int, stride: int) -> int:
    """Return how many prefix sums there are, totals included."""
    whole, part = divmod(k + 1, stride)
    return levels * (stride * whole * (whole + 1) // 2 + part * (whole + 1) + k + 1)


def _stored_bytes(n: int, k: int, order: str, block: int) -> int:
    """Return the bytes of a table, prefix sums and guesses aside."""
    if order != "blocked" or n <= block:
        return 8 * word_count(n, k) * (n + 1) * (1 if order == "opus" else 2) * (k + 1)
    levels = -(-n // block) - 1
    inside = 8 * word_count(block, k) * (block + 1) * 2 * (k + 1)
    return inside + 8 * word_count(n, k) * levels * (k + 1)


def check_tables(n: int, k: int, order: str, block: int) -> int:
    """Return the stride of the prefix sums that `tables` would store; count nothing else.

    Raises DomainError for an unknown order, CapacityError for tables above MAX_TABLE_BYTES.
    """
    if order not in ORDERS:
        raise DomainError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
    total = (n + 1) * (k + 2)
    _refuse_above_limit(n, k, 16 * total)  # before V itself becomes too large
    if total > MAX_COUNTS:
        raise CapacityError(
            f"the tables of n = {n}, k = {k} must have at most {MAX_COUNTS} counts, got {total}"
        )
    if total > FREE_COUNTS and (n < MAX_RATE or bits(n, k) > MAX_RATE * n):
        raise CapacityError(
            f"the tables of n = {n}, k = {k} must have at most {FREE_COUNTS} counts above "
            f"{MAX_RATE} bits a weight, got {total}"
        )
    size = 8 * word_count(n, k)
    stored = _stored_bytes(n, k, order, block)
    _refuse_above_limit(n, k, stored)
    levels = -(-n // block) - 1 if order == "blocked" else 0
    steps = levels * k * k // 2 * word_count(min(n, block), k) * size // 8 if levels else 0
    if steps > MAX_STEPS:
        raise CapacityError(
            f"the prefix sums of n = {n}, k = {k} must take at most {MAX_STEPS} steps, got {steps}"
        )
    stride = 1
    while _prefix_count(levels, k, stride) * size > MAX_PREFIX_BYTES and stride <= k:
        stride *= 2
    _refuse_above_limit(n, k, stored + _prefix_count(levels, k, stride) * size)
    return stride


def _widths(largest: list[int]) -> NDArray[np.int64]:
    return np.array([max(1, -(-number.bit_length() // 64)) for number in largest], np.int64)


def _edges(half: list[int], level: int, k: int, order: str) -> list[int]:
    """Return a row of edges of fischer or opus; half holds U(level,j) for j = 0 … k+1."""
    if order == "opus":
        return half
    if level == 0:
        return [0] * (2 * k + 2)  # no coordinate is left there, so nothing is looked up
    return [edge for j in range(k + 1) for edge in (2 * half[j], half[j] + half[j + 1])]


def _count(
    n: int, k: int, order: str, depth: int, after: list[int], width: int
) -> tuple[Edges, Words]:
    """Return the edges of `depth` coordinates, and V(m,j) for m in `after`: (…, k+1, words).

    Python's integers take more memory than words, so only one row of them is there at a time.
    """
    step = 1 if order == "opus" else 2
    per_row, words_inside = step * (k + 1) + step % 2, word_count(depth, k)
    flat = np.empty(((depth + 1) * per_row, words_inside), np.uint64)
    rest = np.empty((len(after), k + 1, width), np.uint64)
    largest = []
    for level, half in enumerate(half_counts(max([depth, *after]), k)):
        if level <= depth:
            place = slice(level * per_row, (level + 1) * per_row)
            flat[place] = words.from_integers(_edges(half, level, k, order), words_inside)
            largest.append(half[k] + half[k + 1])
        if level in after:
            full = [half[j] + half[j + 1] for j in range(k + 1)]
            rest[after.index(level)] = words.from_integers(full, width)
    start = np.arange(depth + 1, dtype=np.uint64)[:, None] * np.uint64(per_row)
    start = np.ascontiguousarray(np.broadcast_to(start, (depth + 1, k + 1)))
    return Edges(flat, start, step, _widths(largest)), rest


def tables(n: int, k: int, order: str, block: int) -> Tables:
    """Return the tables of P(n,k) for one of the orders; block counts for blocked only.

    Raises DomainError for an unknown order, CapacityError for tables above MAX_TABLE_BYTES. Few of
    the large ones are kept: those of whole groups and of tails, which threads take in turns.
    """
    kept = _large_tables if (n + 1) * (k + 2) > FREE_COUNTS else _small_tables
    return kept(n, k, order, block)


def _tables(n: int, k: int, order: str, block: int) -> Tables:
    stride = check_tables(n, k, order, block)
    blocked = order == "blocked" and n > block
    depth = block if blocked else n
    width = word_count(n, k)
    after = list(range(n - block, 0, -block)) if blocked else []  # coordinates after each block
    counts, rest = _count(n, k, order, depth, after, width)
    runs = np.arange(k + 1, dtype=np.uint64) // np.uint64(stride) + np.uint64(2)
    ends = np.cumsum(np.tile(runs, len(after)), dtype=np.uint64)
    start = np.concatenate((np.zeros(1, np.uint64), ends))[:-1].reshape(len(after), k + 1)
    prefix = np.zeros((_prefix_count(len(after), k, stride) if blocked else 0, width), np.uint64)
    sums = Edges(prefix, start, 1, _widths([count(m + block, k) for m in after]))
    limit = words.from_integers([count(n, k)], width)[0]
    table = Tables(n, k, block if blocked else 0, counts, sums, rest, stride, limit)
    if blocked:
        _fill_prefixes(prefix, start, rest, table.sizes, stride)
    return table


_large_tables = lru_cache(2)(_tables)
_small_tables = lru_cache(64)(_tables)


def clear() -> None:
    """Forget all tables that are kept."""
    _large_tables.cache_clear()
    _small_tables.cache_clear()
