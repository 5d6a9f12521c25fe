"""Exact search, proved for many groups at once (spec section 4.1).

The search of `pvq_ref.walking`, in the layout of `pvq_ref.lanes`. A batch of lanes goes through
these stages:

1. Start (`pvq_ref.lanes`), which gives each lane a point z.
2. Bound: a better point has the cosine of z at least, and its sum is k, so its norm is confined to
   an interval (`bound`).
3. Centre: z must be the only nearest point at its own scale b/a (`centre`).
4. Look: above and below there is one scale each at which z must still be nearest if nothing better
   is to lie beyond (`look`). Most groups end here.
5. Walk: the others go from vertex to vertex, looking ahead in the same way (`pvq_ref.batches`).

A group for which a better point turns up starts again from it, in the next batch. A group left in
doubt is reported, and `pvq_ref.walking` decides it.

Why a look proves something. If z is nearest at s, then 2 s a - b is nowhere greater than at z: all
points (a,b) lie below the line of slope 1/(2 s) through that of z. On a line a²/b is convex in b,
so between z and the farthest norm that the bound allows it is greatest at one of the two ends.

Rounding. Worths are rounded to multiples of 2^-28, and EPSILON is more than twice the error of the
difference of two. So a point taken as nearest at s is nearest but for 2 EPSILON per pulse moved,
of at most k, and lines are right but for a part of 4 k EPSILON / b of a²/b. Three margins are
wider: twice that between two points of one quality; 2^-22 at the far end of a line, as b >= k; and
1/b² of the quality for points between two vertices, as b has the parity of k (docs/design.md). What
doesn't keep them is in doubt.
"""

import math

import numpy as np

from pvq_ref.jit import kernel
from pvq_ref.lanes import (
    AGAIN,
    DOUBT,
    LEAST,
    LOOK,
    MISSING,
    MOST,
    OWN,
    RATIO,
    SQUARE,
    START,
    SURE,
    TOTAL,
    VERDICT,
    A,
    B,
    Floats,
    extremes,
    place,
    worth,
)

EPSILON = 2.0**-26
MARGIN = 1.0 - 2.0**-22
ROOM = 2.0**26  # for the squares of scaled magnitudes
TINY = 1e-300  # keeps lanes that aren't asked from dividing by 0; lost on others by rounding
# Fields of a walk: the lane it is of; a, b of where it is; the scale of its last move, and the one
# in question; the next move (from, to), or -1 where none is known.
WALK_LANE, WALK_A, WALK_B, WALK_BEFORE, WALK_AT, WALK_FROM, WALK_TO = range(7)


@kernel
def bound(n: int, k: float, lanes: Floats, count: int) -> None:
    """Write the least and the greatest norm of a point that is as good as z.

    With C the cosine of z, S its sine, and L, R the parts of (1, …, 1) along u and across it, such
    a point has ||z|| (C L - S R) <= k <= ||z|| (C L + S R). Its squared norm has the parity of k.
    """
    total, square, a, b = lanes[TOTAL], lanes[SQUARE], lanes[A], lanes[B]
    ratio, least, most = lanes[RATIO], lanes[LEAST], lanes[MOST]
    root = math.sqrt(float(n))
    for lane in range(count):
        r = a[lane] / math.sqrt(max(b[lane], 1.0))
        sine = max(0.0, square[lane] - r * r) + 1e-12 * square[lane]
        plane = max(0.0, n * square[lane] - total[lane] * total[lane]) + 1e-12 * n * square[lane]
        along = r * total[lane] / square[lane]
        across = math.sqrt(sine * plane) / square[lane]
        inside = n * r * r < total[lane] * total[lane] * (1.0 + 1e-9)  # (1, …, 1) is near enough
        low = k / (root if inside else along + across) * (1.0 - 1e-9)
        high = min(k, k / max(along - across, 1e-9) * (1.0 + 1e-9))
        ratio[lane] = r
        least[lane] = math.sqrt(k + 2.0 * np.ceil(0.5 * (low * low - k)))
        most[lane] = math.sqrt(k + 2.0 * np.floor(0.5 * (high * high - k)))


