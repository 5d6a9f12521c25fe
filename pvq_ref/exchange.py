"""Weighted search of groups: exchange pulses while the weighted error falls (spec section 7.3).

A group w is coded as s y with s = unit · level / ||y||, unit the norm of its row. Its error is

    J = (w - s y) M (w - s y)ᵀ = const - 2 s <c,y> + s² <y,My>,    c = M w,

with a symmetric positive definite M. An exchange lets one magnitude grow by 1 and another shrink by
1, so that their sum stays k. At a fixed s, with g = c - s M y, a step of y_i by d_i = ±1 alone adds

    s² M_ii - 2 s d_i g_i

to J, and a pair of steps adds the sum of both and 2 s² d_i d_j M_ij. So all pairs of a group cost a
few operations each, in loops that compilers vectorize. The best pair is taken while it lowers J,
then s is set anew; J falls with each move, so the search ends.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pvq_ref.gain import Floats
from pvq_ref.jit import kernel

UNCODED = -1  # in place of the number of a level: the group has no point yet
_ROUNDS = 8  # at most as many times s is set anew
_LEAST = 1e-12  # a move lowers J by more than this part of <sy, M sy>, far above rounding


@kernel
def _products(c: Floats, y: Floats, My: Floats) -> tuple[float, float, float]:
    """Return <c,y>, <y,My> and ||y||²."""
    linear = energy = square = 0.0
    for i in range(y.size):
        linear += c[i] * y[i]
        energy += y[i] * My[i]
        square += y[i] * y[i]
    return linear, energy, square


@kernel
def _multiply(M: Floats, x: Floats, out: Floats) -> None:
    """Write M x, M symmetric, as a sum of its rows, which vector instructions can do."""
    out[:] = 0.0
    for j in range(x.size):
        row, factor = M[j], x[j]
        for i in range(x.size):
            out[i] += factor * row[i]


@kernel
def _exchange(M: Floats, c: Floats, s: float, y: Floats, My: Floats, work: Floats) -> int:
    """Exchange pulses at a fixed s until none lowers J; return how many were exchanged.

    The first rows of work (5, n) hold, for each place i: the direction in which |y_i| grows, what
    that step alone adds to J, the least that it adds with a partner, and the partner's number.
    """
    n = y.size
    up, alone, least, partner = work[0], work[1], work[2], work[3]
    moves = 0
    while True:
        energy = 0.0
        for i in range(n):
            slope = c[i] - s * My[i]
            up[i] = 1.0 if y[i] > 0.0 or (y[i] == 0.0 and slope >= 0.0) else -1.0
            alone[i] = s * (s * M[i, i] - 2.0 * up[i] * slope)
            least[i], partner[i] = 0.0, -1.0
            energy += y[i] * My[i]
        for j in range(n):
            if y[j] == 0.0:
                continue
            down = -1.0 if y[j] > 0.0 else 1.0
            step = s * (s * M[j, j] - 2.0 * down * (c[j] - s * My[j]))
            both = 2.0 * s * s * down
            for i in range(n):  # i = j adds 0: a step and the same step back
                change = alone[i] + step + both * up[i] * M[j, i]
                if change < least[i]:
                    least[i], partner[i] = change, float(j)
        i = 0
        for other in range(1, n):
            if least[other] < least[i]:
                i = other
        if least[i] >= -_LEAST * s * s * energy:
            return moves
        j = int(partner[i])
        rise, fall = up[i], -1.0 if y[j] > 0.0 else 1.0
        y[i] += rise
        y[j] += fall
        for other in range(n):
            My[other] += rise * M[i, other] + fall * M[j, other]
        moves += 1


@kernel
def _nearest_level(levels: Floats, gain: float) -> int:
    """Return the number of the nearest level, upwards on ties (spec section 5.5)."""
    number = 0
    while number + 1 < levels.size and gain >= (levels[number] + levels[number + 1]) / 2.0:
        number += 1
    return number


@kernel
def _scale(levels: Floats, number: int, unit: float, square: float) -> float:
    """Return the s of a level."""
    return unit * levels[number] / math.sqrt(square)


@kernel
def _search_group(
    M: Floats, c: Floats, unit: float, levels: Floats, y: Floats, work: Floats
) -> int:
    """Improve y, a point without a level, for c = M w; return the number of its level, or 0.

    At first s is free, <c,y>/<y,My>, the best for y; then it is that of the level nearest to it.
    A best s of zero or less can't be had: the nearest level is the lowest.
    """
    My = work[4]
    for _ in range(_ROUNDS):
        linear, energy, _ = _products(c, y, My)
        if linear <= 0.0 or _exchange(M, c, linear / energy, y, My, work) == 0:
            break
    return 0 if levels.size == 0 else _improve(M, c, unit, levels, y, work)


@kernel
def _improve(M: Floats, c: Floats, unit: float, levels: Floats, y: Floats, work: Floats) -> int:
    """Exchange pulses with s of the nearest level, until none moves; return its number."""
    My, number = work[4], 0
    for _ in range(_ROUNDS):
        linear, energy, square = _products(c, y, My)
        gain = linear / energy * math.sqrt(square)
        number = _nearest_level(levels, gain / unit if unit > 0.0 else 0.0)
        if _exchange(M, c, _scale(levels, number, unit, square), y, My, work) == 0:
            break
    return number


@kernel
def exchange_groups(
    w: Floats,
    M: Floats,
    units: Floats,
    levels: Floats,
    y: NDArray[np.int32],
    fields: NDArray[np.int64],
    gains: Floats,
) -> None:
    """Search one group of every row, starting from y, and write y, fields and gains.

    w (rows, n); M (n, n); units (rows,), the norms of the rows; levels ascending, or none for free
    gains; y (rows, n), points with k pulses; fields (rows,), UNCODED or numbers of levels: a coded
    group keeps its y and level where the search finds nothing better; gains (rows, 2) of those that
    don't: the best amplitude of y/||y||, and what the square of its error adds to J.
    """
    rows, n = w.shape
    work, c, z = np.empty((5, n)), np.empty(n), np.empty(n)
    for row in range(rows):
        _multiply(M, w[row], c)
        for i in range(n):
            z[i] = y[row, i]
        _multiply(M, z, work[4])
        before = np.inf
        if fields[row] == UNCODED:
            number = _search_group(M, c, units[row], levels, z, work)
        else:
            linear, energy, square = _products(c, z, work[4])
            s = _scale(levels, fields[row], units[row], square)
            before = s * (s * energy - 2.0 * linear)
            number = _improve(M, c, units[row], levels, z, work)
        linear, energy, square = _products(c, z, work[4])
        if levels.size > 0:
            s = _scale(levels, number, units[row], square)
            if s * (s * energy - 2.0 * linear) >= before:
                continue
        fields[row] = number
        gains[row, 0], gains[row, 1] = linear / energy * math.sqrt(square), energy / square
        for i in range(n):
            y[row, i] = np.int32(z[i])
