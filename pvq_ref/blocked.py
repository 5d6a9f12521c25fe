"""The blocked order: b coordinates at a time (spec section 3.3).

    I(y) = sum over j < a of V(b,j) V(n-b,k-j)  +  I(v) V(b,a)  +  F(u),    y = (u, v),  a = |u|_1

so that a decoder takes ceil(n/b) steps, each one look-up in sorted prefix sums, one division and
one short fischer decoding. Where all prefix sums would take too much memory, only every stride-th
is stored and the sums between are made while they are passed.
"""

import numpy as np
from numpy.typing import NDArray

from pvq_ref import words
from pvq_ref.counting import Tables
from pvq_ref.fischer import (
    fischer_from_word,
    fischer_from_words,
    fischer_to_word,
    fischer_to_words,
)
from pvq_ref.jit import kernel
from pvq_ref.words import Words

_ZERO = np.uint64(0)
_ONE = np.uint64(1)


@kernel
def _rank_word(
    y: NDArray[np.int32],
    block: int,
    low: Words,
    high: Words,
    prefix: Words,
    start: NDArray[np.int64],
    index: Words,
) -> None:
    """Rank rows whose index, and every prefix sum, is one stored word."""
    levels = start.shape[0]
    for row in range(y.shape[0]):
        tail = y[row, levels * block :]
        after = 0
        for value in tail:
            after += abs(int(value))
        total = high[tail.size, after, 0] - _ONE - fischer_to_word(tail, low, high)
        for level in range(levels - 1, -1, -1):
            u = y[row, level * block : (level + 1) * block]
            a = 0
            for value in u:
                a += abs(int(value))
            after += a
            size = high[block, a, 0]
            total = total * size + (size - _ONE - fischer_to_word(u, low, high))
            total += prefix[start[level, after] + a, 0]
        index[row, 0] = total


@kernel
def _unrank_word(
    index: Words,
    k: int,
    low: Words,
    high: Words,
    prefix: Words,
    start: NDArray[np.int64],
    y: NDArray[np.int32],
) -> None:
    """Unrank rows whose index, and every prefix sum, is one stored word."""
    levels, block = start.shape[0], low.shape[0] - 1
    for row in range(index.shape[0]):
        left, pulses = index[row, 0], k
        for level in range(levels):
            base = start[level, pulses]
            a, above = 0, pulses + 1
            while above - a > 1:
                middle = (a + above) >> 1
                if prefix[base + middle, 0] <= left:
                    a = middle
                else:
                    above = middle
            left -= prefix[base + a, 0]
            size = high[block, a, 0]
            quotient = left // size
            u = y[row, level * block : (level + 1) * block]
            fischer_from_word(size - _ONE - (left - quotient * size), a, low, high, u)
            left = quotient
            pulses -= a
        tail = y[row, levels * block :]
        fischer_from_word(high[tail.size, pulses, 0] - _ONE - left, pulses, low, high, tail)


@kernel
def _prefix_at(
    level: int,
    pulses: int,
    a: int,
    table: tuple[Words, NDArray[np.int64], Words, Words, int],
    out: Words,
) -> None:
    """Write the sum over j < a of V(b,j) V(m,pulses-j)."""
    prefix, start, rest, inner, stride = table
    out[:] = prefix[start[level, pulses] + a // stride]
    for j in range(a // stride * stride, a):
        words.add_product(out, inner[j], rest[level, pulses - j])


@kernel
def _rank_words(
    y: NDArray[np.int32],
    low: Words,
    high: Words,
    table: tuple[Words, NDArray[np.int64], Words, Words, int],
    index: Words,
) -> None:
    """Rank rows whose index is of any number of words."""
    levels, block = table[1].shape[0], low.shape[0] - 1
    rank_of_u = np.empty(low.shape[2], np.uint64)
    sum_before = np.empty(index.shape[1], np.uint64)
    one = np.ones(1, np.uint64)
    for row in range(y.shape[0]):
        total = np.zeros(index.shape[1], np.uint64)
        after = 0
        for level in range(levels, -1, -1):
            u = y[row, level * block : (level + 1) * block]
            a = 0
            for value in u:
                a += abs(int(value))
            after += a
            rank_of_u[:] = high[u.size, a]
            words.subtract(rank_of_u, one)
            fischer_to_words(u, low, high, rank_of_u)
            index[row] = _ZERO
            if level < levels:
                words.add_product(index[row], high[block, a], total)
                _prefix_at(level, after, a, table, sum_before)
                words.add(index[row], sum_before)
            words.add(index[row], rank_of_u)
            total[:] = index[row]


@kernel
def _block_sum(
    left: Words, level: int, pulses: int, table: tuple[Words, NDArray[np.int64], Words, Words, int]
) -> int:
    """Return the l1 norm of the block that `left` falls in, and take what is before it off left."""
    prefix, start, rest, inner, stride = table
    base = start[level, pulses]
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
        words.add_product(size, inner[a], rest[level, pulses - a])
        if words.less(left, size):
            break
        words.subtract(left, size)
        a += 1
    return a


@kernel
def _unrank_words(
    index: Words,
    k: int,
    low: Words,
    high: Words,
    table: tuple[Words, NDArray[np.int64], Words, Words, int],
    y: NDArray[np.int32],
) -> None:
    """Unrank rows whose index is of any number of words."""
    levels, block = table[1].shape[0], low.shape[0] - 1
    left = np.empty(index.shape[1], np.uint64)
    inside = np.empty(low.shape[2], np.uint64)
    from_end = np.empty(low.shape[2], np.uint64)
    one = np.ones(1, np.uint64)
    for row in range(index.shape[0]):
        left[:] = index[row]
        pulses = k
        for level in range(levels + 1):
            u = y[row, level * block : (level + 1) * block]
            a = pulses
            if level < levels:
                a = _block_sum(left, level, pulses, table)
                words.divide(left, high[block, a], inside)
            else:
                inside[:] = left[: inside.size]
            from_end[:] = high[u.size, a]
            words.subtract(from_end, one)
            words.subtract(from_end, inside)
            if from_end.size == 1:
                fischer_from_word(from_end[0], a, low, high, u)
            else:
                fischer_from_words(from_end, a, low, high, u)
            pulses -= a


def rank(y: NDArray[np.int32], table: Tables, index: Words) -> None:
    """Rank vectors (groups, n) into index (groups, words), both checked by the caller."""
    if table.words == 1 and table.stride == 1:
        _rank_word(y, table.block, table.low, table.high, table.prefix, table.start, index)
    else:
        _rank_words(y, table.low, table.high, _sums(table), index)


def unrank(index: Words, table: Tables, y: NDArray[np.int32]) -> None:
    """Unrank indices (groups, words) into y (groups, n), both checked by the caller."""
    if table.words == 1 and table.stride == 1:
        _unrank_word(index, table.k, table.low, table.high, table.prefix, table.start, y)
    else:
        _unrank_words(index, table.k, table.low, table.high, _sums(table), y)


def _sums(table: Tables) -> tuple[Words, NDArray[np.int64], Words, Words, int]:
    return table.prefix, table.start, table.rest, table.high[table.block], table.stride
