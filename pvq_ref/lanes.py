"""Many groups at once: layout, and a start for the exact search (spec section 4.1).

Each lane holds one group. points[0] are the magnitudes u and points[1] the pulses z, each of shape
(coordinates, lanes), so that inner loops run over lanes, without branches, and a compiler's vector
instructions take several groups in one step. Coordinates are padded to a multiple of four with
u = -infinity and z = 0, which never win.

A start is s u - t + 1/2, rounded down, with a scale s and a shift t that suited the groups before.
Then a few pulses are moved until their number is k. Any start leads to the same result, but from a
good one it is near.
"""

import numpy as np
from numpy.typing import NDArray

from pvq_ref.jit import kernel

Floats = NDArray[np.float64]

_GRID = 1.5 * 2.0**24  # adding it, and taking it away, rounds to a multiple of 2^-28
_PLACE = 2.0**-38  # the number of a coordinate, in the bits below

SURE, AGAIN, DOUBT = 0.0, 1.0, 2.0  # what is known of a lane
# Fields of a lane: the row of its group, and what is known of it; sums of u and u²; pulses that z
# lacks; the scales of its start, of z, and of a look; a, b, a/sqrt(b); norms of better points.
ROW, VERDICT, TOTAL, SQUARE, MISSING, START, OWN, LOOK, A, B, RATIO, LEAST, MOST = range(13)
FIELDS = 13


@kernel
def worth(key: float) -> float:
    """Return the worth s u - z of a key."""
    return (key + _GRID) - _GRID


@kernel
def place(key: float, coordinates: int) -> int:
    """Return the coordinate of a key."""
    return coordinates - 1 - int((key - ((key + _GRID) - _GRID)) / _PLACE)


@kernel
def extremes(points: Floats, s: Floats, keys: Floats) -> None:
    """Write keys of each lane's best new pulse and worst old one at its scale s to keys[:, 0].

    A key is the worth, rounded, with the place counted from the end in the bits below: so comparing
    keys breaks ties as `pvq_ref.walking` does, with the lowest place for a new pulse, the highest
    for an old one. Four coordinates are taken at once, and results go to and fro between two rows,
    because what is kept or replaced in place becomes a masked store, slow on some machines.
    """
    u, z, best, worst = points[0], points[1], keys[0], keys[1]
    blocks = u.shape[0] // 4
    row = blocks & 1
    for lane in range(s.size):
        best[row, lane] = -np.inf
        worst[row, lane] = np.inf
    for block in range(blocks):
        i = 4 * block
        old_best, old_worst = best[row], worst[row]
        row = 1 - row
        new_best, new_worst = best[row], worst[row]
        low = _PLACE * (u.shape[0] - 1 - i)
        u0, u1, u2, u3 = u[i], u[i + 1], u[i + 2], u[i + 3]
        z0, z1, z2, z3 = z[i], z[i + 1], z[i + 2], z[i + 3]
        for lane in range(s.size):
            k0 = ((s[lane] * u0[lane] - z0[lane]) + _GRID) - _GRID + low
            k1 = ((s[lane] * u1[lane] - z1[lane]) + _GRID) - _GRID + (low - _PLACE)
            k2 = ((s[lane] * u2[lane] - z2[lane]) + _GRID) - _GRID + (low - 2 * _PLACE)
            k3 = ((s[lane] * u3[lane] - z3[lane]) + _GRID) - _GRID + (low - 3 * _PLACE)
            new_best[lane] = max(old_best[lane], max(max(k0, k1), max(k2, k3)))
            k0 = k0 if z0[lane] > 0.0 else np.inf
            k1 = k1 if z1[lane] > 0.0 else np.inf
            k2 = k2 if z2[lane] > 0.0 else np.inf
            k3 = k3 if z3[lane] > 0.0 else np.inf
            new_worst[lane] = min(old_worst[lane], min(min(k0, k1), min(k2, k3)))


@kernel
def load(x: Floats, row: int, points: Floats, lanes: Floats, first: int, count: int) -> None:
    """Put the rows of x from `row` on into the lanes from first to count."""
    for lane in range(first, count):
        largest = 0.0
        for i in range(x.shape[1]):
            value = abs(x[row, i])
            points[0, i, lane] = value
            largest = max(largest, value)
        lanes[ROW, lane] = row
        lanes[VERDICT, lane] = SURE
        if not 1e-60 < largest < 1e60:  # 0, or a product of four magnitudes could overflow
            lanes[VERDICT, lane] = DOUBT
            for i in range(x.shape[1]):
                points[0, i, lane] = 1.0
        row += 1


@kernel
def _round(
    points: Floats, n: int, first: int, s: Floats, shift: float, k: float, missing: Floats
) -> None:
    """Round to z, and count the missing pulses."""
    for lane in range(s.size):
        missing[lane] = k
    for i in range(n):
        u, z = points[0, i][first:], points[1, i][first:]
        for lane in range(s.size):
            pulses = np.floor(s[lane] * u[lane] + shift)
            z[lane] = pulses
            missing[lane] -= pulses


@kernel
def start(
    points: Floats, n: int, k: float, lanes: Floats, first: int, count: int, hint: Floats
) -> None:
    """Write points of about k pulses to the lanes from first to count.

    hint is s ||u||_1 / k and t.
    """
    total, square = lanes[TOTAL][first:count], lanes[SQUARE][first:count]
    missing, s, guess = (
        lanes[MISSING][first:count], lanes[START][first:count], lanes[OWN][first:count]
    )  # fmt: skip
    for lane in range(s.size):
        total[lane] = 0.0
        square[lane] = 0.0
    for i in range(n):
        u = points[0, i][first:]
        for lane in range(s.size):
            total[lane] += u[lane]
            square[lane] += u[lane] * u[lane]
    for lane in range(s.size):
        guess[lane] = hint[0] * k / total[lane]
    _round(points, n, first, guess, 0.5 - hint[1], k, missing)
    for lane in range(s.size):  # one step of Newton's method, with the steepest slope there can be
        better = max(guess[lane] + missing[lane] / total[lane], 0.5 * k / total[lane])
        s[lane] = better if abs(missing[lane]) > 2.0 else guess[lane]
    _round(points, n, first, s, 0.5 - hint[1], k, missing)


@kernel
def repair(points: Floats, lanes: Floats, count: int, keys: Floats) -> None:
    """Add or take away single pulses, until at most an eighth of the lanes doesn't have k."""
    z, missing, s = points[1], lanes[MISSING], lanes[START][:count]
    left = count
    while 8 * left > count:
        extremes(points, s, keys)
        left = 0
        for lane in range(count):
            if missing[lane] > 0.0:
                z[place(keys[0, 0, lane], z.shape[0]), lane] += 1.0
                missing[lane] -= 1.0
            elif missing[lane] < 0.0:
                z[place(keys[1, 0, lane], z.shape[0]), lane] -= 1.0
                missing[lane] += 1.0
            left += missing[lane] != 0.0
