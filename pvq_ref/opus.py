"""The order of libopus and RFC 6716 (spec section 3.2).

With l coordinates left, y_j among them, and R pulses for those after y_j, the rank is the sum of
U(l,R), and of U(l,R+|y_j|+1) where y_j < 0. Kernels are built as in `pvq_ref.fischer`.
"""

import numpy as np
from numpy.typing import NDArray

from pvq_ref import words
from pvq_ref.finding import TILE, Finder, at_most, take
from pvq_ref.fischer import reach
from pvq_ref.jit import kernel, wrapping_kernel
from pvq_ref.tables import Tables
from pvq_ref.words import Words

_ZERO, _ONE = np.uint64(0), np.uint64(1)


@wrapping_kernel
def _rank(
    y: NDArray[np.int32], k: int, edges: Words, reach: NDArray[np.int64], index: Words
) -> int:
    """Rank rows; return the first row off the pyramid, or -1.

    Only the first reach[w] coordinates add to word w.
    """
    n, pulses = y.shape[1], np.uint64(k)
    size = np.uint64(index.shape[1])
    row_edges = np.uint64(k + 2)
    place, sign_place = np.empty(n, np.uint64), np.empty(n, np.uint64)
    for row in range(y.shape[0]):
        after = _ZERO
        for j in range(n - 1, -1, -1):
            value, first = np.int64(y[row, j]), np.uint64(n - j) * row_edges
            place[j] = (first + min(after, pulses)) * size
            after += np.uint64(abs(value))
            above = min(after, pulses) + _ONE
            sign_place[j] = (first + (above if value < 0 else _ZERO)) * size  # U(l,0) = 0
        if after != pulses:
            return row
        carry = _ZERO
        for w in range(index.shape[1]):
            total, carries = carry, _ZERO
            for j in range(reach[w]):
                term = edges[place[j] + np.uint64(w)]
                total += term
                carries += np.uint64(total < term)
                term = edges[sign_place[j] + np.uint64(w)]
                total += term
                carries += np.uint64(total < term)
            index[row, w] = total
            carry = carries
    return -1


@kernel
def _take_sign_word(
    edges: Words, start: Words, left: Words, before: Words, negative: Words
) -> None:
    """Take U(l,j+1) off every left[i] that isn't below it, j the pulses before[i]; one word."""
    for i in range(negative.size):
        edge, rest = edges[start[before[i]] + before[i] + _ONE], left[i, 0]
        negative[i] = np.uint64(rest >= edge)
        left[i, 0] = rest - (edge if rest >= edge else _ZERO)


@wrapping_kernel
def _take_sign_words(
    edges: Words, start: Words, width: int, left: Words, before: Words, negative: Words
) -> None:
    """Do the same for any number of words, of which `width` count."""
    count, top = np.uint64(left.shape[1]), np.uint64(width - 1)
    for i in range(negative.size):
        at = (start[before[i]] + before[i] + _ONE) * count
        negative[i] = np.uint64(at_most(edges, at, left, i, top))
        borrow, mask = _ZERO, _ZERO - negative[i]  # a branch here couldn't be predicted
        for w in range(width):
            word, edge = left[i, w], edges[at + np.uint64(w)] & mask
            difference = word - edge
            left[i, w] = difference - borrow
            borrow = np.uint64(word < edge) | np.uint64(difference < borrow)


@kernel
def _unrank(index: Words, k: int, finder: Finder, y: NDArray[np.int32]) -> None:
    """Unrank rows."""
    n, low, flat, starts, widths = y.shape[1], finder[0], finder[1], finder[2], finder[3]
    left = np.empty((TILE, index.shape[1]), np.uint64)
    before, places = np.empty(TILE, np.uint64), np.empty(TILE, np.uint64)
    signs = np.empty(TILE, np.uint64)
    for start in range(0, y.shape[0], TILE):
        tile = y[start : start + TILE]
        found, negative = places[: tile.shape[0]], signs[: tile.shape[0]]
        before[:] = np.uint64(k)
        for i in range(found.size):
            words.copy(left[i], index[start + i])
        for j in range(n):
            level = n - j
            if widths[level] == 1:
                _take_sign_word(low, starts[level], left, before, negative)
            else:
                _take_sign_words(flat, starts[level], widths[level], left, before, negative)
            take(finder, level, left, before, found)
            for i in range(found.size):
                magnitude = np.int32(before[i] - found[i])
                tile[i, j] = -magnitude if negative[i] else magnitude
                before[i] = found[i]


def rank(y: NDArray[np.int32], table: Tables, index: Words) -> int:
    """Rank vectors (groups, n) into index (groups, words); return the first one off, or -1."""
    edges = table.counts
    return _rank(y, table.k, edges.flat, reach(edges, table.n, table.words), index)


def unrank(index: Words, table: Tables, y: NDArray[np.int32]) -> None:
    """Unrank indices (groups, words) below V(n,k) into y (groups, n)."""
    _unrank(index, table.k, table.counts.finder, y)
