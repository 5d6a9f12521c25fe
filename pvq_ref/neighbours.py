"""Neighbours: the best points that are one exchange away from a point (spec section 7.10).

At a fixed s an exchange adds to J what two single steps and their product add (see
`pvq_ref.exchange`). The pairs that add least make the neighbours; each then gets the level that is
nearest to its own best gain, and its error from

    J = <t,Mt> + s² <y,My> - 2 s <c,y>,    c = M t,

whose products change by a few elements of c, M and M y.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pvq_ref.exchange import multiply, nearest_level, outlined, products, single_steps
from pvq_ref.gain import Floats
from pvq_ref.jit import kernel

Integers = NDArray[np.int64]
Points = NDArray[np.int32]


@kernel
def _best_pairs(
    M: Floats, outline: Floats, c: Floats, s: float, y: Floats, work: Floats, pairs: Integers
) -> None:
    """Write the places that grow and shrink in the pairs that add least at a fixed s, best first.

    pairs (2, number), number <= n. work is as in the search of one pair; its fourth row gets what
    the pairs add, infinity for those that there aren't.
    """
    reach, up, grow, shrink, added = outline[1], work[0], work[1], work[2], work[3]
    last = pairs.shape[1] - 1
    added[:] = np.inf
    lowest = single_steps(outline[0], c, s, y, work)
    for j in range(y.size):
        if y[j] == 0.0 or lowest + shrink[j] - 2.0 * s * s * reach[j] >= added[last]:
            continue
        row, both, below = M[j], -2.0 * s * s * up[j], 0
        for i in range(y.size):
            below += grow[i] + shrink[j] + both * up[i] * row[i] < added[last]
        if below == 0:
            continue
        for i in range(y.size):
            change = grow[i] + shrink[j] + both * up[i] * row[i]
            if change >= added[last] or i == j:
                continue
            place = last
            while place > 0 and added[place - 1] > change:
                added[place] = added[place - 1]
                pairs[0, place], pairs[1, place] = pairs[0, place - 1], pairs[1, place - 1]
                place -= 1
            added[place], pairs[0, place], pairs[1, place] = change, i, j


@kernel
def _code(
    linear: float, energy: float, square: float, unit: float, levels: Floats
) -> tuple[int, float]:
    """Return the nearest level of a point, and its error less <t,Mt>.

    linear is <c,y>, energy <y,My>, square ||y||².
    """
    length = math.sqrt(square)
    field = nearest_level(levels, linear / energy * length / unit)
    s = unit * levels[field] / length
    return field, s * (s * energy - 2.0 * linear)


@kernel
def _take(
    M: Floats,
    outline: Floats,
    c: Floats,
    unit: float,
    levels: Floats,
    points: Points,
    fields: Integers,
    losses: Floats,
) -> None:
    """Write the best neighbours of points[0] behind it; fields[0] is its level.

    points (choices, n); fields (choices,); losses (choices,), losses[0] a loss without this group
    plus <t,Mt>, and then each with it. Where neighbours lack, losses are infinite.
    """
    n, before = points.shape[1], losses[0]
    work, y = np.empty((5, n)), np.empty(n)
    pairs = np.zeros((2, min(points.shape[0] - 1, n)), np.int64)
    for i in range(n):
        y[i] = points[0, i]
    My = work[4]
    multiply(M, y, My)
    linear, energy, square = products(c, y, My)
    s = unit * levels[fields[0]] / math.sqrt(square)
    losses[0] += s * (s * energy - 2.0 * linear)
    _best_pairs(M, outline, c, s, y, work, pairs)
    for number in range(pairs.shape[1]):
        i, j, choice = pairs[0, number], pairs[1, number], number + 1
        rise, fall = work[0, i], -work[0, j]
        own = M[i, i] + M[j, j] + 2.0 * rise * fall * M[i, j]
        raised = energy + 2.0 * (rise * My[i] + fall * My[j]) + own
        if work[3, number] == np.inf or raised <= 0.0:  # zero by rounding: M is all but singular
            continue
        fields[choice], error = _code(
            linear + rise * c[i] + fall * c[j],
            raised,
            square + 2.0 * (rise * y[i] + fall * y[j]) + 2.0,
            unit,
            levels,
        )
        points[choice, i] += np.int32(rise)
        points[choice, j] += np.int32(fall)
        losses[choice] = before + error


@kernel
def take_neighbours(
    c: Floats,
    M: Floats,
    units: Floats,
    levels: Floats,
    points: Points,
    fields: Integers,
    losses: Floats,
) -> None:
    """Write the neighbours of the first choice of every path.

    c (paths, n), M times the targets; units (paths,); levels, at least one; points (paths, choices,
    n); fields and losses (paths, choices), as above. A row without a norm has one choice.
    """
    outline = np.empty((2, M.shape[0]))
    outlined(M, outline)
    for path in range(c.shape[0]):
        for choice in range(1, fields.shape[1]):
            for i in range(points.shape[2]):  # a slice would take seconds to compile
                points[path, choice, i] = points[path, 0, i]
            fields[path, choice] = fields[path, 0]
            losses[path, choice] = np.inf
        if units[path] > 0.0:
            _take(
                M, outline, c[path], units[path], levels,
                points[path], fields[path], losses[path],
            )  # fmt: skip
