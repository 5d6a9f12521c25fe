"""The search for the best pyramid vector (spec section 4).

Exact search maximizes f(z) = a²/b with a = <X,z>, b = ||z||² over z in P(n,k), z >= 0.

Why a sweep finds every optimum. a²/b is convex in (a,b), so at an optimum z* its tangent
2t a - t² b, t = a*/b*, is also greatest there. Hence z* maximizes 2s<X,z> - ||z||² with s = 1/t:
it is a point of the lattice simplex nearest to s·X. For given s the maximizers take the k *pulses*
of greatest worth, where the m-th pulse on coordinate i is worth 2s X_i - (2m - 1).

The order of the pulses changes at breakpoints s only. Between two breakpoints all maximizers have
the same a and b, so the same f, and differ only by pulses on coordinates with equal X_i. At a
breakpoint all maximizers lie on a line of the (a,b) plane with slope 2s; an optimum has b = s a, so
that line doesn't pass through the origin, f is strictly convex on it, and only the ends can be
optimal. The ends belong to the two neighbouring intervals. So the lexicographically greatest
maximizer of each open interval, compared over all intervals, is the result.
"""

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import SupportsFloat, SupportsIndex

from pvq_ref.errors import DomainError, NonFiniteError
from pvq_ref.oracle.counting import check_natural

Real = SupportsFloat | SupportsIndex | Fraction


def _exact(value: Real) -> Fraction:
    """Return a number as a fraction, without rounding."""
    if isinstance(value, Fraction):
        return value
    if isinstance(value, SupportsIndex):
        return Fraction(operator.index(value))
    number = float(value)
    if not math.isfinite(number):
        raise NonFiniteError(f"x must be finite, got {number!r}")
    return Fraction(number)


def _input(x: Iterable[Real], k: int) -> list[Fraction]:
    """Return x exactly; raise NonFiniteError or DomainError (section 4.1)."""
    check_natural(k=k)
    values = [_exact(value) for value in x]
    if not values:
        raise DomainError("x must have at least one element, got 0")
    return values


def _integers(x: Sequence[Fraction]) -> list[int]:
    """Return |x| times the common denominator; f's order doesn't change (section 4.1)."""
    denominator = math.lcm(*(value.denominator for value in x))
    return [abs(int(value * denominator)) for value in x]


def _with_signs(z: Sequence[int], x: Sequence[Fraction]) -> tuple[int, ...]:
    """Return y: -z_i where x_i < 0, else z_i (section 4.1)."""
    return tuple(-count if value < 0 else count for count, value in zip(z, x, strict=True))


def _objective(X: Sequence[int], z: Sequence[int]) -> Fraction:
    """Return f(z) = <X,z>²/||z||² for z != 0 (section 4.1)."""
    return Fraction(sum(a * b for a, b in zip(X, z, strict=True)) ** 2, sum(b * b for b in z))


def _settle(X: Sequence[int], z: list[int], s: Fraction) -> None:
    """Move pulses until z maximizes 2s'<X,z> - ||z||² for s' slightly above s.

    Pulses are ranked by worth at s, then by X_i (the worth just above s), then by index (lowest
    first: of equal coordinates the first gets the pulse, which is lexicographically greatest).
    This is a strict order. Worth falls with m, so z holds the first k pulses if no coordinate's
    next pulse precedes another coordinate's last one.
    """
    p, q = s.numerator, s.denominator

    def key(i: int, m: int) -> tuple[int, int, int]:
        return (2 * p * X[i] - (2 * m - 1) * q, X[i], -i)

    while True:
        gain = max(key(i, m + 1) for i, m in enumerate(z))
        loss = min(key(i, m) for i, m in enumerate(z) if m > 0)
        if gain <= loss:
            return
        z[-gain[2]] += 1
        z[-loss[2]] -= 1


