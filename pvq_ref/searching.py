"""Search: the pyramid point nearest in angle to a real vector (spec section 4).

With a = <X,z>, X = |x|, and b = ||z||², the cosine is a/sqrt(b)/||X||. a²/b is convex in (a,b), so
its maximum is at a vertex of the convex hull of all (a,b), and each vertex is a Euclidean nearest
point of the pyramid to s X for an interval of scales s; at the optimum s = b/a is inside its
interval. For a fixed s the nearest point is exact and easy: pulse m on coordinate i is worth s X_i
- (m - 1/2), and the k most valuable pulses are taken. As s moves, one pulse at a time changes
place.

So: start anywhere, alternate between z and s = b/a until nothing changes, then walk from vertex to
vertex in both directions as far as an improvement is possible. Two bounds end the walk. Any better
z has cosine >= c, the best so far; with the angle between z and X so small, the sum of z, which is
k, leaves ||z|| only an interval. And every vertex beyond an edge lies below the line through that
edge.

Where binary64 can't tell two candidates apart, `exact_search` decides in integers.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvq_ref.counting import checked_integer
from pvq_ref.errors import DTypeError, NonFiniteError, ShapeError
from pvq_ref.exact_search import exact_search
from pvq_ref.jit import kernel
from pvq_ref.parallel import map_ranges

STEP = 1 << 12  # groups that one thread takes at a time
Floats = NDArray[np.float64]

# Relative rounding errors are below (n + 10) 2^-53; candidates this close are left to exact_search.
_DOUBT = 2.0**-46
_SLACK = 1.0 + 1e-9  # by which bounds are widened, far above their rounding error
_WIDEST = 2.0**21  # above this ||z||² neighbouring vertices come too close for binary64


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
def _products(u: Floats, z: Floats) -> tuple[float, float]:
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
    a, b = _products(u, z)
    while True:
        before = a * a / b
        _nearest(u, z, b / a, 0.0)
        a, b = _products(u, z)
        if a * a / b <= before:
            return a, b


@kernel
def _norm_bounds(u: Floats, k: int, quality: float) -> tuple[float, float, float, float]:
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
    while True:
        s, i, j = _next_move(u, z, s_end, direction)
        if i < 0:
            return
        a, b = _products(u, z)
        line = 2.0 * s * a - b  # of this edge: no vertex beyond it has 2 s a - b above
        a_end = (line + b_end) / (2.0 * s)
        if direction * (b - b_end) >= 0.0 or a_end * a_end / b_end * _SLACK < record[0]:
            return
        z[i] += 1.0
        z[j] -= 1.0
        a, b = _products(u, z)
        quality = a * a / b
        if quality > record[0] * (1.0 + _DOUBT):
            for place in range(z.size):
                best[place] = z[place]
            record[0], record[1] = quality, 0.0
        elif quality > record[0] * (1.0 - _DOUBT):
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
        y[:] = 0
        y[0] = k
        return True
    a, b = _start(u, k, start)
    record[0], record[1] = a * a / b, 0.0
    s_low, s_high, b_low, b_high = _norm_bounds(u, k, record[0])
    best[:] = start
    z[:] = start
    _walk(u, z, s_high, b_high, 1.0, best, record)
    z[:] = start
    _walk(u, z, s_low, b_low, -1.0, best, record)
    for i in range(n):
        y[i] = np.int32(-best[i] if x[i] < 0.0 else best[i])
    return exact and record[1] == 0.0 and b_high < _WIDEST


@kernel
def _search(x: Floats, k: int, y: NDArray[np.int32], sure: NDArray[np.bool_]) -> None:
    """Search for every row of x."""
    scratch = np.empty((5, max(2, x.shape[1])))
    for row in range(x.shape[0]):
        sure[row] = _search_one(x[row], k, y[row], scratch)


def _decide(x: Floats, k: int, y: NDArray[np.int32]) -> None:
    """Replace y by the exact result for x (n,), starting from what is there."""
    u, z = np.empty(x.size), np.abs(y).astype(np.float64)
    magnitudes(x, u)
    a, b = _products(u, z)
    s_low, s_high, _, _ = _norm_bounds(u, k, a * a / b / _SLACK)
    exponent = math.frexp(float(np.max(np.abs(x))))[1] - 1
    best = exact_search([abs(v) for v in x.tolist()], [int(v) for v in z], s_low, s_high, exponent)
    y[:] = np.where(x < 0, -1, 1) * np.array(best)


def search_unchecked(x: Floats, k: int) -> NDArray[np.int32]:
    """Search for finite float64 rows on the calling thread."""
    y = np.empty(x.shape, np.int32)
    sure = np.empty(x.shape[0], np.bool_)
    _search(x, k, y, sure)
    for row in np.flatnonzero(~sure):
        _decide(x[row], k, y[row])
    return y


def _checked(x: ArrayLike, k: int) -> tuple[NDArray[np.floating], int]:
    array = np.asarray(x)
    if array.dtype not in (np.float32, np.float64):
        raise DTypeError(f"x must be float32 or float64, got {array.dtype}")
    if array.ndim != 2 or array.shape[1] < 1:
        raise ShapeError(f"x must be of shape (groups, n) with n >= 1, got {array.shape}")
    bad = ~np.isfinite(array)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise NonFiniteError(f"x must be finite, got {array[row, column]} at ({row}, {column})")
    return array, checked_integer("k", k, 0)


def in_ranges(
    work: Callable[[Floats, int], NDArray[np.int32]],
    x: ArrayLike,
    k: int,
    threads: int | None,
) -> NDArray[np.int32]:
    """Run a search that trusts its input over ranges of rows."""
    array, k = _checked(x, k)
    y = np.empty(array.shape, np.int32)

    def part(start: int, stop: int) -> None:
        y[start:stop] = work(np.ascontiguousarray(array[start:stop], np.float64), k)

    for _ in map_ranges(part, len(y), STEP, threads):
        pass
    return y


def search(x: ArrayLike, k: int, *, threads: int | None = None) -> NDArray[np.int32]:
    """Find the integer vectors with l1 norm k of greatest cosine with the rows of x.

    The true maximum for every input; ties go to the lower coordinate numbers, a zero row to the
    first coordinate. Parameters: x (groups, n) float32 or float64; k >= 0; threads, all by default.
    Returns (groups, n) int32. Raises ShapeError, DTypeError, DomainError, NonFiniteError. Spec
    section 4.1; the paper's own search is `search_project`.

    >>> search(np.array([[0.9, -0.5, 0.1]]), 3)
    array([[ 2, -1,  0]], dtype=int32)
    """
    return in_ranges(search_unchecked, x, k, threads)
