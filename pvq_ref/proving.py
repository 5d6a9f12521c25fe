"""Exact search, proved for many groups at once (spec section 4.1).

The search of `pvq_ref.walking`, in the layout of `pvq_ref.lanes`. A batch of lanes goes through
these stages:

1. Start (`pvq_ref.lanes`), which gives each lane a point z that is nearest at its own scale b/a.
2. Confine: a better point has the cosine of z at least, and its sum is k, so its norm is confined
   to an interval (`confine`).
3. Look: above and below there is one scale each at which z must still be nearest if nothing better
   is to lie beyond (`goal`). Many groups end here.
4. Walk: the others go from vertex to vertex, looking ahead in the same way (`pvq_ref.striding`).

A group that hasn't settled goes on in the next batch. A group left in doubt is reported, and
`pvq_ref.walking` decides it.

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
    BETWEEN,
    DOUBT,
    EPSILON,
    EXCESS,
    LEAST,
    MOST,
    OWN,
    PAIR,
    RATIO,
    ROOM,
    SQUARE,
    SURE,
    TINY,
    TOTAL,
    VERDICT,
    A,
    B,
    Floats,
)

MARGIN = 1.0 - 2.0**-22


@kernel
def confine(n: int, k: float, lanes: Floats, count: int) -> None:
    """Write what is known of each lane, and the least and greatest norm of a point as good as z.

    With C the cosine of z, S its sine, and L, R the parts of (1, …, 1) along u and across it, such
    a point has ||z|| (C L - S R) <= k <= ||z|| (C L + S R). Its squared norm has the parity of k.
    """
    root = math.sqrt(float(n))
    for lane in range(count):
        total, square = lanes[TOTAL + lane], lanes[SQUARE + lane]
        r = lanes[A + lane] / math.sqrt(max(lanes[B + lane], 1.0))
        sine = max(0.0, square - r * r) + 1e-12 * square
        plane = max(0.0, n * square - total * total) + 1e-12 * n * square
        along = r * total / square
        across = math.sqrt(sine * plane) / square
        inside = n * r * r < total * total * (1.0 + 1e-9)  # (1, …, 1) is near enough
        low = k / (root if inside else along + across) * (1.0 - 1e-9)
        high = min(k, k / max(along - across, 1e-9) * (1.0 + 1e-9))
        lanes[RATIO + lane] = r
        lanes[LEAST + lane] = math.sqrt(k + 2.0 * np.ceil(0.5 * (low * low - k)))
        lanes[MOST + lane] = math.sqrt(k + 2.0 * np.floor(0.5 * (high * high - k)))
    for lane in range(count):
        excess, own, most = lanes[PAIR + EXCESS + lane], lanes[OWN + lane], lanes[MOST + lane]
        tie = excess > -EPSILON
        tie |= most * most * most * most * k * (8.0 * EPSILON) > lanes[B + lane]
        tie |= own * own * lanes[SQUARE + lane] > ROOM
        known = AGAIN if excess > EPSILON else (DOUBT if tie else SURE)
        lanes[VERDICT + lane] = max(lanes[VERDICT + lane], known)


@kernel
def learn(k: float, lanes: Floats, count: int, hint: Floats) -> None:
    """Move the hint (`pvq_ref.lanes.start`) towards what would have suited these lanes."""
    scales = shifts = sure = 0.0
    for lane in range(count):
        if lanes[VERDICT + lane] == SURE:
            scales += lanes[OWN + lane] * lanes[TOTAL + lane] / k
            shifts += lanes[PAIR + BETWEEN + lane]
            sure += 1.0
    if sure > 0.0:
        hint[0] += 0.3 * (min(4096.0 / k, scales / sure) - hint[0])
        hint[1] += 0.3 * (min(0.5, shifts / sure) - hint[1])


@kernel
def goal(a: float, b: float, end: float, ratio: float) -> float:
    """Return the scale of the line from (a,b) that has the quality ratio² at the norm `end`."""
    return (end * end - b) / (2.0 * (ratio * MARGIN * end - a) + TINY)
