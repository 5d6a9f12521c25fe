"""Where a number falls among sorted ones: a table of first guesses, and steps up from there.

Unranking asks one question again and again: which is the last of the sorted numbers edges[base],
edges[base+1], … that isn't above `left`? Scanning or halving takes branches that no processor can
predict. Here the highest bits of `left` choose one of a few cells, and the table holds the answer
for the smallest number of that cell. It is never too far, and mostly right or one too short, so
what remains is a comparison without a branch and a loop that hardly ever runs.

What remains is latency: four loads, each waiting for the one before. So a tile of vectors does this
together, and their loads don't wait for each other. There are kernels for numbers of one word, two,
and any; levels further on have smaller numbers, and so go on with fewer words.
"""

import numpy as np
from numpy.typing import NDArray

from pvq_ref.jit import inlined, kernel, wrapping_kernel
from pvq_ref.words import Words

CELL_BITS = 6  # at most; a row of guesses then is two cache lines
MAX_GUESSES = 1 << 23  # above this there are fewer cells
FRACTION = np.uint64(51)  # bits of a key below the length
_ZERO, _ONE, _5, _6 = np.uint64(0), np.uint64(1), np.uint64(5), np.uint64(6)
_12, _32, _63, _64 = np.uint64(12), np.uint64(32), np.uint64(63), np.uint64(64)

Starts = NDArray[np.uint64]
# For every level and number of pulses j: bits of `left` below its cell, and a row of guesses; and
# the guesses (rows, cells).
Guesses = tuple[NDArray[np.uint16], NDArray[np.uint32], NDArray[np.unsignedinteger]]
Level = Guesses  # of one level: the first two have an axis less
# All that `take` needs: least significant words of edges, all words in one row, and for every level
# where rows start and how many words count; then guesses.
Finder = tuple[
    Words, Words, Starts, NDArray[np.int64],
    NDArray[np.uint16], NDArray[np.uint32], NDArray[np.unsignedinteger],
]  # fmt: skip
TILE = 128  # vectors that are unranked together

# ---------------------------------------------------------------- the table of guesses


def _lengths(word: Words) -> Words:
    """Return bit lengths. Halves of words are exact as binary64."""
    upper = word >> _32
    half = np.where(upper > _ZERO, upper, word).astype(np.float64)
    return np.asarray(np.frexp(half)[1].astype(np.uint64) + _32 * (upper > _ZERO))


def _keys(values: Words) -> Words:
    """Return numbers of one word that order values (entries, words), and which none exceeds.

    A key is the bit length, and the 51 bits after the first one, rounded up.
    """
    entry = np.arange(len(values))
    top = values.shape[1] - 1 - np.argmax(values[:, ::-1] > _ZERO, axis=1)
    high, low = values[entry, top], np.where(top > 0, values[entry, top - 1], _ZERO)
    length = _lengths(high)
    window = (high << (_63 - (length - _ONE & _63))) | np.where(length < _64, low >> length, _ZERO)
    key = ((length + _64 * top.astype(np.uint64)) << FRACTION) + ((window << _ONE) >> (_ONE + _12))
    key += (top > 0) | (window << (_64 - _12) > _ZERO)
    return np.where(length > _ZERO, key, _ZERO)


def guesses(values: Words, start: Starts, step: int) -> Guesses:
    """Return first guesses for edges `values` (entries, words).

    The step · j + 1 edges of level and j pulses begin at start[level,j], and one above all follows
    them. Where all rows of a level begin at one place, numbers of the same length share guesses.
    """
    bits = CELL_BITS
    while bits > 1 and start.size << bits > MAX_GUESSES:
        bits -= 1
    keys, cells = _keys(values), _keys(np.arange(1 << bits, dtype=np.uint64)[:, None])
    last = step * np.arange(start.shape[1], dtype=np.uint64)
    length = (keys[start + last + _ONE] >> FRACTION).astype(np.int64)
    shift = np.maximum(length - bits, 0).astype(np.uint64)
    dtype = np.uint16 if last[-1] < 1 << 16 else np.uint32
    row, guess, made = np.zeros(start.shape, np.uint32), [np.zeros((0, 1 << bits), dtype)], 0
    for level in range(start.shape[0]):
        shared = start[level, 0] == start[level, -1]
        chosen, inverse = np.unique(shift[level], return_inverse=True)
        if not shared:
            chosen, inverse = shift[level], np.arange(start.shape[1])
        smallest = np.where(cells > _ZERO, cells + (chosen[:, None] << FRACTION), _ZERO)
        first = start[level].astype(np.int64)
        guess.append(np.empty(smallest.shape, dtype))
        if shared:
            edges = keys[first[0] : first[0] + int(last[-1]) + 1]
            guess[-1][:] = np.maximum(np.searchsorted(edges, smallest, "right") - 1, 0)
        else:
            for j in range(start.shape[1]):
                edges = keys[first[j] : first[j] + int(last[j]) + 1]
                guess[-1][j] = np.maximum(np.searchsorted(edges, smallest[j], "right") - 1, 0)
        row[level] = made + inverse
        made += len(chosen)
    return shift.astype(np.uint16), row, np.concatenate(guess)


