"""Gains and their levels (spec section 5), in 60 digits where they follow from a law.

The law of r is in the module law. "Levels for r" are in the units of r, in arbitrary precision;
`level_table` multiplies them by c(n,k) and rounds them to binary32.
"""

import math
import statistics
import struct
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import islice, pairwise

import mpmath  # type: ignore[import-untyped]

from pvq_ref.errors import DomainError, ShapeError
from pvq_ref.oracle.law import (
    DIGITS,
    SMALLEST_CHANGE,
    Levels,
    Number,
    beta_quantile,
    check_law,
    density,
    intervals,
    parameters,
    quantile,
)
from pvq_ref.oracle.rotation import splitmix64
from pvq_ref.oracle.search import search
from pvq_ref.oracle.tensor import round_to

# 5.1: the optimal gain


def optimal_gain(w: Sequence[float], y: Sequence[int]) -> float:
    """Return g* = <w,y>/||y|| in binary64 (section 5.1); y must not be 0.

    >>> optimal_gain([3.0, -8.0], [0, -2])
    8.0
    """
    if len(w) != len(y):
        raise ShapeError(f"w must have {len(y)} elements, got {len(w)}")
    if not any(y):
        raise DomainError("y must have at least one pulse, got 0")
    total = 0.0
    for weight, pulses in zip(w, y, strict=True):
        total += float(weight) * pulses
    return total / math.sqrt(sum(pulses * pulses for pulses in y))


# 5.3: the mean cosine


def _normal(output: int) -> float:
    """Return the normal number of one output of the generator (section 5.3)."""
    return statistics.NormalDist().inv_cdf(((output >> 12) + 0.5) / 2**52)


