"""One split of a decoder of bench/orders.py, the same text for the processor and for a GPU.

A kernel sees a plan's buffer in three ways: t8, bytes; t32, words of 32 bits; t64, of 64. A rank is
hi · 2^64 + lo; j are the pulses of a node. Integers are unsigned everywhere, 32 bits where that is
enough, and wrap. Divisions are products with reciprocals, and a correction:

    32 bits    of 32 · 32 bits; quotients are at most one too small
    64 bits    of 64 · 64 bits, the same way
    128 bits   by less than 2^31: both halves like that, as `pvq_ref.words.divide_word` does it;
               else, for quotients of 64 bits, algorithm 4 of Möller and Granlund 2011 ("Improved
               division by invariant integers"): two products, the divisor shifted to 64 bits
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from orders_tables import CELL_BITS, Node

Device = Callable[..., Any]
Jit = Callable[[Device], Device]
U32, U64 = np.uint32, np.uint64
ZERO, ONE, TWO, THREE, CELLS = (np.uint32(i) for i in (0, 1, 2, 3, CELL_BITS))
NONE, UNIT, _32, _63 = (np.uint64(i) for i in (0, 1, 32, 63))


# ---------------------------------------------------------------- dividing


def dividers(jit: Jit, high_product: Device) -> tuple[Device, Device, Device, Device, Device]:
    """Return division of 32 bits, of 64 by less than 2^31 and by more, and of 128 by both."""

    @jit
    def divide_32(x, size, inverse):
        quotient = U32((U64(x) * U64(inverse)) >> _32)
        rest = U32(x - U32(quotient * size))
        if rest >= size:
            quotient, rest = U32(quotient + ONE), U32(rest - size)
        return quotient, rest

    @jit
    def divide_64(x, size, inverse):
        quotient = high_product(x, inverse)
        rest = U32(U32(x) - U32(U32(quotient) * size))
        if rest >= size:
            quotient, rest = quotient + UNIT, U32(rest - size)
        return quotient, rest

    @jit
    def divide_64_long(x, size, inverse):
        quotient = high_product(x, inverse)
        rest = x - quotient * size
        if rest >= size:
            quotient, rest = quotient + UNIT, rest - size
        return quotient, rest

    @jit
    def divide_128(rest, lo, size, inverse, remainder):
        """Divide rest · 2^64 + lo, rest < size."""
        quotient, part = U64(rest) * inverse, U64(rest) * U64(remainder)
        total = part + lo
        if total < part:
            quotient, total = quotient + inverse, total + U64(remainder)
        more, left = divide_64(total, size, inverse)
        return quotient + more, left

    @jit
    def divide_128_long(hi, lo, size, shift, reciprocal):
        size <<= shift
        upper, lower = (hi << shift) | ((lo >> UNIT) >> (_63 - shift)), lo << shift
        low = reciprocal * upper + lower
        quotient = high_product(reciprocal, upper) + upper + U64(low < lower) + UNIT
        rest = lower - quotient * size
        if rest > low:
            quotient, rest = quotient - UNIT, rest + size
        if rest >= size:
            quotient, rest = quotient + UNIT, rest - size
        return quotient, rest >> shift

    return divide_32, divide_64, divide_64_long, divide_128, divide_128_long


# ---------------------------------------------------------------- finding


def finder(jit: Jit, node: Node) -> Device:
    """Return a function that finds a and takes its edge off: hi and lo, if they are 128 bits."""
    shifts, guesses, lows, highs = map(U32, (node.shifts, node.guesses, node.lows, node.highs))
    dropped = U64(node.dropped)
    raised = U64(64 - node.dropped)

    if node.is_root:

        @jit
        def row_of(j):
            return ZERO
    else:

        @jit
        def row_of(j):
            return j

    @jit
    def find(t8, edges, left, j):
        row = row_of(j)
        cell = U32(left >> t8[shifts + row])
        a = U32(t8[guesses + (row << CELLS) + cell])
        place = U32(lows + (row * (row + THREE) >> ONE) + a)
        short = U32(left >= edges[place + ONE])
        a, place = U32(a + short), U32(place + short)
        while left >= edges[place + ONE]:
            a, place = U32(a + ONE), U32(place + ONE)
        return a, left - edges[place]

    @jit
    def find_128(t8, t64, upper, hi, lo, j):
        row = row_of(j)
        cell = U32(((hi << raised) | (lo >> dropped)) >> U64(t8[shifts + row]))
        a = U32(t8[guesses + (row << CELLS) + cell])
        place = U32((row * (row + THREE) >> ONE) + a)
        above_high, above_low = U64(upper[highs + place + ONE]), t64[lows + place + ONE]
        short = U32((hi > above_high) | ((hi == above_high) & (lo >= above_low)))
        a, place = U32(a + short), U32(place + short)
        while True:
            above_high, above_low = U64(upper[highs + place + ONE]), t64[lows + place + ONE]
            if (hi < above_high) | ((hi == above_high) & (lo < above_low)):
                break
            a, place = U32(a + ONE), U32(place + ONE)
        high, low = U64(upper[highs + place]), t64[lows + place]
        return a, hi - high - U64(lo < low), lo - low

    return find_128 if node.width == 128 else find


# ---------------------------------------------------------------- one split


def splitter(jit: Jit, high_product: Device, node: Node) -> Device:
    """Return a function that gives a, the quotient as hi and lo, and the rest."""
    divide_32, divide_64, divide_64_long, divide_128, divide_128_long = dividers(jit, high_product)
    find, d = finder(jit, node), node.divisors
    sizes, inverses, short = U32(d.sizes), U32(d.inverses), U32(d.short_inverses)
    remainders, shifts, reciprocals = U32(d.remainders), U32(d.shifts), U32(d.reciprocals)

    if node.by_first:

        @jit
        def chosen(a, j):
            return a
    else:

        @jit
        def chosen(a, j):
            return U32(j - a)

    @jit
    def split_32(t8, t32, t64, hi, lo, j):
        a, left = find(t8, t32, U32(lo), j)
        i = chosen(a, j)
        quotient, rest = divide_32(U32(left), t32[sizes + i], t32[short + i])
        return a, NONE, U64(quotient), U64(rest)

    @jit
    def split_64(t8, t32, t64, hi, lo, j):
        a, left = find(t8, t64, lo, j)
        i = chosen(a, j)
        quotient, rest = divide_64(left, t32[sizes + i], t64[inverses + i])
        return a, NONE, quotient, U64(rest)

    @jit
    def split_64_long(t8, t32, t64, hi, lo, j):
        a, left = find(t8, t64, lo, j)
        i = chosen(a, j)
        quotient, rest = divide_64_long(left, t64[sizes + i], t64[inverses + i])
        return a, NONE, quotient, rest

    @jit
    def split_root_128(t8, t32, t64, hi, lo, j):
        a, hi, lo = find(t8, t64, t64, hi, lo, j)
        i = chosen(a, j)
        size, inverse = t32[sizes + i], t64[inverses + i]
        high, rest = divide_64(hi, size, inverse)
        quotient, rest = divide_128(rest, lo, size, inverse, t32[remainders + i])
        return a, high, quotient, U64(rest)

    @jit
    def split_128(t8, t32, t64, hi, lo, j):
        a, hi, lo = find(t8, t64, t32, hi, lo, j)
        i = chosen(a, j)
        size = t32[sizes + i]
        high, rest = divide_32(U32(hi), size, t32[short + i])
        quotient, rest = divide_128(rest, lo, size, t64[inverses + i], t32[remainders + i])
        return a, U64(high), quotient, U64(rest)

    @jit
    def split_128_narrower(t8, t32, t64, hi, lo, j):
        a, hi, lo = find(t8, t64, t32, hi, lo, j)
        i = chosen(a, j)
        size, inverse = t32[sizes + i], t64[inverses + i]
        quotient, rest = divide_128(U32(hi), lo, size, inverse, t32[remainders + i])
        return a, NONE, quotient, U64(rest)

    @jit
    def split_root_128_long(t8, t32, t64, hi, lo, j):
        a, hi, lo = find(t8, t64, t64, hi, lo, j)
        i = chosen(a, j)
        size, shift = t64[sizes + i], U64(t8[shifts + i])
        quotient, rest = divide_128_long(hi, lo, size, shift, t64[reciprocals + i])
        return a, NONE, quotient, rest

    if node.width == 32:
        return split_32
    if node.width == 64:
        return split_64_long if d.is_long else split_64
    if d.is_long:
        return split_root_128_long
    if node.is_root:
        return split_root_128
    return split_128_narrower if node.is_narrower else split_128