# ---------------------------------------------------------------- finding


@inlined
def find_word(
    left: np.uint64, edges: Words, base: np.uint64, level: Level, j: np.uint64
) -> np.uint64:
    """Return the place of the last edge not above left; edges have one word."""
    shift, row, guess = level
    place = base + np.uint64(guess[row[j], left >> np.uint64(shift[j])])
    place += np.uint64(edges[place + _ONE] <= left)
    while edges[place + _ONE] <= left:
        place += _ONE
    return place


@inlined
def at_most(edges: Words, at: np.uint64, left: Words, i: int, top: np.uint64) -> bool:
    """Whether the words of an edge are at most those of left[i], from word `top` down."""
    w = top
    while w > _ZERO and edges[at + w] == left[i, w]:
        w -= _ONE
    return bool(edges[at + w] <= left[i, w])


@kernel
def _take_word(
    edges: Words, start: Words, level: Level, left: Words, before: Words, found: Words
) -> None:
    """Take the last edge not above it off every left[i], of one word."""
    for i in range(found.size):
        base = start[before[i]]
        place = find_word(left[i, 0], edges, base, level, before[i])
        left[i, 0] -= edges[place]
        found[i] = place - base


@wrapping_kernel
def _take_two(
    edges: Words, start: Words, level: Level, left: Words, before: Words, found: Words
) -> None:
    """Take the last edge not above it off every left[i], of two words; edges may have more."""
    (shift, row, guess), count = level, np.uint64(left.shape[1])
    for i in range(found.size):
        j, low, high = before[i], left[i, 0], left[i, 1]
        by = np.uint64(shift[j])
        cell, inside = high >> (by & _63), by & _63
        if by < _64:
            cell = (low >> inside) | ((high << _ONE) << (_63 - inside))
        place = np.uint64(guess[row[j], cell])
        at = (start[j] + place) * count
        above = at + count
        while edges[above + _ONE] < high or (edges[above + _ONE] == high and edges[above] <= low):
            place += _ONE
            at = above
            above += count
        left[i, 0] = low - edges[at]
        left[i, 1] = high - edges[at + _ONE] - np.uint64(low < edges[at])
        found[i] = place


@wrapping_kernel
def _take_words(
    edges: Words, start: Words, level: Level, left: Words, before: Words, found: Words
) -> None:
    """Take the last edge not above it off every left[i], of any number of words from two on.

    Only words that can differ from zero are looked at.
    """
    (shift, row, guess), count = level, np.uint64(left.shape[1])
    for i in range(found.size):
        j = before[i]
        by = np.uint64(shift[j])
        top, inside = min(max(_ONE, (by + _5) >> _6), count - _ONE), by & _63
        cell = left[i, top] >> inside
        if by >> _6 != top:
            cell = (left[i, top - _ONE] >> inside) | ((left[i, top] << _ONE) << (_63 - inside))
        place = np.uint64(guess[row[j], cell])
        at = (start[j] + place) * count
        while at_most(edges, at + count, left, i, top):
            place += _ONE
            at += count
        borrow = _ZERO
        for w in range(top + _ONE):
            word, edge = left[i, w], edges[at + np.uint64(w)]
            difference = word - edge
            left[i, w] = difference - borrow
            borrow = np.uint64(word < edge) | np.uint64(difference < borrow)
        found[i] = place


@kernel
def take(finder: Finder, number: int, left: Words, before: Words, found: Words) -> None:
    """Find the last edge not above left[i], and take it off; for every vector i of a tile.

    number is the level's; before (tile,) are the pulses left; found (tile,) gets places in rows.
    """
    low, flat, starts, widths, shift, row, guess = finder
    start, level = starts[number], (shift[number], row[number], guess)
    if widths[number] == 1:
        _take_word(low, start, level, left, before, found)
    elif widths[number] == 2:
        _take_two(flat, start, level, left, before, found)
    else:
        _take_words(flat, start, level, left, before, found)
