"""Many groups at once: layout, and a start for the exact search (spec section 4.1).

Each lane holds one group. points[U] are the magnitudes u and points[Z] the pulses z, each of shape
(coordinates, lanes), so that inner loops run over lanes, without branches, and a compiler's vector
instructions take several groups in one step. Coordinates are padded to a multiple of four with
u = NEVER and z = 0, which never win.

A start is s u - t + 1/2, rounded down, with a scale s and a shift t that suited the groups before.
Then single pulses are moved, until their number is k and z is nearest at its own scale b/a, with
a = <u,z>, b = ||z||². Any start leads to the same result, but from a good one it is near.
"""

import numpy as np
from numpy.typing import NDArray

from pvq_ref.jit import inlined, kernel

Floats = NDArray[np.float64]

MOST_LANES = 128  # of a batch, which then stays in the cache
MOST_WALKS = 384  # two for each lane of a batch, and those left over from the one before
ROW_SIZE = MOST_WALKS + 8  # of fields

EPSILON = 2.0**-26
ROOM = 2.0**26  # for the squares of scaled magnitudes
TINY = 1e-300  # keeps lanes that aren't asked from dividing by 0; lost on others by rounding
LARGE = 1e60  # from there on, and below its inverse, powers of u could overflow
NEVER = -1e150  # times any scale this is far below all worths, and finite
_GRID = 1.5 * 2.0**24  # adding it, and taking it away, rounds to a multiple of 2^-28
_PLACE = 2.0**-38  # the number of a coordinate, in the bits below

U, Z = range(2)  # planes of points
SURE, AGAIN, DOUBT = 0.0, 1.0, 2.0  # what is known of a lane
# Fields of a lane, lanes[FIELD + lane], at distances that the compiler knows, so that it sees that
# they don't overlap: the row of its group, and what is known of it; sums of u and u²; pulses that z
# lacks; the scales of its start, and of z; a, b and a/sqrt(b); norms of better points; pulses to
# add and to take away; and a pair of places, below.
(
    ROW, VERDICT, TOTAL, SQUARE, MISSING, START, OWN, A, B, RATIO, LEAST, MOST, ADD, TAKE, PAIR,
) = range(0, 15 * ROW_SIZE, ROW_SIZE)  # fmt: skip
# Fields of a pair, pair[FIELD + lane]: the places that a pulse would best go to and come from; what
# that adds to 2 s a - b, halved; the worth between the two; u and z at both places.
TO, FROM, EXCESS, BETWEEN, U_TO, U_FROM, Z_TO, Z_FROM = range(0, 8 * ROW_SIZE, ROW_SIZE)
LANES_SIZE = PAIR + 8 * ROW_SIZE


@kernel
def extremes(u: Floats, z: Floats, s: Floats, keys: Floats) -> None:
    """Write keys of each lane's best new pulse and worst old one at its scale s to keys[:, 0].

    A key is the worth s u - z, rounded, with the place counted from the end in the bits below: so
    comparing keys breaks ties as `pvq_ref.walking` does, with the lowest place for a new pulse, the
    highest for an old one. Four coordinates are taken at once, and results go to and fro between
    two rows, because what is kept or replaced in place becomes a masked store, slow on some
    machines.
    """
    best, worst = keys[0], keys[1]
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
            k0 = k0 if z0[lane] > 0.0 else -NEVER
            k1 = k1 if z1[lane] > 0.0 else -NEVER
            k2 = k2 if z2[lane] > 0.0 else -NEVER
            k3 = k3 if z3[lane] > 0.0 else -NEVER
            new_worst[lane] = min(old_worst[lane], min(min(k0, k1), min(k2, k3)))


