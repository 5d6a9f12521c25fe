"""The law of r in 60 digits (spec section 5.2).

r is the norm of n coordinates of a point uniform on the unit sphere of cols coordinates:
r² ~ Beta(α, β), α = n/2, β = (cols-n)/2. For n = cols it is the point 1, which has no density; the
functions here take n < cols.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import mpmath  # type: ignore[import-untyped]

from pvq_ref.errors import DomainError

DIGITS = 60
SMALLEST_CHANGE = mpmath.mpf(10) ** -40

Number = Any  # mpmath.mpf, which has no types
Levels = list[Number]


def check_law(n: int, cols: int, bits: int = 0) -> None:
    """Raise DomainError unless 1 <= n <= cols and 0 <= bits <= 8 (section 11)."""
    if not 1 <= n <= cols:
        raise DomainError(f"n must be in 1 … cols = {cols}, got {n}")
    if not 0 <= bits <= 8:
        raise DomainError(f"bits must be in 0 … 8, got {bits}")


def beta_cdf(x: Number, a: Number, b: Number) -> Number:
    """Return I_x(a,b), the regularized incomplete beta function.

    By the series x^a (1-x)^b / (a B(a,b)) · sum over j of x^j (a+b)_j/(a+1)_j, whose terms are all
    positive, for x <= 1/2, where it converges fast; else by I_x(a,b) = 1 - I_{1-x}(b,a).
    """
    if x <= 0 or x >= 1:
        return mpmath.mpf(0 if x <= 0 else 1)
    if 2 * x > 1:
        return 1 - beta_cdf(1 - x, b, a)
    term = total = mpmath.mpf(1)
    j, ratio = 0, mpmath.mpf(1)
    while term > mpmath.eps * total or ratio > 0.75:  # the ratio tends to x, and never turns
        ratio = x * (a + b + j) / (a + 1 + j)
        term *= ratio
        total += term
        j += 1
    return x**a * (1 - x) ** b / (a * mpmath.beta(a, b)) * total


def beta_quantile(p: Number, a: Number, b: Number) -> Number:
    """Return the x with I_x(a,b) = p, 0 < p < 1, by Newton steps inside a bracket."""
    low, high = mpmath.mpf(0), mpmath.mpf(1)
    x = a / (a + b)
    constant = mpmath.beta(a, b)
    for _ in range(1000):
        error = beta_cdf(x, a, b) - p
        low, high = (low, x) if error > 0 else (x, high)
        step = error * constant / (x ** (a - 1) * (1 - x) ** (b - 1))
        if abs(step) < SMALLEST_CHANGE * min(x, 1 - x):
            return x - step
        x = x - step if low < x - step < high else (low + high) / 2
    raise AssertionError("beta_quantile must converge")


def parameters(n: int, cols: int) -> tuple[Number, Number]:
    """Return (α, β) of r² (section 5.2)."""
    return mpmath.mpf(n) / 2, mpmath.mpf(cols - n) / 2


def intervals(bounds: Sequence[Number], n: int, cols: int) -> tuple[Levels, Levels]:
    """Return for each interval (s,t) between neighbouring bounds P(s < r < t) and its first moment.

    The first moment, the mean of r · [s < r < t], is the numerator of the centroid of section 5.4.
    """
    a, b = parameters(n, cols)
    half = mpmath.mpf(1) / 2
    mean = mpmath.beta(a + half, b) / mpmath.beta(a, b)
    probabilities = [beta_cdf(t * t, a, b) for t in bounds]
    moments = [mean * beta_cdf(t * t, a + half, b) for t in bounds]
    return (
        [after - before for before, after in pairwise(probabilities)],
        [after - before for before, after in pairwise(moments)],
    )


def density(r: Number, n: int, cols: int) -> Number:
    """Return the density of r, 0 < r < 1 (section 5.2)."""
    a, b = parameters(n, cols)
    return 2 * r ** (n - 1) * (1 - r * r) ** (b - 1) / mpmath.beta(a, b)


def quantile(p: Number, n: int, cols: int) -> Number:
    """Return Q(p), the quantile function of r (section 5.4)."""
    with mpmath.workdps(DIGITS):
        return mpmath.sqrt(beta_quantile(mpmath.mpf(p), *parameters(n, cols)))
