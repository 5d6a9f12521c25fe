"""Unranking the blocked order, a tile of vectors block by block (spec section 3.3).

Of each vector there are `left`, the rank of what isn't unranked yet, and `before`, its pulses. A
block's sum a is found among the prefix sums (`pvq_ref.finding`); left divided by V(b,a) is the rank
of the rest, and what remains is the block's own, which a table of all vectors of b coordinates with
few pulses turns into coordinates. `pvq_ref.blocked` says what these kernels can't take.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pvq_ref import words
from pvq_ref.counting import count
from pvq_ref.finding import TILE, Finder, Guesses, find_word, take
from pvq_ref.jit import kernel
from pvq_ref.tables import Tables
from pvq_ref.words import Words

MOST_BYTES = 1 << 20  # of the table of blocks: four coordinates up to 24 pulses
_ZERO, _ONE, _TWO = np.uint64(0), np.uint64(1), np.uint64(2)

Divisors = tuple[Words, Words, Words]  # V(b,a), inverse and remainder of `words.divide_word`
Blocks = tuple[NDArray[np.int8], Words]  # vectors (…, b), and where those of a pulses begin


@kernel
def _divide(
    divisors: Divisors, width: int, left: Words, before: Words, sums: Words, inside: Words
) -> None:
    """Divide every left[i] by V(b,a), a the block's sum; inside gets the rests.

    before[i], the pulses, loses a.
    """
    for i in range(sums.size):
        a = sums[i]
        size, inverse, remainder = divisors[0][a], divisors[1][a], divisors[2][a]
        rest = _ZERO
        for w in range(width - 1, -1, -1):
            left[i, w], rest = words.divide_word(rest, left[i, w], size, inverse, remainder)
        inside[i] = rest
        before[i] -= a


@kernel
def _place(
    edges: Words,
    guesses: Guesses,
    blocks: Blocks,
    sums: Words,
    inside: Words,
    tile: NDArray[np.int32],
) -> None:
    """Write the block of every vector of a tile: looked up, or unranked where it isn't there."""
    (vectors, first), (shift, row, guess) = blocks, guesses
    width, row_edges = tile.shape[1], edges.size // shift.shape[0]
    covered = first.size if width == vectors.shape[1] else 0
    for i in range(tile.shape[0]):
        before = sums[i]
        if before < np.uint64(covered):
            place = first[before] + inside[i]
            if width == 4:  # a constant, so that the loop is unrolled
                for j in range(4):
                    tile[i, j] = vectors[place, j]
            else:
                for j in range(width):
                    tile[i, j] = vectors[place, j]
            continue
        base = np.uint64(width * row_edges)
        left = edges[base + _TWO * before + _ONE] - _ONE - inside[i]
        for j in range(width):
            level = width - j
            base = np.uint64(level * row_edges)
            place = find_word(left, edges, base, (shift[level], row[level], guess), before)
            left -= edges[place]
            place -= base
            magnitude = np.int32(before - (place >> _ONE))
            tile[i, j] = magnitude if place & _ONE else -magnitude
            before = place >> _ONE


@kernel
def _unrank(
    index: Words,
    k: int,
    prefixes: Finder,
    divisors: Divisors,
    edges: Words,
    guesses: Guesses,
    blocks: Blocks,
    y: NDArray[np.int32],
) -> None:
    """Unrank rows; edges and guesses are fischer's, for coordinates inside a block."""
    widths = prefixes[3]
    levels, block = widths.size, blocks[0].shape[1]
    left = np.empty((TILE, index.shape[1]), np.uint64)
    before, places = np.empty(TILE, np.uint64), np.empty(TILE, np.uint64)
    inside = np.empty(TILE, np.uint64)
    for start in range(0, y.shape[0], TILE):
        tile = y[start : start + TILE]
        sums = places[: tile.shape[0]]
        before[:] = np.uint64(k)
        for i in range(sums.size):
            words.copy(left[i], index[start + i])
        for level in range(levels):
            take(prefixes, level, left, before, sums)
            _divide(divisors, widths[level], left, before, sums, inside)
            part = tile[:, level * block : (level + 1) * block]
            _place(edges, guesses, blocks, sums, inside, part)
        for i in range(sums.size):
            inside[i] = left[i, 0]
        _place(edges, guesses, blocks, before, inside, tile[:, levels * block :])


@lru_cache(16)
def _blocks(b: int, most: int) -> Blocks:
    """Return all vectors of b coordinates in the order fischer, for 0, 1, … up to most pulses."""
    listed = [np.zeros((1, 0), np.int8)] + most * [np.zeros((0, 0), np.int8)]  # P(0,a)
    for _ in range(b):
        longer = []
        for a in range(most + 1):
            values = (0, *(sign * size for size in range(1, a + 1) for sign in (1, -1)))
            rests = [listed[a - abs(value)] for value in values]
            heads = np.repeat(np.array(values, np.int8), [len(rest) for rest in rests])
            longer.append(np.column_stack((heads, np.concatenate(rests))))
        listed = longer
    first = np.cumsum([0, *map(len, listed[:-1])]).astype(np.uint64)
    return np.concatenate(listed), first


@lru_cache(64)
def _most_listed(b: int, k: int) -> int:
    """Return the most pulses up to which the table of blocks doesn't take too many bytes."""
    size, most = b, 0
    while most < min(k, 127) and (size := size + b * count(b, most + 1)) <= MOST_BYTES:
        most += 1
    return most


@lru_cache(64)
def _divisors(b: int, k: int) -> Divisors:
    """Return V(b,a), and what `words.divide_word` needs to divide by it, for a = 0 … k."""
    sizes = [count(b, a) for a in range(k + 1)]
    inverses = [min((1 << 64) // size, (1 << 64) - 1) for size in sizes]
    pairs = zip(sizes, inverses, strict=True)
    remainders = [(1 << 64) - inverse * size for size, inverse in pairs]
    return (
        np.array(sizes, np.uint64),
        np.array(inverses, np.uint64),
        np.array(remainders, np.uint64),
    )


def unrank(index: Words, table: Tables, y: NDArray[np.int32]) -> None:
    """Unrank indices (groups, words) below V(n,k) into y (groups, n)."""
    counts = table.counts
    divisors = _divisors(table.block, table.k)
    blocks = _blocks(table.block, _most_listed(table.block, table.k))
    finder = table.sums.finder
    _unrank(index, table.k, finder, divisors, counts.low, counts.guesses, blocks, y)
