"""The order of libopus and RFC 6716 (spec section 3.2).

With l coordinates left, y_j among them, and R pulses for those after y_j, the rank is the sum of
U(l,R), and of U(l,R+|y_j|+1) where y_j < 0. Kernels are built as in `pvq_ref.fischer`.
"""

import numpy as np
from numpy.typing import NDArray

from pvq_ref import words
from pvq_ref.finding import Guesses, Level, at_most, find_two, find_word, subtract, take_words
from pvq_ref.fischer import TILE, reach
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
def _unrank_word(
    edges: Words,
    guesses: Level,
    left: Words,
    before: Words,
    y: NDArray[np.int32],
    j: int,
) -> None:
    """Unrank coordinate j of a tile, of one word: take it off left and off before, the pulses."""
    for i in range(y.shape[0]):
        rest, half = left[i, 0], edges[before[i] + _ONE]
        negative = rest >= half
        rest -= half if negative else _ZERO
        place = find_word(rest, edges, _ZERO, guesses, before[i])
        left[i, 0] = rest - edges[place]
        magnitude = np.int32(before[i] - place)
        y[i, j] = -magnitude if negative else magnitude
        before[i] = place


@wrapping_kernel
def _unrank_two(
    edges: Words, guesses: Level, left: Words, before: Words, y: NDArray[np.int32], j: int
) -> None:
    """Unrank coordinate j of a tile, of two words."""
    count = np.uint64(left.shape[1])
    for i in range(y.shape[0]):
        low, high = left[i, 0], left[i, 1]
        at = (before[i] + _ONE) * count
        half, high_half = edges[at], edges[at + _ONE]
        negative = high > high_half or (high == high_half and low >= half)
        if negative:
            high -= high_half + np.uint64(low < half)
            low -= half
        place = find_two(low, high, edges, count, _ZERO, guesses, before[i])
        edge, high_edge = edges[place * count], edges[place * count + _ONE]
        left[i, 0] = low - edge
        left[i, 1] = high - high_edge - np.uint64(low < edge)
        magnitude = np.int32(before[i] - place)
        y[i, j] = -magnitude if negative else magnitude
        before[i] = place


@wrapping_kernel
def _unrank_words(
    edges: Words,
    guesses: Level,
    left: Words,
    before: Words,
    y: NDArray[np.int32],
    j: int,
    width: int,
) -> None:
    """Unrank coordinate j of a tile, of any number of words from two on; width of them matter."""
    count, top = np.uint64(left.shape[1]), np.uint64(width - 1)
    for i in range(y.shape[0]):
        half = (before[i] + _ONE) * count
        negative = at_most(edges, half, left, i, top)
        if negative:
            subtract(edges, half, left, i, top)
        place = take_words(left, i, edges, _ZERO, guesses, before[i])
        magnitude = np.int32(before[i] - place)
        y[i, j] = -magnitude if negative else magnitude
        before[i] = place


@kernel
def _unrank(
    index: Words,
    k: int,
    edges: tuple[Words, Words],
    guesses: Guesses,
    widths: NDArray[np.int64],
    y: NDArray[np.int32],
) -> None:
    """Unrank rows; edges are the least significant words and all."""
    n, (low, flat), (shift, row, guess) = y.shape[1], edges, guesses
    size, flat_size = low.size // shift.shape[0], flat.size // shift.shape[0]
    left = np.empty((TILE, index.shape[1]), np.uint64)
    before = np.empty(TILE, np.uint64)
    for start in range(0, y.shape[0], TILE):
        tile = y[start : start + TILE]
        before[:] = np.uint64(k)
        for i in range(tile.shape[0]):
            words.copy(left[i], index[start + i])
        for j in range(n):
            level = n - j
            level_guesses = (shift[level], row[level], guess)
            part = flat[level * flat_size : (level + 1) * flat_size]
            if widths[level] == 1:
                part = low[level * size : (level + 1) * size]
                _unrank_word(part, level_guesses, left, before, tile, j)
            elif widths[level] == 2:
                _unrank_two(part, level_guesses, left, before, tile, j)
            else:
                _unrank_words(part, level_guesses, left, before, tile, j, widths[level])


def rank(y: NDArray[np.int32], table: Tables, index: Words) -> int:
    """Rank vectors (groups, n) into index (groups, words); return the first one off, or -1."""
    edges = table.counts
    return _rank(y, table.k, edges.flat, reach(edges, table.n, table.words), index)


def unrank(index: Words, table: Tables, y: NDArray[np.int32]) -> None:
    """Unrank indices (groups, words) below V(n,k) into y (groups, n)."""
    edges = table.counts
    values = (edges.low, edges.flat)
    _unrank(index, table.k, values, edges.guesses, edges.widths, y)
