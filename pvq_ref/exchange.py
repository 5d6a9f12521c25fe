"""Weighted search of groups: exchange pulses while the weighted error falls (spec section 7.3).

A target t is coded as s y with s = unit · level / ||y||, unit the norm of its row. Its error is

    J = (t - s y) M (t - s y)ᵀ = const - 2 s <c,y> + s² <y,My>,    c = M t,

with a symmetric positive definite M. An exchange lets one magnitude grow by 1 and another shrink by
1, so that their sum stays k. At a fixed s, with g = c - s M y, a step of y_i by d_i = ±1 alone adds

    s² M_ii - 2 s d_i g_i

to J, and a pair of steps adds the sum of both and 2 s² d_i d_j M_ij. The last term is bounded by
the largest element of row j off the diagonal, so most j need no look at their pairs. The best pair
is taken while it lowers J, then s is set anew. At a fixed s J falls with each exchange, so that
ends; setting s to a level may raise J, so the best point with its level is kept.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pvq_ref.gain import Floats
from pvq_ref.jit import kernel

UNCODED = -1  # in place of the number of a level: the group has a point to start from only
_ROUNDS = 8  # at most as many times s is set anew
_LEAST = 1e-12  # a change lowers J by more than this part of <sy, M sy>, far above rounding


@kernel
def products(c: Floats, y: Floats, My: Floats) -> tuple[float, float, float]:
    """Return <c,y>, <y,My> and ||y||²."""
    linear = energy = square = 0.0
    for i in range(y.size):
        linear += c[i] * y[i]
        energy += y[i] * My[i]
        square += y[i] * y[i]
    return linear, energy, square


@kernel
def _copy(x: Floats, out: Floats) -> None:
    """Write x. (A slice would do, and take seconds to compile.)"""
    for i in range(x.size):
        out[i] = x[i]


@kernel
def multiply(M: Floats, x: Floats, out: Floats) -> None:
    """Write M x, M symmetric, as a sum of its rows, which vector instructions can do."""
    out[:] = 0.0
    for j in range(x.size):
        row, factor = M[j], x[j]
        for i in range(x.size):
            out[i] += factor * row[i]


@kernel
def outlined(M: Floats, outline: Floats) -> None:
    """Write the diagonal of M, and the largest magnitude off it of every row."""
    own, reach = outline[0], outline[1]
    for j in range(own.size):
        own[j], reach[j] = M[j, j], 0.0
        for i in range(own.size):
            if i != j:
                reach[j] = max(reach[j], abs(M[j, i]))


@kernel
def single_steps(own: Floats, c: Floats, s: float, y: Floats, work: Floats) -> float:
    """Write what steps of single places add to J, own being the diagonal of M.

    The rows of work: the direction in which each |y_i| grows, what that adds, and what a step the
    other way adds; the last row is M y. Return the least that growing adds.
    """
    up, grow, shrink, My = work[0], work[1], work[2], work[-1]
    lowest = np.inf
    for i in range(y.size):
        slope = 2.0 * s * (c[i] - s * My[i])
        up[i] = 1.0 if y[i] > 0.0 or (y[i] == 0.0 and slope >= 0.0) else -1.0
        grow[i] = s * s * own[i] - up[i] * slope
        shrink[i] = s * s * own[i] + up[i] * slope
    for i in range(y.size):
        lowest = min(lowest, grow[i])
    return lowest


@kernel
def _best_pair(
    M: Floats, outline: Floats, c: Floats, s: float, y: Floats, work: Floats, bar: float
) -> tuple[int, int]:
    """Return the places that grow and shrink in the pair that adds least, if below bar < 0.

    Without one both are 0: a step and the same step back.
    """
    own, reach, up, grow, shrink = outline[0], outline[1], work[0], work[1], work[2]
    lowest = single_steps(own, c, s, y, work)
    grows = shrinks = 0
    for j in range(y.size):
        if y[j] == 0.0 or lowest + shrink[j] - 2.0 * s * s * reach[j] >= bar:
            continue
        row, both, below = M[j], -2.0 * s * s * up[j], 0
        for i in range(y.size):  # counting is for vector instructions, and mostly finds none
            below += grow[i] + shrink[j] + both * up[i] * row[i] < bar
        if below == 0:
            continue
        for i in range(y.size):
            change = grow[i] + shrink[j] + both * up[i] * row[i]
            if change < bar and i != j:
                bar, grows, shrinks = change, i, j
    return grows, shrinks


@kernel
def _exchange(
    M: Floats, outline: Floats, c: Floats, s: float, y: Floats, work: Floats, energy: float
) -> bool:
    """Exchange pulses at a fixed s until none lowers J; return whether any did. energy is <y,My>.

    The last row of work is M y, and is kept so.
    """
    bar, moved, My = -_LEAST * s * s * energy, False, work[-1]
    while True:
        i, j = _best_pair(M, outline, c, s, y, work, bar)
        if i == j:
            return moved
        rise, fall = work[0, i], -work[0, j]
        y[i] += rise
        y[j] += fall
        for other in range(y.size):
            My[other] += rise * M[i, other] + fall * M[j, other]
        moved = True


@kernel
def nearest_level(levels: Floats, gain: float) -> int:
    """Return the number of the nearest level, upwards on ties (spec section 5.5)."""
    number = 0
    while number + 1 < levels.size and gain >= (levels[number] + levels[number + 1]) / 2.0:
        number += 1
    return number


@kernel
def _free(M: Floats, outline: Floats, c: Floats, y: Floats, work: Floats) -> None:
    """Exchange pulses of y with s = <c,y>/<y,My>, the best for y, while it is above zero."""
    for _ in range(_ROUNDS):
        linear, energy, _ = products(c, y, work[-1])
        if linear <= 0.0 or not _exchange(M, outline, c, linear / energy, y, work, energy):
            return


@kernel
def _coded(
    M: Floats,
    outline: Floats,
    c: Floats,
    unit: float,
    levels: Floats,
    y: Floats,
    field: int,
    work: Floats,
) -> int:
    """Improve y, with the level `field` or UNCODED; return the number of its level.

    work holds three rows for steps, one for the best point, one for M y.
    """
    best, My = work[3], work[-1]
    error, number = np.inf, field
    for attempt in range(_ROUNDS):
        linear, energy, square = products(c, y, My)
        length = math.sqrt(square)
        nearest = nearest_level(levels, linear / energy * length / unit)
        if attempt == 0 and field != UNCODED:
            s = unit * levels[field] / length
            error = s * (s * energy - 2.0 * linear)
            _copy(y, best)
        s = unit * levels[nearest] / length
        found = s * (s * energy - 2.0 * linear)
        if number == UNCODED or found < error - _LEAST * abs(error):
            error, number = found, nearest
            _copy(y, best)
        if attempt == 0 and field == UNCODED:
            _free(M, outline, c, y, work)
        elif not _exchange(M, outline, c, s, y, work, energy):
            break
    _copy(best, y)
    return number


@kernel
def exchange_groups(
    c: Floats,
    M: Floats,
    units: Floats,
    levels: Floats,
    y: NDArray[np.int32],
    fields: NDArray[np.int64],
    gains: Floats,
) -> None:
    """Search one group of every row, starting from y, and write y and either fields or gains.

    c (rows, n), M times the targets; M (n, n); units (rows,), the norms of the rows; levels
    ascending, or none for free gains; y (rows, n), points with k pulses; fields (rows,), UNCODED or
    numbers of levels: a group keeps what it starts with where nothing better is found; gains
    (rows, 2), of free gains: the best amplitude of y/||y||, zero at least, and what the square of
    its error adds to J.
    """
    rows, n = c.shape
    work, z, outline = np.empty((5, n)), np.empty(n), np.empty((2, n))
    outlined(M, outline)
    for row in range(rows):
        for i in range(n):
            z[i] = y[row, i]
        multiply(M, z, work[4])
        if levels.size == 0:
            _free(M, outline, c[row], z, work)
            linear, energy, square = products(c[row], z, work[4])
            gains[row, 0] = max(0.0, linear / energy * math.sqrt(square))
            gains[row, 1] = energy / square
        elif units[row] > 0.0:
            fields[row] = _coded(M, outline, c[row], units[row], levels, z, fields[row], work)
        elif fields[row] == UNCODED:
            fields[row] = nearest_level(levels, 0.0)
        for i in range(n):
            y[row, i] = np.int32(z[i])
