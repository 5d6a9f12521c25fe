"""The fischer order, counted from its end (spec section 3.1).

The vectors of P(l,k) with |y_1| >= a number 2 U(l,k-a+1). So the distance of a vector from the end
of the list, V - 1 - index, is a sum of one edge per coordinate: with R pulses for the coordinates
after it, V(l,R) for a positive one and 2 U(l,R) otherwise. `pvq_ref.tables` has the two side by
side: edge 2R + [y > 0] of level l.

First the order of one vector, in the plainest form; `pvq_ref.blocked` uses that too. Then whole
arrays: to rank, places first, and then one sum for each word, carries counted instead of passed on;
to unrank, a tile of vectors coordinate by coordinate, since the next coordinate of one vector waits
for this one, but those of the others don't.
"""

import numpy as np
from numpy.typing import NDArray

from pvq_ref import words
from pvq_ref.finding import TILE, Finder, take
from pvq_ref.jit import kernel, wrapping_kernel
from pvq_ref.tables import Edges, Tables
from pvq_ref.words import Words

_ZERO, _ONE, _TWO = np.uint64(0), np.uint64(1), np.uint64(2)

# ---------------------------------------------------------------- one vector


@kernel
def fischer_to_words(y: NDArray[np.int32], k: int, edges: Words, left: Words) -> None:
    """Subtract the distance of y from the end of its list from left; edges are made for k."""
    after = 0
    for j in range(y.size - 1, -1, -1):
        value = int(y[j])
        row = (y.size - j) * (2 * k + 2)
        words.subtract(left, edges[row + 2 * after + (1 if value > 0 else 0)])
        after += abs(value)


@kernel
def fischer_from_words(
    left: Words, pulses: int, k: int, edges: Words, y: NDArray[np.int32]
) -> None:
    """Write the vector at a distance `left` from the end of the list of P(n,pulses); use up left.

    edges are made for k >= pulses.
    """
    for j in range(y.size):
        row = (y.size - j) * (2 * k + 2)
        edge = 2 * pulses
        while words.less(left, edges[row + edge]):
            edge -= 1
        words.subtract(left, edges[row + edge])
        magnitude = pulses - edge // 2
        y[j] = magnitude if edge % 2 else -magnitude
        pulses = edge // 2


# ---------------------------------------------------------------- arrays


@wrapping_kernel
def _rank(
    y: NDArray[np.int32], k: int, edges: Words, reach: NDArray[np.int64], last: Words, index: Words
) -> int:
    """Rank rows; return the first row off the pyramid, or -1.

    Only the first reach[w] coordinates add to word w. last (words,) is V(n,k) - 1.
    """
    n, pulses = y.shape[1], np.uint64(k)
    size = np.uint64(last.size)
    row_edges = np.uint64(2 * k + 2)
    place = np.empty(n, np.uint64)
    for row in range(y.shape[0]):
        after = _ZERO
        for j in range(n - 1, -1, -1):
            value = np.int64(y[row, j])
            edge = np.uint64(n - j) * row_edges + _TWO * min(after, pulses) + np.uint64(value > 0)
            place[j] = edge * size
            after += np.uint64(abs(value))
        if after != pulses:
            return row
        carry = _ZERO
        for w in range(last.size):
            total, carries = carry, _ZERO
            for j in range(reach[w]):
                term = edges[place[j] + np.uint64(w)]
                total += term
                carries += np.uint64(total < term)
            index[row, w] = last[w] - total
            carry = carries + np.uint64(last[w] < total)
    return -1


@kernel
def _unrank(index: Words, k: int, finder: Finder, last: Words, y: NDArray[np.int32]) -> None:
    """Unrank rows; last (words,) is V(n,k) - 1."""
    n = y.shape[1]
    left = np.empty((TILE, last.size), np.uint64)
    before, places = np.empty(TILE, np.uint64), np.empty(TILE, np.uint64)
    for start in range(0, y.shape[0], TILE):
        tile = y[start : start + TILE]
        found = places[: tile.shape[0]]
        before[:] = np.uint64(k)
        for i in range(found.size):
            words.copy(left[i], last)
            words.subtract(left[i], index[start + i])
        for j in range(n):
            take(finder, n - j, left, before, found)
            for i in range(found.size):
                after = found[i] >> _ONE
                magnitude = np.int32(before[i] - after)
                tile[i, j] = magnitude if found[i] & _ONE else -magnitude
                before[i] = after


def reach(edges: Edges, n: int, words: int) -> NDArray[np.int64]:
    """Return how many coordinates, from the first on, can add to each word of a rank."""
    return np.array([np.sum(edges.widths[1 : n + 1] > w) for w in range(words)], np.int64)


def rank(y: NDArray[np.int32], table: Tables, index: Words) -> int:
    """Rank vectors (groups, n) into index (groups, words); return the first one off, or -1."""
    edges = table.counts
    return _rank(y, table.k, edges.flat, reach(edges, table.n, table.words), table.last, index)


def unrank(index: Words, table: Tables, y: NDArray[np.int32]) -> None:
    """Unrank indices (groups, words) below V(n,k) into y (groups, n)."""
    _unrank(index, table.k, table.counts.finder, table.last, y)