@kernel
def find_pairs(coordinates: int, keys: Floats, pair: Floats, count: int) -> None:
    """Write the fields of a pair up to BETWEEN. Without pulses all but the first mean nothing."""
    for lane in range(count):
        best, worst = keys[0, 0, lane], keys[1, 0, lane]
        new, old = (best + _GRID) - _GRID, (worst + _GRID) - _GRID
        i = coordinates - 1 - (best - new) / _PLACE
        j = coordinates - 1 - (worst - old) / _PLACE
        pair[TO + lane] = i if (i >= 0.0) & (i < coordinates) else 0.0  # should s u be too large
        pair[FROM + lane] = j if (j >= 0.0) & (j < coordinates) else 0.0
        pair[EXCESS + lane] = new - old - 1.0
        pair[BETWEEN + lane] = 0.5 * (new + old)


@kernel
def read_pairs(u: Floats, z: Floats, pair: Floats, count: int) -> None:
    """Write u and z at the places of each lane's pair."""
    for lane in range(count):
        i, j = np.uint32(pair[TO + lane]), np.uint32(pair[FROM + lane])
        pair[U_TO + lane], pair[U_FROM + lane] = u[i, lane], u[j, lane]
        pair[Z_TO + lane], pair[Z_FROM + lane] = z[i, lane], z[j, lane]


@kernel
def load(x: Floats, row: int, points: Floats, lanes: Floats, first: int, count: int) -> None:
    """Put the rows of x from `row` on into the lanes from first to count."""
    for lane in range(first, count):
        for i in range(x.shape[1]):
            points[U, i, lane] = min(abs(x[row, i]), LARGE)
        lanes[ROW + lane] = row
        row += 1


@kernel
def _sums(points: Floats, lanes: Floats, first: int, count: int) -> None:
    """Write the sums of u and u²."""
    total, square = lanes[TOTAL + first : TOTAL + count], lanes[SQUARE + first : SQUARE + count]
    for lane in range(total.size):
        total[lane] = 0.0
        square[lane] = 0.0
    for i in range(0, points.shape[1], 4):
        u0, u1, u2, u3 = (
            points[U, i][first:], points[U, i + 1][first:], points[U, i + 2][first:],
            points[U, i + 3][first:],
        )  # fmt: skip
        for lane in range(total.size):
            total[lane] += (u0[lane] + u1[lane]) + (u2[lane] + u3[lane])
            square[lane] += (u0[lane] * u0[lane] + u1[lane] * u1[lane]) + (
                u2[lane] * u2[lane] + u3[lane] * u3[lane]
            )


@kernel
def _count(points: Floats, s: Floats, shift: float, k: float, missing: Floats, first: int) -> None:
    """Count the pulses that would be missing after rounding."""
    for lane in range(s.size):
        missing[lane] = k
    for i in range(0, points.shape[1], 4):
        u0, u1, u2, u3 = (
            points[U, i][first:], points[U, i + 1][first:], points[U, i + 2][first:],
            points[U, i + 3][first:],
        )  # fmt: skip
        for lane in range(s.size):
            missing[lane] -= (
                np.floor(s[lane] * u0[lane] + shift) + np.floor(s[lane] * u1[lane] + shift)
            ) + (np.floor(s[lane] * u2[lane] + shift) + np.floor(s[lane] * u3[lane] + shift))


@kernel
def _round(points: Floats, s: Floats, shift: float, first: int) -> None:
    """Round to z."""
    for i in range(points.shape[1]):
        u, z = points[U, i][first:], points[Z, i][first:]
        for lane in range(s.size):
            z[lane] = np.floor(s[lane] * u[lane] + shift)


@kernel
def _products(points: Floats, k: float, lanes: Floats, first: int, count: int) -> None:
    """Write a and b, and count the pulses that z lacks."""
    a, b, missing = lanes[A + first : A + count], lanes[B + first :], lanes[MISSING + first :]
    for lane in range(a.size):
        a[lane] = 0.0
        b[lane] = 0.0
        missing[lane] = k
    for i in range(0, points.shape[1], 2):
        u0, u1 = points[U, i][first:], points[U, i + 1][first:]
        z0, z1 = points[Z, i][first:], points[Z, i + 1][first:]
        for lane in range(a.size):
            a[lane] += u0[lane] * z0[lane] + u1[lane] * z1[lane]
            b[lane] += z0[lane] * z0[lane] + z1[lane] * z1[lane]
            missing[lane] -= z0[lane] + z1[lane]


