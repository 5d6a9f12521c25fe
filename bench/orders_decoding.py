"""The decoders of bench/orders.py: from split to split, and to the leaves.

They are made for n = 16 and n = 32 only, without loops, so that a GPU has everything in registers.
"""

import numpy as np

from orders_splitting import NONE, U32, Device, Jit, splitter
from orders_tables import Plan


def looker(jit: Jit, plan: Plan) -> Device:
    """Return a function of t32, leaves, a rank and its pulses that looks a leaf up."""
    first, hot, hot_leaves = U32(plan.first), U32(plan.hot), U32(plan.hot_leaves)

    @jit
    def leaf(t32, leaves, rest, a):
        place = U32(t32[first + a] + U32(rest))
        return t32[hot_leaves + place] if place < hot else leaves[place]

    return leaf


def _blocked(jit: Jit, splits: list[Device], leaf: Device, n: int, k: np.uint32) -> Device:
    def step(split: Device) -> Device:
        @jit
        def block(t8, t32, t64, leaves, hi, lo, j):
            a, hi, lo, rest = split(t8, t32, t64, hi, lo, j)
            return leaf(t32, leaves, rest, a), hi, lo, U32(j - a)

        return block

    if n == 16:
        block_0, block_1, block_2 = map(step, splits)

        @jit
        def decode_16(t8, t32, t64, leaves, hi, lo):
            w0, hi, lo, j = block_0(t8, t32, t64, leaves, hi, lo, k)
            w1, hi, lo, j = block_1(t8, t32, t64, leaves, hi, lo, j)
            w2, hi, lo, j = block_2(t8, t32, t64, leaves, hi, lo, j)
            return w0, w1, w2, leaf(t32, leaves, lo, j)

        return decode_16
    block_0, block_1, block_2, block_3, block_4, block_5, block_6 = map(step, splits)

    @jit
    def decode_32(t8, t32, t64, leaves, hi, lo):
        w0, hi, lo, j = block_0(t8, t32, t64, leaves, hi, lo, k)
        w1, hi, lo, j = block_1(t8, t32, t64, leaves, hi, lo, j)
        w2, hi, lo, j = block_2(t8, t32, t64, leaves, hi, lo, j)
        w3, hi, lo, j = block_3(t8, t32, t64, leaves, hi, lo, j)
        w4, hi, lo, j = block_4(t8, t32, t64, leaves, hi, lo, j)
        w5, hi, lo, j = block_5(t8, t32, t64, leaves, hi, lo, j)
        w6, hi, lo, j = block_6(t8, t32, t64, leaves, hi, lo, j)
        return w0, w1, w2, w3, w4, w5, w6, leaf(t32, leaves, lo, j)

    return decode_32


def _tree(jit: Jit, splits: list[Device], leaf: Device, n: int, k: np.uint32) -> Device:
    split_16, split_8 = splits[-2:]

    @jit
    def eight(t8, t32, t64, leaves, rank, j):
        a, _, first, second = split_8(t8, t32, t64, NONE, rank, j)
        return leaf(t32, leaves, first, a), leaf(t32, leaves, second, U32(j - a))

    @jit
    def sixteen(t8, t32, t64, leaves, rank, j):
        a, _, first, second = split_16(t8, t32, t64, NONE, rank, j)
        w0, w1 = eight(t8, t32, t64, leaves, first, a)
        w2, w3 = eight(t8, t32, t64, leaves, second, U32(j - a))
        return w0, w1, w2, w3

    if n == 16:

        @jit
        def decode_16(t8, t32, t64, leaves, hi, lo):
            return sixteen(t8, t32, t64, leaves, lo, k)

        return decode_16
    split_32 = splits[0]

    @jit
    def decode_32(t8, t32, t64, leaves, hi, lo):
        a, _, first, second = split_32(t8, t32, t64, hi, lo, k)
        w0, w1, w2, w3 = sixteen(t8, t32, t64, leaves, first, a)
        w4, w5, w6, w7 = sixteen(t8, t32, t64, leaves, second, U32(k - a))
        return w0, w1, w2, w3, w4, w5, w6, w7

    return decode_32


def decoder(jit: Jit, high_product: Device, plan: Plan) -> Device:
    """Return a function of t8, t32, t64, leaves, hi and lo that gives n/4 words of four int8.

    n is 16 or 32. high_product gives the upper half of a product of 64 bits.
    """
    splits = [splitter(jit, high_product, node) for node in plan.nodes]
    make = _blocked if plan.order == "blocked" else _tree
    return make(jit, splits, looker(jit, plan), plan.n, U32(plan.k))
