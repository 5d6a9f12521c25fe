"""The blocked order in its plainest form, for any number of words (spec section 3.3).

What `pvq_ref.blocked` can't take comes here: blocks so large that V(b,a) has 32 bits or more, and
prefix sums of which only every stride-th is stored, because all of them would take too much memory.
The sums between are made while they are passed.
"""

import numpy as np
from numpy.typing import NDArray

from pvq_ref import words
from pvq_ref.finding import Starts
from pvq_ref.fischer import fischer_from_words, fischer_to_words
from pvq_ref.jit import kernel
from pvq_ref.tables import Tables
from pvq_ref.words import Words

_ZERO = np.uint64(0)
Sums = tuple[Words, Starts, Words, Words, int]  # prefix sums, their places, V(m,j), V(b,a), stride


@kernel
def _prefix_at(level: int, pulses: int, a: int, sums: Sums, out: Words) -> None:
    """Write the sum over j < a of V(b,j) V(m,pulses-j)."""
    prefix, start, rest, sizes, stride = sums
    words.copy(out, prefix[int(start[level, pulses]) + a // stride])
    for j in range(a // stride * stride, a):
        words.add_product(out, sizes[j], rest[level, pulses - j])


@kernel
def _norm(y: NDArray[np.int32]) -> int:
    total = 0
    for value in y:
        total += abs(int(value))
    return total


@kernel
def _rank(y: NDArray[np.int32], k: int, edges: Words, block: int, sums: Sums, index: Words) -> int:
    """Rank rows; return the first row off the pyramid, or -1. edges are fischer's."""
    levels = sums[1].shape[0]
    inside = np.empty(edges.shape[1], np.uint64)
    sum_before = np.empty(index.shape[1], np.uint64)
    one = np.ones(1, np.uint64)
    for row in range(y.shape[0]):
        if _norm(y[row]) != k:
            return row
        total = np.zeros(index.shape[1], np.uint64)
        after = 0
        for level in range(levels, -1, -1):
            u = y[row, level * block : (level + 1) * block]
            a = _norm(u)
            after += a
            words.copy(inside, edges[u.size * (2 * k + 2) + 2 * a + 1])
            words.subtract(inside, one)
            fischer_to_words(u, k, edges, inside)
            index[row] = _ZERO
            if level < levels:
                words.add_product(index[row], sums[3][a], total)
                _prefix_at(level, after, a, sums, sum_before)
                words.add(index[row], sum_before)
            words.add(index[row], inside)
            words.copy(total, index[row])
    return -1


@kernel
def _block_sum(left: Words, level: int, pulses: int, sums: Sums) -> int:
    """Return the l1 norm of the block that `left` falls in, and take what is before it off left."""
    prefix, start, rest, sizes, stride = sums
    base = int(start[level, pulses])
    first, above = 0, pulses // stride + 1
    while above - first > 1:
        middle = (first + above) >> 1
        if words.less(left, prefix[base + middle]):
            above = middle
        else:
            first = middle
    words.subtract(left, prefix[base + first])
    a = first * stride
    size = np.zeros(left.size, np.uint64)
    while stride > 1 and a < pulses:
        size[:] = _ZERO
        words.add_product(size, sizes[a], rest[level, pulses - a])
        if words.less(left, size):
            break
        words.subtract(left, size)
        a += 1
    return a


@kernel
def _unrank(
    index: Words, k: int, edges: Words, block: int, sums: Sums, y: NDArray[np.int32]
) -> None:
    """Unrank rows; edges are fischer's."""
    levels = sums[1].shape[0]
    left = np.empty(index.shape[1], np.uint64)
    inside = np.empty(edges.shape[1], np.uint64)
    from_end = np.empty(edges.shape[1], np.uint64)
    one = np.ones(1, np.uint64)
    for row in range(index.shape[0]):
        words.copy(left, index[row])
        pulses = k
        for level in range(levels + 1):
            u = y[row, level * block : (level + 1) * block]
            a = pulses
            if level < levels:
                a = _block_sum(left, level, pulses, sums)
                words.divide(left, sums[3][a], inside)
            else:
                words.copy(inside, left)
            words.copy(from_end, edges[u.size * (2 * k + 2) + 2 * a + 1])
            words.subtract(from_end, one)
            words.subtract(from_end, inside)
            fischer_from_words(from_end, a, k, edges, u)
            pulses -= a


def rank(y: NDArray[np.int32], table: Tables, index: Words) -> int:
    """Rank vectors (groups, n) into index (groups, words); return the first one off, or -1."""
    return int(_rank(y, table.k, table.counts.values, table.block, _sums(table), index))


def unrank(index: Words, table: Tables, y: NDArray[np.int32]) -> None:
    """Unrank indices (groups, words) below V(n,k) into y (groups, n)."""
    _unrank(index, table.k, table.counts.values, table.block, _sums(table), y)


def _sums(table: Tables) -> Sums:
    return table.sums.values, table.sums.start, table.rest, table.sizes, table.stride
