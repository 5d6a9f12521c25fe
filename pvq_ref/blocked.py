"""The blocked order: b coordinates at a time (spec section 3.3).

    I(y) = sum over j < a of V(b,j) V(n-b,k-j)  +  I(v) V(b,a)  +  F(u),    y = (u, v),  a = |u|_1

so that a decoder takes ceil(n/b) steps. The kernels here and in `pvq_ref.blocked_unrank` need all
prefix sums in memory and V(b,a) < 2^32; `pvq_ref.blocked_plain` takes all the rest.
"""

import numpy as np
from numpy.typing import NDArray

from pvq_ref import blocked_plain, blocked_unrank
from pvq_ref.counting import count
from pvq_ref.finding import Starts
from pvq_ref.jit import inlined, kernel, wrapping_kernel
from pvq_ref.tables import Tables
from pvq_ref.words import Words

_ZERO, _ONE, _TWO = np.uint64(0), np.uint64(1), np.uint64(2)
_32, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


@inlined
def _rank_block(
    y: NDArray[np.int32], row: int, begin: int, width: int, k: int, edges: Words
) -> tuple[np.uint64, np.uint64]:
    """Return the l1 norm of a block and its rank in the order fischer."""
    row_edges, pulses = np.uint64(2 * k + 2), np.uint64(k)
    a, from_end, first = _ZERO, _ONE, _ZERO
    for j in range(width - 1, -1, -1):
        value = np.int64(y[row, begin + j])
        first += row_edges
        from_end += edges[first + _TWO * min(a, pulses) + np.uint64(value > 0)]
        a += np.uint64(abs(value))
    return a, edges[first + _TWO * min(a, pulses) + _ONE] - from_end


@kernel
def _rank(
    y: NDArray[np.int32],
    k: int,
    edges: Words,
    block: int,
    prefix: Words,
    start: Starts,
    widths: NDArray[np.int64],
    index: Words,
) -> int:
    """Rank rows; return the first row off the pyramid, or -1. edges are fischer's."""
    n, levels, pulses = y.shape[1], start.shape[0], np.uint64(k)
    row_edges = np.uint64(2 * k + 2)
    sums, inside = np.empty(levels + 1, np.uint64), np.empty(levels + 1, np.uint64)
    total = np.empty(index.shape[1], np.uint64)
    for row in range(y.shape[0]):
        after = _ZERO
        for level in range(levels, -1, -1):
            begin = level * block
            width = min(block, n - begin)
            if width == 4:  # a constant, so that the loop is unrolled
                a, inside[level] = _rank_block(y, row, begin, 4, k, edges)
            else:
                a, inside[level] = _rank_block(y, row, begin, width, k, edges)
            sums[level] = a
            after += a
        if after != pulses:
            return row
        total[:] = _ZERO
        total[0] = inside[levels]
        after = np.uint64(sums[levels])
        for level in range(levels - 1, -1, -1):
            after += sums[level]
            size = edges[np.uint64(block) * row_edges + _TWO * sums[level] + _ONE]
            place = (start[level, after] + sums[level]) * np.uint64(total.size)
            carry = inside[level]
            for w in range(widths[level]):
                low = (total[w] & _LOW) * size + carry
                high = (total[w] >> _32) * size + (low >> _32)
                carry, total[w] = _add(high, low, prefix[place + np.uint64(w)])
        for w in range(total.size):
            index[row, w] = total[w]
    return -1


@wrapping_kernel
def _add(high: np.uint64, low: np.uint64, term: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return carry and word of high · 2^32 + (low mod 2^32) + term."""
    word = (high << _32) | (low & _LOW)
    total = word + term
    return (high >> _32) + np.uint64(total < word), total


def _is_plain(table: Tables) -> bool:
    """Whether this file's kernels can't take a pyramid."""
    return table.stride > 1 or count(table.block, table.k) > int(_LOW)


def rank(y: NDArray[np.int32], table: Tables, index: Words) -> int:
    """Rank vectors (groups, n) into index (groups, words); return the first one off, or -1."""
    if _is_plain(table):
        return blocked_plain.rank(y, table, index)
    edges, sums = table.counts.low, table.sums
    return int(_rank(y, table.k, edges, table.block, sums.flat, sums.start, sums.widths, index))


def unrank(index: Words, table: Tables, y: NDArray[np.int32]) -> None:
    """Unrank indices (groups, words) below V(n,k) into y (groups, n)."""
    (blocked_plain if _is_plain(table) else blocked_unrank).unrank(index, table, y)
