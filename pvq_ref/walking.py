"""Exact search for one group after another, in binary64 (spec section 4.1).

Start anywhere, alternate between z and s = b/a until nothing changes, then walk from vertex to
vertex in both directions as far as an improvement is possible (`pvq_ref.searching` says why). Two
bounds end the walk. Any better z has cosine >= c, the best so far; with the angle between z and X
so small, the sum of z, which is k, leaves ||z|| only an interval. And every vertex beyond an edge
lies below the line through that edge.

`pvq_ref.proving` does the same for many groups at once, and leaves to this file what it is in doubt
about. Where binary64 can't tell two candidates apart, this file in turn says so.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pvq_ref.jit import kernel
from pvq_ref.lanes import Floats

_SLACK = 1.0 + 1e-9  # by which bounds are widened, far above their rounding error


@kernel
def magnitudes(x: Floats, u: Floats) -> tuple[float, bool]:
    """Write |x| times the power of two that brings its maximum into [1, 2).

    Return the power's effect as (maximum of |x|, whether every element was scaled exactly).
    """
    largest = 0.0
    for value in x:
        largest = max(largest, abs(value))
    if largest == 0.0:
        return 0.0, True
    exponent = math.frexp(largest)[1] - 1
    first = exponent // 2  # two steps: 2^-exponent itself may overflow
    up, rest = math.ldexp(1.0, -first), math.ldexp(1.0, first - exponent)
    exact = True
    for i in range(x.size):
        u[i] = abs(x[i]) * up * rest
        if u[i] < 1e-290 and x[i] != 0.0:
            exact = False
    return largest, exact


@kernel
def _best_place(u: Floats, z: Floats, s: float) -> tuple[int, float]:
    """Return where one more pulse is worth most (lowest index on ties), and its worth."""
    place, worth = 0, -np.inf
    for i in range(u.size):
        value = s * u[i] - (z[i] + 0.5)
        if value > worth:
            place, worth = i, value
    return place, worth


@kernel
def _worst_pulse(u: Floats, z: Floats, s: float) -> tuple[int, float]:
    """Return where the last pulse is worth least (highest index on ties), and its worth."""
    place, worth = 0, np.inf
    for i in range(u.size):
        value = s * u[i] - (z[i] - 0.5)
        if value <= worth and z[i] > 0.0:
            place, worth = i, value
    return place, worth


@kernel
def products(u: Floats, z: Floats) -> tuple[float, float]:
    """Return a = <u,z> and b = ||z||²."""
    a = b = 0.0
    for i in range(u.size):
        a += u[i] * z[i]
        b += z[i] * z[i]
    return a, b


@kernel
def _nearest(u: Floats, z: Floats, s: float, missing: float) -> None:
    """Turn z, short of k by `missing` pulses, into the nearest point to s u."""
    while missing > 0.0:
        z[_best_place(u, z, s)[0]] += 1.0
        missing -= 1.0
    while missing < 0.0:
        z[_worst_pulse(u, z, s)[0]] -= 1.0
        missing += 1.0
    while True:
        i, gain = _best_place(u, z, s)
        j, loss = _worst_pulse(u, z, s)
        if gain <= loss:
            return
        z[i] += 1.0
        z[j] -= 1.0


@kernel
def _start(u: Floats, k: int, z: Floats) -> tuple[float, float]:
    """Write a point that is nearest to its own s = b/a times u; return a and b."""
    total = 0.0
    for value in u:
        total += value
    s = k / total
    missing = float(k)
    for i in range(u.size):
        z[i] = math.floor(s * u[i] + 0.5)
        missing -= z[i]
    _nearest(u, z, s, missing)
    a, b = products(u, z)
    while True:
        before = a * a / b
        _nearest(u, z, b / a, 0.0)
        a, b = products(u, z)
        if a * a / b <= before:
            return a, b


@kernel
def norm_bounds(u: Floats, k: int, quality: float) -> tuple[float, float, float, float]:
    """Return least and greatest s and ||z||² of a vertex with a²/b >= quality."""
    n = u.size
    length = total = 0.0
    for value in u:
        length += value * value
        total += value
    cosine = min(1.0, math.sqrt(quality / length))
    sine = math.sqrt(max(0.0, 1.0 - cosine * cosine)) + 1e-7
    along = total / math.sqrt(length)  # <1, u>/||u||, and what of 1 is orthogonal to u
    across = math.sqrt(max(0.0, n - along * along))
    # ||z|| (cos along - sin across) <= k <= ||z|| (cos along + sin across)
    widest = (
        math.sqrt(float(n)) if cosine * across < sine * along else cosine * along + sine * across
    )
    narrowest = cosine * along - sine * across
    least = k / widest / _SLACK
    greatest = min(float(k), k / narrowest * _SLACK) if narrowest > 0.0 else float(k)
    return (
        least / math.sqrt(length) / _SLACK,
        greatest / (cosine * math.sqrt(length)) * _SLACK,
        least * least,
        greatest * greatest,
    )


@kernel
def _next_move(u: Floats, z: Floats, end: float, direction: float) -> tuple[float, int, int]:
    """Return the first scale, going from z's interval towards `end`, at which a pulse moves.

    With it come the place that the pulse goes to and the one that it leaves; (end, -1, -1) if none
    moves. The worth of the best new pulse is convex in s and that of the worst old one concave, so
    Newton's iteration from `end` comes to their first crossing from its side, in a few steps. Where
    several moves cross at one scale, rounding may show a pair that doesn't lead on: upwards a pulse
    goes to a larger magnitude, downwards to a smaller one. Such a pair ends the iteration, so that
    a walk never turns back. direction is 1.0 upwards and -1.0 downwards.
    """
    s, to, origin = end, -1, -1
    while True:
        i, gain = _best_place(u, z, s)
        j, loss = _worst_pulse(u, z, s)
        if gain <= loss or direction * (u[i] - u[j]) <= 0.0:
            return s, to, origin
        crossing = (z[i] - z[j] + 1.0) / (u[i] - u[j])
        if to >= 0 and direction * (s - crossing) <= 0.0:
            return s, to, origin
        s, to, origin = crossing, i, j


@kernel
def _doubt(n: int) -> float:
    """Return how close two a²/b may come, relatively, before rounding could change their order."""
    return (4 * n + 40) * 2.0**-53


@kernel
def _walk(
    u: Floats,
    z: Floats,
    s_end: float,
    b_end: float,
    direction: float,
    best: Floats,
    record: Floats,
) -> None:
    """Visit vertices from z towards s_end; keep the best in `best`.

    record holds its a²/b, and then 1 if another vertex is within rounding of it.
    """
    doubt = _doubt(u.size)
    while True:
        s, i, j = _next_move(u, z, s_end, direction)
        if i < 0:
            return
        a, b = products(u, z)
        line = 2.0 * s * a - b  # of this edge: no vertex beyond it has 2 s a - b above
        a_end = (line + b_end) / (2.0 * s)
        if direction * (b - b_end) >= 0.0 or a_end * a_end / b_end * _SLACK < record[0]:
            return
        z[i] += 1.0
        z[j] -= 1.0
        a, b = products(u, z)
        quality = a * a / b
        if quality > record[0] * (1.0 + doubt):
            for place in range(z.size):
                best[place] = z[place]
            record[0], record[1] = quality, 0.0
        elif quality > record[0] * (1.0 - doubt):
            record[1] = 1.0


@kernel
def _search_one(x: Floats, k: int, y: NDArray[np.int32], scratch: Floats) -> bool:
    """Write the best point for x; return False where binary64 can't be sure of it."""
    n = x.size
    u, start, z, best, record = (
        scratch[0, :n], scratch[1, :n], scratch[2, :n], scratch[3, :n], scratch[4]
    )  # fmt: skip
    largest, exact = magnitudes(x, u)
    if largest == 0.0 or k == 0:
        for i in range(n):
            y[i] = k if i == 0 else 0
        return True
    a, b = _start(u, k, start)
    record[0], record[1] = a * a / b, 0.0
    s_low, s_high, b_low, b_high = norm_bounds(u, k, record[0])
    for i in range(n):
        best[i] = z[i] = start[i]
    _walk(u, z, s_high, b_high, 1.0, best, record)
    for i in range(n):
        z[i] = start[i]
    _walk(u, z, s_low, b_low, -1.0, best, record)
    for i in range(n):
        y[i] = np.int32(-best[i] if x[i] < 0.0 else best[i])
    # Vertices of one edge differ by 1/b² at least: see docs/design.md.
    return exact and record[1] == 0.0 and b_high * b_high * _doubt(n) < 0.5


@kernel
def search_rows(x: Floats, k: int, y: NDArray[np.int32], sure: NDArray[np.bool_]) -> None:
    """Search for every row of x; say which rows of y are certainly best."""
    scratch = np.empty((5, max(2, x.shape[1])))
    for row in range(x.shape[0]):
        sure[row] = _search_one(x[row], k, y[row], scratch)
