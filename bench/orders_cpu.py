"""The loops of bench/orders.py on a processor, compiled by Numba, tile by tile."""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from orders_splitting import NONE, Device, splitter
from orders_tables import Node, Plan

TILE = 128  # groups that are decoded together, as in pvq_ref.finding
compiled = numba.njit(nogil=True, error_model="numpy")


@intrinsic
def high_product(typing_context: Any, a: Any, b: Any) -> Any:
    """Return the upper half of a product of 64 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        double = ir.IntType(128)
        product = builder.mul(*(builder.zext(each, double) for each in arguments))
        shifted = builder.lshr(product, ir.Constant(double, 64))
        return builder.trunc(shifted, ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), generate


def _chain(levels: list[Device]) -> Device:
    """Return a function that calls them one after the other, with its own arguments."""
    first, *others = levels
    if not others:
        return first
    rest = _chain(others)

    @compiled
    def both(t8, t32, t64, hi, ranks, pulses, count):
        first(t8, t32, t64, hi, ranks, pulses, count)
        rest(t8, t32, t64, hi, ranks, pulses, count)

    return both


def _blocked_level(node: Node, level: int) -> Device:
    """Take a block off: its rank and pulses stay in row `level`, what is left goes one further."""
    split = splitter(compiled, high_product, node)

    @compiled
    def narrow_level(t8, t32, t64, hi, ranks, pulses, count):
        for i in range(count):
            j = pulses[level, i]
            a, _, lower, rest = split(t8, t32, t64, NONE, ranks[level, i], j)
            ranks[level + 1, i], ranks[level, i] = lower, rest
            pulses[level + 1, i], pulses[level, i] = j - a, a

    if node.width < 128:
        return narrow_level

    @compiled
    def blocked_level(t8, t32, t64, hi, ranks, pulses, count):
        for i in range(count):
            j = pulses[level, i]
            a, upper, lower, rest = split(t8, t32, t64, hi[i], ranks[level, i], j)
            hi[i], ranks[level + 1, i], ranks[level, i] = upper, lower, rest
            pulses[level + 1, i], pulses[level, i] = j - a, a

    return blocked_level


def _tree_level(node: Node, level: int) -> Device:
    """Split what is in row `level` in two, side by side in the row further on."""
    split, is_wide = splitter(compiled, high_product, node), node.width == 128

    @compiled
    def tree_level(t8, t32, t64, hi, ranks, pulses, count):
        for i in range(count << level):
            j, upper = pulses[level, i], hi[i] if is_wide else NONE
            a, _, first, second = split(t8, t32, t64, upper, ranks[level, i], j)
            ranks[level + 1, 2 * i], ranks[level + 1, 2 * i + 1] = first, second
            pulses[level + 1, 2 * i], pulses[level + 1, 2 * i + 1] = a, j - a

    return tree_level


def loop(plan: Plan) -> Callable[[NDArray[np.uint64], NDArray[np.uint32]], None]:
    """Return a function that decodes indices (groups, 2), lower words first, into words of int8.

    A tile of groups goes through each level together, so that their look-ups don't wait for each
    other; leaves come last.
    """
    make = _blocked_level if plan.order == "blocked" else _tree_level
    run = _chain([make(node, level) for level, node in enumerate(plan.nodes)])
    is_tree, k, first = plan.order == "tree", np.uint32(plan.k), np.uint32(plan.first)
    rows, columns = len(plan.nodes) + 1, plan.n // 4
    width = TILE * columns if is_tree else TILE

    @compiled
    def decode_all(t8, t32, t64, leaves, index, out):
        ranks, pulses = np.empty((rows, width), np.uint64), np.empty((rows, width), np.uint32)
        hi = np.empty(TILE, np.uint64)
        for start in range(0, out.shape[0], TILE):
            count = min(TILE, out.shape[0] - start)
            for i in range(count):
                ranks[0, i], hi[i], pulses[0, i] = index[start + i, 0], index[start + i, 1], k
            run(t8, t32, t64, hi, ranks, pulses, count)
            for i in range(count):
                for c in range(columns):
                    row, column = (rows - 1, i * columns + c) if is_tree else (c, i)
                    place = np.uint64(t32[first + pulses[row, column]]) + ranks[row, column]
                    out[start + i, c] = leaves[place]

    t8 = plan.buffer
    views = t8, t8.view(np.uint32), t8.view(np.uint64), plan.leaves
    return lambda index, out: decode_all(*views, index, out)