@inlined
def start(
    points: Floats, n: int, k: float, lanes: Floats, first: int, count: int, hint: Floats
) -> None:
    """Write points of about k pulses to the lanes from first to count; those whose u can't be
    calculated with are in doubt.

    hint is s ||u||_1 / k and t.
    """
    for i in range(n, points.shape[1]):
        for lane in range(first, count):
            points[U, i, lane] = 0.0
    _sums(points, lanes, first, count)
    for lane in range(first, count):
        lanes[VERDICT + lane] = SURE
        if not LARGE**-2 < lanes[SQUARE + lane] < LARGE**2:
            lanes[VERDICT + lane] = DOUBT
            lanes[TOTAL + lane] = lanes[SQUARE + lane] = n
            for i in range(n):
                points[U, i, lane] = 1.0
        lanes[START + lane] = hint[0] * k / lanes[TOTAL + lane]
    s, missing = lanes[START + first : START + count], lanes[MISSING + first :]
    _count(points, s, 0.5 - hint[1], k, missing, first)
    for lane in range(first, count):
        # One step of Newton's method, with the steepest slope there can be.
        guess, lack, total = lanes[START + lane], lanes[MISSING + lane], lanes[TOTAL + lane]
        better = max(guess + lack / total, 0.5 * k / total)
        lanes[START + lane] = better if abs(lack) > 2.0 else guess
    _round(points, s, 0.5 - hint[1], first)
    _products(points, k, lanes, first, count)
    for i in range(n, points.shape[1]):
        for lane in range(first, count):
            points[U, i, lane] = NEVER


@kernel
def _choose(lanes: Floats, count: int) -> int:
    """Choose to add a pulse where one is missing, to take one away where there are too many, or to
    move one to where it is worth more; return how many lanes that are. All but z is set to it.
    """
    pair, moved = lanes[PAIR:], 0
    for lane in range(count):
        missing, own = lanes[MISSING + lane], lanes[OWN + lane]
        swap = (missing == 0.0) & (pair[EXCESS + lane] > EPSILON)
        swap &= own * own * lanes[SQUARE + lane] <= ROOM
        add, take = (missing > 0.0) | swap, (missing < 0.0) | swap
        a = (pair[U_TO + lane] if add else 0.0) - (pair[U_FROM + lane] if take else 0.0)
        b = 2.0 * pair[Z_TO + lane] + 1.0 if add else 0.0
        b -= 2.0 * pair[Z_FROM + lane] - 1.0 if take else 0.0
        lanes[A + lane] += a
        lanes[B + lane] += b
        lanes[MISSING + lane] = missing + np.float64(take) - np.float64(add)
        pair[EXCESS + lane] = 1.0 if add | take else pair[EXCESS + lane]
        lanes[ADD + lane], lanes[TAKE + lane] = np.float64(add), np.float64(take)
    for lane in range(count):
        moved += (lanes[ADD + lane] + lanes[TAKE + lane]) > 0.0
    return moved


@inlined
def settle(points: Floats, lanes: Floats, count: int, keys: Floats) -> None:
    """Move pulses until at most an eighth of the lanes isn't settled: these get an EXCESS of 1."""
    u, z, pair = points[U], points[Z], lanes[PAIR:]
    moved = count
    while 8 * moved > count:
        for lane in range(count):
            scale = lanes[B + lane] / (lanes[A + lane] + TINY)
            lanes[OWN + lane] = scale if lanes[MISSING + lane] == 0.0 else lanes[START + lane]
        extremes(u, z, lanes[OWN : OWN + count], keys)
        find_pairs(u.shape[0], keys, pair, count)
        read_pairs(u, z, pair, count)
        moved = _choose(lanes, count)
        for lane in range(count):
            z[np.uint32(pair[TO + lane]), lane] += lanes[ADD + lane]
            z[np.uint32(pair[FROM + lane]), lane] -= lanes[TAKE + lane]