@kernel
def products(points: Floats, n: int, lanes: Floats, count: int) -> None:
    """Write a, b and the scale b/a; of lanes that lack pulses, the scale of their start."""
    a, b, missing, first, own = lanes[A], lanes[B], lanes[MISSING], lanes[START], lanes[OWN]
    for lane in range(count):
        a[lane] = 0.0
        b[lane] = 0.0
    for i in range(n):
        u, z = points[0, i], points[1, i]
        for lane in range(count):
            a[lane] += u[lane] * z[lane]
            b[lane] += z[lane] * z[lane]
    for lane in range(count):
        scale = b[lane] / (a[lane] + TINY)
        own[lane] = scale if missing[lane] == 0.0 else first[lane]


@kernel
def centre(points: Floats, k: float, lanes: Floats, count: int, keys: Floats, hint: Floats) -> None:
    """See whether z is the only nearest point at its own scale, or improve it; learn the hint."""
    z, own, verdict = points[1], lanes[OWN], lanes[VERDICT]
    extremes(points, own[:count], keys)
    scales = shifts = settled = 0.0
    for lane in range(count):
        best, worst = worth(keys[0, 0, lane]), worth(keys[1, 0, lane])
        excess = best - worst - 1.0
        if verdict[lane] == DOUBT:
            continue
        if lanes[MISSING, lane] != 0.0:
            verdict[lane] = AGAIN
            continue
        scales += own[lane] * lanes[TOTAL, lane] / k
        shifts += 0.5 * (best + worst)
        settled += 1.0
        if own[lane] * own[lane] * lanes[SQUARE, lane] > ROOM:
            verdict[lane] = DOUBT
        elif excess > EPSILON:
            verdict[lane] = AGAIN
            z[place(keys[0, 0, lane], z.shape[0]), lane] += 1.0
            z[place(keys[1, 0, lane], z.shape[0]), lane] -= 1.0
        elif excess > -EPSILON or lanes[MOST, lane] ** 4 * k * (8.0 * EPSILON) > lanes[B, lane]:
            verdict[lane] = DOUBT
    if settled > 0.0:
        hint[0] += 0.3 * (min(4096.0 / k, scales / settled) - hint[0])
        hint[1] += 0.3 * (min(0.5, shifts / settled) - hint[1])


@kernel
def goal(a: float, b: float, end: float, ratio: float) -> float:
    """Return the scale of the line from (a,b) that has the quality ratio² at the norm `end`."""
    return (end * end - b) / (2.0 * (ratio * MARGIN * end - a) + TINY)


@kernel
def look(
    points: Floats, lanes: Floats, count: int, direction: float, keys: Floats, walks: Floats
) -> int:
    """Look at the scale at which z must still be nearest; return how many lanes have to walk.

    direction is 1.0 for greater scales, -1.0 for smaller ones.
    """
    a, b, ratio, own, ahead = lanes[A], lanes[B], lanes[RATIO], lanes[OWN], lanes[LOOK]
    verdict, end = lanes[VERDICT], lanes[MOST if direction > 0.0 else LEAST]
    for lane in range(count):
        scale = goal(a[lane], b[lane], end[lane], ratio[lane])
        beyond = (verdict[lane] == SURE) & (direction * (end[lane] * end[lane] - b[lane]) >= 1.0)
        ahead[lane] = scale if beyond else own[lane]
    extremes(points, ahead[:count], keys)
    walking = 0
    for lane in range(count):
        if verdict[lane] != SURE:
            continue
        if ahead[lane] * ahead[lane] * lanes[SQUARE, lane] > ROOM:
            verdict[lane] = DOUBT
        elif worth(keys[0, 0, lane]) - worth(keys[1, 0, lane]) - 1.0 > EPSILON:
            walks[WALK_LANE, walking] = lane
            walks[WALK_TO, walking] = place(keys[0, 0, lane], points.shape[1])
            walks[WALK_FROM, walking] = place(keys[1, 0, lane], points.shape[1])
            walking += 1
    return walking
