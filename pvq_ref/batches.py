"""Batches of lanes: walks from vertex to vertex, and the search as a whole (spec section 4.1).

The stages are told in `pvq_ref.proving`. Walks have arrays of their own, packed, so that few walks
take little time.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pvq_ref.jit import kernel
from pvq_ref.lanes import (
    AGAIN,
    DOUBT,
    FIELDS,
    LEAST,
    MISSING,
    MOST,
    OWN,
    RATIO,
    ROW,
    SQUARE,
    START,
    SURE,
    TOTAL,
    VERDICT,
    A,
    B,
    Floats,
    extremes,
    load,
    place,
    repair,
    start,
    worth,
)
from pvq_ref.proving import (
    EPSILON,
    MARGIN,
    ROOM,
    WALK_A,
    WALK_AT,
    WALK_B,
    WALK_BEFORE,
    WALK_FROM,
    WALK_LANE,
    WALK_TO,
    bound,
    centre,
    goal,
    look,
    products,
)

FEW = 8  # groups that are left over at the end, and take less time one by one


def fits(n: int, k: int) -> bool:
    """Return whether groups of n coordinates and k pulses may be sure.

    The places below worths have room for 512 coordinates; with more pulses 1/b² is too small to be
    seen (`pvq_ref.proving`).
    """
    return n <= 512 and 0 < k**3 <= n << 21


@kernel
def _set_out(
    points: Floats, lanes: Floats, walking: int, walks: Floats, walk_points: Floats
) -> None:
    """Copy what walks start from, and find where the pair of the first move crosses."""
    u, z = points[0], points[1]
    for walk in range(walking):
        lane, i, j = (
            int(walks[WALK_LANE, walk]),
            int(walks[WALK_TO, walk]),
            int(walks[WALK_FROM, walk]),
        )
        walks[WALK_A, walk] = lanes[A, lane]
        walks[WALK_B, walk] = lanes[B, lane]
        walks[WALK_BEFORE, walk] = lanes[OWN, lane]
        walks[WALK_AT, walk] = (z[i, lane] - z[j, lane] + 1.0) / (u[i, lane] - u[j, lane])
        for i in range(u.shape[0]):
            walk_points[0, i, walk] = u[i, lane]
            walk_points[1, i, walk] = z[i, lane]


@kernel
def _walk(
    points: Floats, k: float, lanes: Floats, direction: float, walking: int, walks: Floats,
    walk_points: Floats, keys: Floats,
) -> None:  # fmt: skip
    """Walk until nothing better can lie beyond; write what is found to points and lanes[VERDICT].

    A move is taken at the scale where no pair is ahead of it, as in `pvq_ref.walking`. A walk that
    has ended is replaced by the last one. (All in one kernel: a call for each walk would count the
    references of each array.)
    """
    u, z, at, verdict = walk_points[0], walk_points[1], walks[WALK_AT], lanes[VERDICT]
    end = lanes[MOST if direction > 0.0 else LEAST]
    while walking > 0:
        extremes(walk_points, at[:walking], keys)
        walk = 0
        while walk < walking:
            lane = int(walks[WALK_LANE, walk])
            excess = worth(keys[0, 0, walk]) - worth(keys[1, 0, walk]) - 1.0
            next_at = 0.0
            if excess > EPSILON:
                i, j = place(keys[0, 0, walk], u.shape[0]), place(keys[1, 0, walk], u.shape[0])
                walks[WALK_TO, walk], walks[WALK_FROM, walk] = i, j
                apart = u[i, walk] - u[j, walk]
                crossing = (z[i, walk] - z[j, walk] + 1.0) / apart if apart != 0.0 else 0.0
                if (
                    direction * apart > 0.0
                    and direction * (crossing - walks[WALK_BEFORE, walk]) > 0.0
                    and direction * (at[walk] - crossing) > 0.0
                ):
                    next_at = crossing
                else:
                    verdict[lane] = DOUBT
            elif walks[WALK_TO, walk] >= 0.0:
                i, j = int(walks[WALK_TO, walk]), int(walks[WALK_FROM, walk])
                walks[WALK_TO, walk] = -1.0
                a = walks[WALK_A, walk] + (u[i, walk] - u[j, walk])
                b = walks[WALK_B, walk] + 2.0 * (z[i, walk] - z[j, walk]) + 2.0
                walks[WALK_A, walk], walks[WALK_B, walk] = a, b
                z[i, walk] += 1.0
                z[j, walk] -= 1.0
                ratio, norm = lanes[RATIO, lane], end[lane]
                gained, doubt = a * a / (b * ratio * ratio) - 1.0, 8.0 * EPSILON * k / b
                if gained > doubt:
                    verdict[lane] = AGAIN
                    for i in range(u.shape[0]):
                        points[1, i, lane] = z[i, walk]
                elif gained > -doubt:
                    verdict[lane] = DOUBT
                elif (
                    direction * (norm * norm - b) >= 1.0
                    and direction * (ratio * MARGIN * norm - a) > 0.0
                ):
                    ahead = goal(a, b, norm, ratio)
                    if ahead * ahead * lanes[SQUARE, lane] > ROOM:
                        verdict[lane] = DOUBT
                    elif direction * (ahead - at[walk]) > 0.0:
                        walks[WALK_BEFORE, walk] = at[walk]
                        next_at = ahead
            if next_at > 0.0:
                at[walk] = next_at
                walk += 1
                continue
            walking -= 1
            if walk < walking:
                for field in range(walks.shape[0]):
                    walks[field, walk] = walks[field, walking]
                for i in range(u.shape[0]):
                    u[i, walk] = u[i, walking]
                    z[i, walk] = z[i, walking]
                keys[0, 0, walk] = keys[0, 0, walking]
                keys[1, 0, walk] = keys[1, 0, walking]


@kernel
def _finish(
    x: Floats, y: NDArray[np.int32], sure: NDArray[np.bool_], points: Floats, lanes: Floats,
    count: int,
) -> int:  # fmt: skip
    """Write what is sure; move what needs another batch to the front, and return how many."""
    kept = 0
    for lane in range(count):
        row = int(lanes[ROW, lane])
        sure[row] = lanes[VERDICT, lane] == SURE
        if lanes[VERDICT, lane] == SURE:
            for i in range(x.shape[1]):
                pulses = points[1, i, lane]
                y[row, i] = np.int32(-pulses if x[row, i] < 0.0 else pulses)
        elif lanes[VERDICT, lane] == AGAIN:
            for i in range(x.shape[1]):
                points[0, i, kept] = points[0, i, lane]
                points[1, i, kept] = points[1, i, lane]
            for field in (ROW, TOTAL, SQUARE, MISSING, START):
                lanes[field, kept] = lanes[field, lane]
            lanes[VERDICT, kept] = SURE
            kept += 1
    return kept


@kernel
def search_batches(
    x: Floats, k: int, y: NDArray[np.int32], sure: NDArray[np.bool_], size: int
) -> None:
    """Search for every row of x, `size` at a time; say which rows of y are certainly best.

    n and k must fit. The last few rows that need another batch are left to `pvq_ref.walking`.
    """
    rows, n = x.shape
    pulses = float(k)
    # Another cache line per row: lanes whose distance is a power of two would evict each other.
    points = np.zeros((2, (n + 3) // 4 * 4, size + 8))
    for i in range(n, points.shape[1]):
        for lane in range(points.shape[2]):
            points[0, i, lane] = -np.inf
    walk_points = np.empty(points.shape)
    lanes, walks, keys = np.zeros((FIELDS, size)), np.zeros((7, size)), np.zeros((2, 2, size))
    hint = np.empty(2)  # a fit for normal vectors, to begin with
    hint[0] = min(4096.0 / k, 1.0 + 0.17 * (n / k) ** 1.3)
    hint[1] = min(0.4, 0.1 * math.sqrt(n / k))
    row = kept = 0 * rows  # literals would make Numba compile the kernels below twice
    while row < rows or kept > FEW:
        count = min(size, kept + rows - row)
        load(x, row, points, lanes, kept, count)
        start(points, n, pulses, lanes, kept, count, hint)
        row += count - kept
        repair(points, lanes, count, keys)
        products(points, n, lanes, count)
        bound(n, pulses, lanes, count)
        centre(points, pulses, lanes, count, keys, hint)
        for direction in (1.0, -1.0):
            walking = look(points, lanes, count, direction, keys, walks)
            _set_out(points, lanes, walking, walks, walk_points)
            _walk(points, pulses, lanes, direction, walking, walks, walk_points, keys)
        kept = _finish(x, y, sure, points, lanes, count)
