"""Walks from vertex to vertex until nothing better can lie beyond (spec section 4.1).

From each lane's z two walks set out, towards larger scales and towards smaller ones. At its point
w, which is nearest at one scale, a walk looks ahead (`pvq_ref.proving.goal`). If w is nearest there
too, the walk is done. If not, a pair of places crosses before, where a pulse is worth as much in
one as in the other; the first pair that does is found by looking at the crossing, as in
`pvq_ref.walking`, and w moves by that pulse.

All walks stride together: a pass over all coordinates, and then one set of formulas for whatever
each of them is at. Those that don't end with the first look leave their lane, and go on in a pool
of walks, which the next batch joins before it becomes too small for vector instructions.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pvq_ref.jit import inlined, kernel
from pvq_ref.lanes import (
    DOUBT,
    EPSILON,
    EXCESS,
    FROM,
    LEAST,
    MOST,
    OWN,
    RATIO,
    ROOM,
    ROW,
    ROW_SIZE,
    SQUARE,
    SURE,
    TO,
    U_FROM,
    U_TO,
    VERDICT,
    Z_FROM,
    Z_TO,
    A,
    B,
    Floats,
    U,
    Z,
    extremes,
    find_pairs,
    read_pairs,
)
from pvq_ref.proving import MARGIN, goal

Columns = NDArray[np.uint32]

# Fields of a walk, walks[FIELD + walk]: the row of its group; 1.0 upwards, -1.0 downwards; a and b
# of w; the best a/sqrt(b) so far; the greatest or least norm of a better point; the sum of u²; the
# scale of the last look from a vertex; the scale in question, or 0 where the walk has ended; the
# pair of places that is to move, -1 where none is known. These are kept from pass to pass; then
# what to do, and the pair in question, as in `pvq_ref.lanes`.
(
    GROUP, DIRECTION, AT_A, AT_B, BEST, END, SQUARES, BEFORE, AT, NEXT_TO, NEXT_FROM,
    MOVES, IMPROVES, DOUBTS, PAIR,
) = range(0, 15 * ROW_SIZE, ROW_SIZE)  # fmt: skip
KEPT, WALKS_SIZE = MOVES, PAIR + 8 * ROW_SIZE
VECTOR = 16  # walks are taken in multiples of this many, as vector instructions do


@kernel
def _set_out(lanes: Floats, count: int, direction: float, walks: Floats) -> None:
    """Begin a walk from each lane, at the scale to look at; lanes that aren't sure don't go."""
    norm = MOST if direction > 0.0 else LEAST
    for lane in range(count):
        a, b, end = lanes[A + lane], lanes[B + lane], lanes[norm + lane]
        ratio, square = lanes[RATIO + lane], lanes[SQUARE + lane]
        scale = goal(a, b, end, ratio)
        beyond = direction * (end * end - b) >= 1.0
        beyond &= direction * (ratio * MARGIN * end - a) > 0.0
        beyond &= lanes[VERDICT + lane] == SURE
        is_wide = scale * scale * square > ROOM
        lanes[VERDICT + lane] = DOUBT if beyond & is_wide else lanes[VERDICT + lane]
        walks[GROUP + lane], walks[DIRECTION + lane] = lanes[ROW + lane], direction
        walks[AT_A + lane], walks[AT_B + lane], walks[BEST + lane] = a, b, ratio
        walks[END + lane], walks[SQUARES + lane] = end, square
        walks[BEFORE + lane] = lanes[OWN + lane]
        walks[AT + lane] = scale if beyond & (not is_wide) else 0.0
        walks[NEXT_TO + lane] = walks[NEXT_FROM + lane] = -1.0


@inlined
def _pass(u: Floats, w: Floats, walks: Floats, count: int, keys: Floats) -> None:
    """Find the pair in question: a new one, or else that which is to move; read u and w there."""
    pair = walks[PAIR:]
    extremes(u, w, walks[AT : AT + count], keys)
    find_pairs(u.shape[0], keys, pair, count)
    for walk in range(count):
        is_open = (walks[AT + walk] > 0.0) & (pair[EXCESS + walk] > EPSILON)
        pair[TO + walk] = pair[TO + walk] if is_open else max(walks[NEXT_TO + walk], 0.0)
        pair[FROM + walk] = pair[FROM + walk] if is_open else max(walks[NEXT_FROM + walk], 0.0)
    read_pairs(u, w, pair, count)


@kernel
def _decide(k: float, walks: Floats, count: int) -> None:
    """Say where each walk goes on, or that it has ended; no walk branches."""
    for walk in range(count):
        s, direction, end = walks[AT + walk], walks[DIRECTION + walk], walks[END + walk]
        a, b, best = walks[AT_A + walk], walks[AT_B + walk], walks[BEST + walk]
        is_open = (s > 0.0) & (walks[PAIR + EXCESS + walk] > EPSILON)
        move = (s > 0.0) & (not is_open) & (walks[NEXT_TO + walk] >= 0.0)
        # A pair that is worth moving before s: the scale at which it crosses is next.
        apart = walks[PAIR + U_TO + walk] - walks[PAIR + U_FROM + walk]
        rise = walks[PAIR + Z_TO + walk] - walks[PAIR + Z_FROM + walk]
        crossing = (rise + 1.0) / (apart if apart != 0.0 else 1.0)
        leads = (direction * apart > 0.0) & (direction * (crossing - walks[BEFORE + walk]) > 0.0)
        leads &= direction * (s - crossing) > 0.0
        # No pair before that which is to move: it moves, and the next look is from there.
        a_next, b_next = a + apart, b + 2.0 * rise + 2.0
        quality = a_next / math.sqrt(b_next)
        gained, room = quality * quality / (best * best) - 1.0, 8.0 * EPSILON * k / b_next
        improves, ties = move & (gained > room), move & (abs(gained) <= room)
        ratio = quality if improves else best
        beyond = direction * (end * end - b_next) >= 1.0
        beyond &= move & (direction * (ratio * MARGIN * end - a_next) > 0.0)
        ahead = goal(a_next, b_next, end, ratio)
        is_wide = ahead * ahead * walks[SQUARES + walk] > ROOM
        goes = beyond & (not is_wide) & (not ties) & (direction * (ahead - s) > 0.0)
        walks[AT + walk] = crossing if is_open & leads else (ahead if goes else 0.0)
        walks[BEFORE + walk] = s if goes else walks[BEFORE + walk]
        walks[NEXT_TO + walk] = walks[PAIR + TO + walk] if is_open else -1.0
        walks[NEXT_FROM + walk] = walks[PAIR + FROM + walk] if is_open else -1.0
        walks[AT_A + walk], walks[AT_B + walk] = a_next if move else a, b_next if move else b
        walks[BEST + walk] = ratio
        walks[MOVES + walk], walks[IMPROVES + walk] = np.float64(move), np.float64(improves)
        walks[DOUBTS + walk] = np.float64((is_open & (not leads)) | ties | (beyond & is_wide))


@kernel
def write(x: Floats, z: Floats, column: int, row: int, y: NDArray[np.int32]) -> None:
    """Write a point as the result for a row, with the signs of x."""
    for i in range(x.shape[1]):
        y[row, i] = np.int32(math.copysign(z[i, column], x[row, i]))


@kernel
def _land(
    x: Floats, k: float, w: Floats, walks: Floats, count: int, y: NDArray[np.int32],
    quality: Floats, sure: NDArray[np.bool_],
) -> int:  # fmt: skip
    """Move pulses, and tell groups what their walks found; return how many go on."""
    pair, going = walks[PAIR:], 0
    for walk in range(count):
        w[np.uint32(pair[TO + walk]), walk] += walks[MOVES + walk]
        w[np.uint32(pair[FROM + walk]), walk] -= walks[MOVES + walk]
        going += walks[AT + walk] > 0.0
    for walk in range(count):
        if walks[IMPROVES + walk] + walks[DOUBTS + walk] == 0.0:
            continue
        row = int(walks[GROUP + walk])
        if walks[IMPROVES + walk] > 0.0:
            part = walks[BEST + walk] / quality[row]  # the group's other walk may have found better
            gained, room = part * part - 1.0, 8.0 * EPSILON * k / walks[AT_B + walk]
            if gained > room:
                quality[row] = walks[BEST + walk]
                write(x, w, walk, row, y)
            elif gained >= -room:
                sure[row] = False
        if walks[DOUBTS + walk] > 0.0:
            sure[row] = False
    return going


@inlined
def look(points: Floats, k: float, lanes: Floats, count: int, looks: Floats, keys: Floats) -> None:
    """Look from each lane, upwards in the first `count` of looks, downwards in the next."""
    for side in range(2):
        half = looks[side * count :]
        _set_out(lanes, count, 1.0 - 2.0 * side, half)
        _pass(points[U], points[Z], half, count, keys)
    _decide(k, looks, 2 * count)
    for lane in range(count):
        if looks[DOUBTS + lane] + looks[DOUBTS + count + lane] > 0.0:
            lanes[VERDICT + lane] = DOUBT


@kernel
def _copy(source: Floats, columns: Columns, target: Floats, places: Columns, count: int) -> None:
    """Copy columns of source (planes, rows, columns) to places in target."""
    for plane in range(source.shape[0]):
        for i in range(source.shape[1]):
            for at in range(count):
                target[plane, i, places[at]] = source[plane, i, columns[at]]


@kernel
def _copy_fields(
    source: Floats, columns: Columns, walks: Floats, places: Columns, count: int
) -> None:
    """Copy what is kept of walks."""
    for field in range(0, KEPT, ROW_SIZE):
        for at in range(count):
            walks[field + places[at]] = source[field + columns[at]]


@inlined
def join(
    points: Floats, count: int, looks: Floats, walkers: Floats, walks: Floats, going: int,
    columns: Columns, places: Columns,
) -> int:  # fmt: skip
    """Add the looks that go on to the walks; return how many these are now.

    walkers (2, coordinates, walks) are u and w of each walk.
    """
    more = 0 * count
    for one in range(2 * count):
        columns[more], places[more] = one, going + more
        more += looks[AT + one] > 0.0
    _copy_fields(looks, columns, walks, places, more)
    for at in range(more):
        columns[at] -= count if columns[at] >= count else 0
    _copy(points, columns, walkers, places, more)
    return going + more


@inlined
def _close_up(
    walkers: Floats, walks: Floats, count: int, going: int, columns: Columns, places: Columns
) -> None:
    """Move the last walks that go on to the places of those which have ended."""
    gaps = last = 0 * count  # literals would make Numba compile the copies twice
    for walk in range(going):
        places[gaps] = walk
        gaps += walks[AT + walk] == 0.0
    for walk in range(going, count):
        columns[last] = walk
        last += walks[AT + walk] > 0.0
    _copy_fields(walks, columns, walks, places, gaps)
    _copy(walkers, columns, walkers, places, gaps)


@inlined
def stride(
    x: Floats, k: float, walkers: Floats, walks: Floats, count: int, keys: Floats,
    columns: Columns, places: Columns, y: NDArray[np.int32], quality: Floats,
    sure: NDArray[np.bool_],
) -> int:  # fmt: skip
    """Take all walks one pass further; return how many there are then.

    y gets better points, quality their a/sqrt(b); what is in doubt isn't sure.
    """
    whole = (count + VECTOR - 1) // VECTOR * VECTOR
    for walk in range(count, whole):
        walks[AT + walk] = 0.0
    _pass(walkers[U], walkers[Z], walks, whole, keys)
    _decide(k, walks, whole)
    going = _land(x, k, walkers[Z], walks, count, y, quality, sure)
    if 4 * going > 3 * count:
        return count
    _close_up(walkers, walks, count, going, columns, places)
    return going