def sample_size(n: int) -> int:
    """Return M, the number of vectors of the sample (section 5.3)."""
    return max(256, 65536 // n)


def cosine(x: Sequence[float], y: Sequence[int]) -> float:
    """Return cos(x,y), accurate to a few units in the last place."""
    product = math.fsum(a * b for a, b in zip(x, y, strict=True))
    return product / math.sqrt(math.fsum(a * a for a in x) * sum(b * b for b in y))


def mean_cosine(n: int, k: int, vectors: int | None = None) -> float:
    """Return c(n,k), over M vectors or the number given (section 5.3).

    The mean is rounded to a multiple of 2^-24, ties to even. That hides the errors of the quantile
    function (statistics.NormalDist, a few units in the last place) and of the sums here, unless the
    mean is within some 1e-15 of the middle between two multiples.
    """
    if n < 1 or k < 1:
        raise DomainError(f"n and k must be >= 1, got {n} and {k}")
    generator = splitmix64(0)
    cosines = []
    for _ in range(sample_size(n) if vectors is None else vectors):
        x = [_normal(output) for output in islice(generator, n)]
        cosines.append(cosine(x, search(x, k)))
    return round(math.fsum(cosines) / len(cosines) * 2**24) / 2**24


# 5.4: levels for r


def quantile_levels(n: int, cols: int, bits: int) -> Levels:
    """Return Q((i + 1/2)/2^b) (section 5.4, `quantile`)."""
    return [quantile(p, n, cols) for p in _middles(bits)]


def _middles(bits: int) -> Levels:
    """Return (i + 1/2)/2^b, exact."""
    return [mpmath.mpf(2 * i + 1) / 2 ** (bits + 1) for i in range(2**bits)]


def _root_density_quantile(p: Number, n: int, cols: int) -> Number:
    """Return a quantile of the law whose density goes as the cube root of r's (section 5.4)."""
    with mpmath.workdps(DIGITS):
        _, b = parameters(n, cols)
        root_law = (mpmath.mpf(n - 1) / 3 + 1) / 2, (b - 1) / 3 + 1
        return mpmath.sqrt(beta_quantile(p, *root_law))


def panter_dite(n: int, cols: int, bits: int) -> Levels:
    """Return the quantiles of the cube-root law (section 5.4, `panter-dite`)."""
    return [_root_density_quantile(p, n, cols) for p in _middles(bits)]


def centroids(thresholds: Sequence[Number], n: int, cols: int) -> Levels:
    """Return the centroid of r between each two neighbours of 0, thresholds, 1 (section 5.4)."""
    with mpmath.workdps(DIGITS):
        probabilities, moments = intervals([0, *thresholds, 1], n, cols)
        return [moment / p for moment, p in zip(moments, probabilities, strict=True)]


def panter_dite_centroids(n: int, cols: int, bits: int) -> Levels:
    """Return the centroids between the cube-root law's quantiles (`panter-dite-centroids`)."""
    with mpmath.workdps(DIGITS):
        ends = [mpmath.mpf(i) / 2**bits for i in range(1, 2**bits)]
        thresholds = [_root_density_quantile(p, n, cols) for p in ends]
    return centroids(thresholds, n, cols)


def midpoints(levels: Sequence[Number]) -> Levels:
    """Return the middles between neighbouring levels."""
    with mpmath.workdps(DIGITS):
        return [(a + b) / 2 for a, b in pairwise(levels)]


def lloyd_step(levels: Sequence[Number], n: int, cols: int) -> Levels:
    """Return the centroids between the midpoints of the levels; Lloyd-Max is its fixed point."""
    return centroids(midpoints(levels), n, cols)


def _newton_step(levels: Levels, n: int, cols: int) -> Levels:
    """Return levels after a Newton step for levels - lloyd_step(levels) = 0.

    The centroid c of (s,t), probability P, moves with t by f(t)(t - c)/P and with s by
    f(s)(c - s)/P, f the density; s and t are midpoints and so move by half of each neighbour.
    """
    thresholds = midpoints(levels)
    bounds = [mpmath.mpf(0), *thresholds, mpmath.mpf(1)]
    slopes = [mpmath.mpf(0), *(density(t, n, cols) for t in thresholds), mpmath.mpf(0)]
    probabilities, moments = intervals(bounds, n, cols)
    below, diagonal, above, residual = [], [], [], []
    for i, level in enumerate(levels):
        centroid = moments[i] / probabilities[i]
        below.append(-slopes[i] * (centroid - bounds[i]) / (2 * probabilities[i]))
        above.append(-slopes[i + 1] * (bounds[i + 1] - centroid) / (2 * probabilities[i]))
        diagonal.append(1 + below[i] + above[i])
        residual.append(level - centroid)
    change = _solve_tridiagonal(below, diagonal, above, residual)
    return [level - step for level, step in zip(levels, change, strict=True)]


def _solve_tridiagonal(below: Levels, diagonal: Levels, above: Levels, right: Levels) -> Levels:
    """Return the solution of a tridiagonal system, by elimination from the top."""
    diagonal, right = list(diagonal), list(right)
    for i in range(1, len(right)):
        factor = below[i] / diagonal[i - 1]
        diagonal[i] -= factor * above[i - 1]
        right[i] -= factor * right[i - 1]
    solution = [right[-1] / diagonal[-1]]
    for i in range(len(right) - 2, -1, -1):
        solution.insert(0, (right[i] - above[i] * solution[0]) / diagonal[i])
    return solution


def lloyd_max(n: int, cols: int, bits: int) -> Levels:
    """Return the levels of least mean squared error for r (section 5.4, `lloyd-max`).

    From panter-dite-centroids by Newton's method until no level changes by more than 1e-40; a step
    that would break the order of the levels is replaced by a step of Lloyd's.
    """
    with mpmath.workdps(DIGITS):
        levels = panter_dite_centroids(n, cols, bits)
        for _ in range(1000):
            following = _newton_step(levels, n, cols)
            inside = [mpmath.mpf(0), *following, mpmath.mpf(1)]
            if any(a >= b for a, b in pairwise(inside)):
                following = lloyd_step(levels, n, cols)
            change = max(abs(a - b) for a, b in zip(levels, following, strict=True))
            levels = following
            if change < SMALLEST_CHANGE:
                return levels
    raise AssertionError("lloyd_max must converge")


DESIGNS: dict[str, Callable[[int, int, int], Levels]] = {
    "quantile": quantile_levels,
    "panter-dite": panter_dite,
    "panter-dite-centroids": panter_dite_centroids,
    "lloyd-max": lloyd_max,
}


def law_levels(design: str, n: int, cols: int, bits: int) -> Levels:
    """Return 2^b levels for r by one of the designs for its law (section 5.4)."""
    check_law(n, cols, bits)
    if design not in DESIGNS:
        raise DomainError(f"design must be one of {tuple(DESIGNS)}, got {design!r}")
    if n == cols:
        return [mpmath.mpf(1)] * 2**bits
    return DESIGNS[design](n, cols, bits)


def binary32(value: Number | Fraction) -> float:
    """Return a number rounded once to binary32, to nearest, ties to even."""
    if not isinstance(value, Fraction):
        value = Fraction(*(int(part) for part in mpmath.libmp.to_rational(value._mpf_)))
    return float(struct.unpack("<f", round_to(value, "F32"))[0])


def level_table(design: str, n: int, cols: int, bits: int, c: float) -> list[float]:
    """Return 2^b levels: those for r, times c, rounded to binary32 (section 5.4)."""
    with mpmath.workdps(DIGITS):
        return [binary32(level * c) for level in law_levels(design, n, cols, bits)]


def level_mse(levels: Sequence[Number], n: int, cols: int) -> Number:
    """Return D, the mean squared error of levels for r, each r to its nearest one (section 5.4)."""
    check_law(n, cols)
    with mpmath.workdps(DIGITS):
        if n == cols:
            return min((level - 1) ** 2 for level in levels)
        mse = mpmath.mpf(n) / cols  # the mean of r²
        probabilities, moments = intervals([0, *midpoints(levels), 1], n, cols)
        for level, p, moment in zip(levels, probabilities, moments, strict=True):
            mse += level * (level * p - 2 * moment)
        return mse


# 5.4: fitted levels; 5.5: fields


def _cluster_error(values: Sequence[Fraction]) -> Fraction:
    """Return the sum of squared distances from the mean."""
    mean = sum(values, Fraction(0)) / len(values)
    return sum(((value - mean) ** 2 for value in values), Fraction(0))


def fitted_levels(gains: Iterable[float], bits: int) -> list[float]:
    """Return the levels of least mean squared error on the gains (section 5.4, `fitted`).

    Exact dynamic programming over the sorted gains, for tiny data; each mean is rounded to
    binary32. Of several best partitions the one whose starts are least, in lexicographic order,
    is taken; if there are fewer different gains than levels, the last level is repeated.
    """
    values = sorted(Fraction(gain) for gain in gains)
    clusters = min(2**bits, len(set(values)))
    if clusters == 0:
        raise DomainError("gains must have at least one element, got 0")
    size = len(values)
    error = {
        (i, j): _cluster_error(values[i:j]) for i in range(size) for j in range(i + 1, size + 1)
    }
    # best[j]: least error of the first j values in m clusters, and the starts of the clusters
    best: dict[int, tuple[Fraction, tuple[int, ...]]] = {
        j: (error[0, j], (0,)) for j in range(1, size + 1)
    }
    for m in range(2, clusters + 1):
        best = {
            j: min((best[i][0] + error[i, j], (*best[i][1], i)) for i in range(m - 1, j))
            for j in range(m, size + 1)
        }
    starts = [*best[size][1], size]
    levels = [binary32(statistics.mean(values[i:j])) for i, j in pairwise(starts)]
    return levels + [levels[-1]] * (2**bits - clusters)


def nearest_level(g: float, levels: Sequence[float]) -> int:
    """Return the field of a gain: how many midpoints of ascending levels are <= g (section 5.5).

    >>> nearest_level(0.25, [0.0, 0.5, 1.0])
    1
    """
    return sum(g >= (a + b) / 2 for a, b in pairwise(levels))
