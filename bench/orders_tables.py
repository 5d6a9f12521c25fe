"""The tables of bench/orders.py, and the rank of the order that the blocked one is compared with.

Both orders split m coordinates with j pulses into a first part of f coordinates with a pulses and a
second one, and number first by a (spec section 3.3):

    I = sum over i < a of V(f,i) V(m-f,j-i)  +  the two parts' own ranks as digits of one number.

    blocked   f = 4,   digits: rank of the second part, rank of the first, below V(f,a)
    tree      f = m/2, digits: rank of the first part, rank of the second, below V(m-f,j-a)

Four coordinates are a leaf, numbered as in the order fischer, and looked up. So a decoder finds a
among sorted sums, its edges, and divides; a `Node` says where it finds what it needs in one buffer,
which kernels see as bytes, as words of 32 bits and as words of 64.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pvq_ref import count, rank, unrank

LEAF = 4  # coordinates that are looked up
CELL_BITS = 6  # of the highest bits of a number, which choose the first guess
HOT_PULSES = 9  # leaves of at most so many pulses are in the buffer too: 22 KiB
ORDERS = ("blocked", "tree")

volume = lru_cache(None)(count)  # V(n,k)


@lru_cache(None)
def edges(m: int, first: int, j: int) -> tuple[int, ...]:
    """Return the sums over i < a of V(f,i) V(m-f,j-i) for a = 0 … j+1; the last is V(m,j)."""
    sums = [0]
    for a in range(j + 1):
        sums.append(sums[-1] + volume(first, a) * volume(m - first, j - a))
    return tuple(sums)


def tree_rank(pulses: Sequence[int], ranks: Sequence[int]) -> int:
    """Return the rank in the tree's order of a vector given by pulses and ranks of its leaves."""
    if len(pulses) == 1:
        return ranks[0]
    half, m = len(pulses) // 2, LEAF * len(pulses)
    a, rest = sum(pulses[:half]), sum(pulses[half:])
    first, second = (tree_rank(pulses[s], ranks[s]) for s in (slice(half), slice(half, None)))
    return edges(m, m // 2, a + rest)[a] + first * volume(m // 2, rest) + second


def tree_ranks(y: NDArray[np.int32]) -> list[int]:
    """Return the ranks of vectors (groups, n), n four times a power of two, in the tree's order."""
    leaves = np.ascontiguousarray(y.reshape(-1, LEAF))
    pulses = np.abs(leaves).sum(axis=1)
    ranks = np.empty(len(leaves), np.int64)
    for a in np.unique(pulses):
        ranks[pulses == a] = rank(leaves[pulses == a], "fischer")[:, 0].astype(np.int64)
    shape = (len(y), -1)
    pairs = zip(pulses.reshape(shape).tolist(), ranks.reshape(shape).tolist(), strict=True)
    return [tree_rank(*pair) for pair in pairs]


@dataclass(frozen=True)
class Divisors:
    """Where V(part,i), i = 0 … k, and what divisions by it take begin in the buffer.

    Long ones have some number of 32 bits or more; then remainders and short inverses are missing,
    else shifts and reciprocals.
    """

    is_long: bool
    sizes: int  # 64 bits if long, else 32
    inverses: int  # floor(2^64 / size), or 2^64 - 1 for size 1
    short_inverses: int  # floor(2^32 / size), or 2^32 - 1 for size 1
    remainders: int  # 2^64 - inverse · size, 32 bits
    shifts: int  # how far left the highest bit of a size goes to place 63, bytes
    reciprocals: int  # floor((2^128 - 1) / (size << shift)) - 2^64


@dataclass(frozen=True)
class Node:
    """A split of m coordinates: how wide its numbers are, and where its tables begin."""

    m: int
    by_first: bool  # whether the divisor is V(f,a), the first part's, or else the second's
    is_root: bool  # then there is the row of k pulses alone, else those of 0 … k
    width: int  # 32, 64 or 128 bits, in which V(m,k) fits; 32 leave one to spare
    dropped: int  # lowest bits that don't count for a guess: all above 64
    is_narrower: bool  # whether quotients fit in 64 bits
    shifts: int  # by row: further bits that don't count, bytes
    guesses: int  # by row and cell: the last edge not above the cell's smallest number, bytes
    lows: int  # edges, or their lowest 64 bits; the row of j pulses is j (j+3) / 2 further on
    highs: int  # the rest of their bits where width is 128, in 64 bits for a root, else in 32
    divisors: Divisors


@dataclass(frozen=True)
class Plan:
    """All that a decoder of one pyramid and order needs to know."""

    n: int
    k: int
    order: str
    nodes: tuple[Node, ...]  # from the root down, one of each size
    hot_leaves: int  # words of four int8
    hot: int  # how many
    first: int  # by pulses: the first leaf, 32 bits
    buffer: NDArray[np.uint8]
    leaves: NDArray[np.uint32]

    @property
    def words(self) -> int:
        """Words of 32 bits of an index: two, or four."""
        return 4 if self.nodes[0].width == 128 else 2


class Buffer:
    """Arrays one behind the other, each from a multiple of eight bytes on."""

    def __init__(self) -> None:
        self._raw = bytearray()

    def add(self, values: Sequence[int] | NDArray[np.unsignedinteger], dtype: type) -> int:
        """Append an array; return where it begins, in elements."""
        begin = len(self._raw)
        self._raw += np.array(values, dtype).tobytes()
        self._raw += bytes(-len(self._raw) % 8)
        return begin // np.dtype(dtype).itemsize

    def array(self) -> NDArray[np.uint8]:
        return np.frombuffer(bytes(self._raw), np.uint8)


@lru_cache(2)
def leaves(k: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return all leaves of 0, 1, … k pulses, four int8 a word, and where each number's begin."""
    sizes = [volume(LEAF, a) for a in range(k + 1)]
    listed = [
        unrank(np.arange(size, dtype=np.uint64)[:, None], LEAF, a, "fischer").astype(np.int8)
        for a, size in enumerate(sizes)
    ]
    words = np.concatenate(listed).view("<u4")[:, 0]
    return words, np.cumsum([0, *sizes]).astype(np.uint32)


def _divisors(part: int, k: int, buffer: Buffer) -> Divisors:
    sizes = [volume(part, i) for i in range(k + 1)]
    is_long = sizes[-1] >= 1 << 31
    inverses = [min((1 << 64) // size, (1 << 64) - 1) for size in sizes]
    short = [min((1 << 32) // size, (1 << 32) - 1) for size in sizes]
    shifts = [64 - size.bit_length() for size in sizes]
    normal = [size << shift for size, shift in zip(sizes, shifts, strict=True)]
    pairs = zip(inverses, sizes, strict=True)
    return Divisors(
        is_long,
        buffer.add(sizes, np.uint64 if is_long else np.uint32),
        buffer.add(inverses, np.uint64),
        buffer.add([] if is_long else short, np.uint32),
        buffer.add([] if is_long else [(1 << 64) - i * size for i, size in pairs], np.uint32),
        buffer.add(shifts if is_long else [], np.uint8),
        buffer.add([((1 << 128) - 1) // size - (1 << 64) for size in normal if is_long], np.uint64),
    )


def _guesses(row: Sequence[int], shift: int) -> list[int]:
    cells = range(1 << CELL_BITS)
    return [min(bisect_right(row, cell << shift) - 1, len(row) - 2) for cell in cells]


def _node(order: str, m: int, k: int, is_root: bool, divisors: Divisors, buffer: Buffer) -> Node:
    first = first_part(order, m)
    rows = [edges(m, first, j) for j in range(k if is_root else 0, k + 1)]
    length = volume(m, k).bit_length()
    width, dropped = next(w for w in (32, 64, 128) if length <= w - (w == 32)), max(length - 64, 0)
    shifts = [max((row[-1] - 1).bit_length() - CELL_BITS - dropped, 0) for row in rows]
    guesses = [_guesses(row, s + dropped) for row, s in zip(rows, shifts, strict=True)]
    flat = list(chain(*rows))
    quotient = m - first if order == "blocked" else first
    return Node(
        m,
        order == "blocked",
        is_root,
        width,
        dropped,
        volume(quotient, k) < 1 << 64,
        buffer.add(shifts, np.uint8),
        buffer.add(list(chain(*guesses)), np.uint8),
        buffer.add([edge % (1 << 64) for edge in flat], np.uint32 if width == 32 else np.uint64),
        buffer.add(
            [edge >> 64 for edge in flat if width == 128], np.uint64 if is_root else np.uint32
        ),
        divisors,
    )


def first_part(order: str, m: int) -> int:
    """Return the coordinates of the first of the two parts of m."""
    return LEAF if order == "blocked" else m // 2


@lru_cache(8)
def plan(n: int, k: int, order: str) -> Plan:
    """Return the tables of a pyramid; V(n,k) and what is divided by must fit their words."""
    buffer, divisors, nodes = Buffer(), {}, []
    m = n
    while m > LEAF:
        first = first_part(order, m)
        part = first if order == "blocked" else m - first
        if part not in divisors:
            divisors[part] = _divisors(part, k, buffer)
        nodes.append(_node(order, m, k, m == n, divisors[part], buffer))
        m = m - LEAF if order == "blocked" else m // 2
    listed, first_leaves = leaves(k)
    hot = int(first_leaves[min(k, HOT_PULSES) + 1])
    hot_leaves, begin = buffer.add(listed[:hot], np.uint32), buffer.add(first_leaves, np.uint32)
    return Plan(n, k, order, tuple(nodes), hot_leaves, hot, begin, buffer.array(), listed)