def _next_breakpoint(X: Sequence[int], z: Sequence[int]) -> Fraction | None:
    """Return the least s at which z stops being a maximizer; None if it stays one for all s.

    The next pulse of i passes the last pulse of j at s = (z_i + 1 - z_j) / (X_i - X_j), where
    X_i > X_j. Among coordinates of equal z the greatest X_i receives first and the least X_j
    gives first, so these stand for their class.
    """
    greatest: dict[int, int] = {}
    least: dict[int, int] = {}
    for value, m in zip(X, z, strict=True):
        greatest[m] = max(value, greatest.get(m, value))
        least[m] = min(value, least.get(m, value))
    return min(
        (
            Fraction(receiver + 1 - giver, greatest[receiver] - least[giver])
            for receiver in greatest
            for giver in least
            if giver > 0 and greatest[receiver] > least[giver]
        ),
        default=None,
    )


def _maximizers(X: Sequence[int], k: int) -> Iterator[tuple[int, ...]]:
    """Yield for every interval between breakpoints, from s = 0 on, its first maximizer."""
    z = [k] + [0] * (len(X) - 1)
    s: Fraction | None = Fraction(0)
    while s is not None:
        _settle(X, z, s)
        yield tuple(z)
        last, s = s, _next_breakpoint(X, z)
        assert s is None or s > last


def _compositions(n: int, k: int) -> Iterator[tuple[int, ...]]:
    """Yield all z in P(n,k) without a negative coordinate."""
    if n == 1:
        yield (k,)
        return
    for first in range(k + 1):
        for rest in _compositions(n - 1, k - first):
            yield (first, *rest)


def _best(candidates: Iterable[tuple[int, ...]], X: Sequence[int]) -> tuple[int, ...]:
    """Return the z of greatest f, of several the lexicographically greatest (section 4.1)."""
    return max(candidates, key=lambda z: (_objective(X, z), z))


def search(x: Iterable[Real], k: int) -> tuple[int, ...]:
    """Return the y in P(n,k) with the greatest cosine with x (section 4.1).

    x has n >= 1 finite numbers, taken as exact. Raises NonFiniteError, DomainError.

    >>> search([0.5, -2.0, 1.0], 3)
    (0, -2, 1)
    """
    values = _input(x, k)
    if k == 0:
        return (0,) * len(values)
    X = _integers(values)
    if not any(X):  # all z tie
        return (k,) + (0,) * (len(values) - 1)
    return _with_signs(_best(_maximizers(X, k), X), values)


def brute_force_search(x: Iterable[Real], k: int) -> tuple[int, ...]:
    """Return the same as `search`, by trying every z: the definition itself (section 4.1).

    >>> brute_force_search([0.5, -2.0, 1.0], 3)
    (0, -2, 1)
    """
    values = _input(x, k)
    if k == 0:
        return (0,) * len(values)
    return _with_signs(_best(_compositions(len(values), k), _integers(values)), values)


def _add_pulses(p: Sequence[float], z: list[int], missing: int) -> None:
    """Add one pulse to each of the `missing` coordinates of greatest p_i - z_i (section 4.2)."""
    order = sorted(range(len(z)), key=lambda i: (-(p[i] - z[i]), i))
    for i in order[:missing]:
        z[i] += 1


def _remove_pulses(p: Sequence[float], z: list[int], surplus: int) -> None:
    """Take one pulse from each of the `surplus` coordinates of least p_i - z_i (section 4.2)."""
    order = sorted((i for i in range(len(z)) if z[i] > 0), key=lambda i: (p[i] - z[i], -i))
    for i in order[:surplus]:
        z[i] -= 1


def search_project(x: Iterable[Real], k: int) -> tuple[int, ...]:
    """Return the paper's y: project, round, fix, in binary64 (section 4.2).

    >>> search_project([0.5, -2.0, 1.0], 3)
    (0, -2, 1)
    """
    values = _input(x, k)
    if k == 0:
        return (0,) * len(values)
    if not any(values):
        return (k,) + (0,) * (len(values) - 1)
    try:
        magnitudes = [abs(float(value)) for value in values]
    except OverflowError as error:
        raise NonFiniteError("x must be finite in binary64") from error
    exponent = math.frexp(max(magnitudes))[1]
    X = [math.ldexp(value, 1 - exponent) for value in magnitudes]
    S = 0.0
    for value in X:
        S += value
    p = [(k * value) / S for value in X]
    z = [round(value) for value in p]  # ties to even
    while (total := sum(z)) != k:
        if total < k:
            _add_pulses(p, z, k - total)
        else:
            _remove_pulses(p, z, total - k)
    return _with_signs(z, values)
