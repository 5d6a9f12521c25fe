"""Gain: the amplitude of a group, and the levels that it is rounded to (spec section 5).

For fixed y the best amplitude of y/||y|| is g* = <w,y>/||y||. If a row is uniform on the sphere,
the norm r of n of its cols coordinates, in units of the row's, has

    r² ~ Beta(α, β),    α = n/2,  β = (cols-n)/2                     (Frankl and Maehara 1990)

and g* = r cos(w,y), with a cosine that is independent of r and almost constant. Level designs for
r: the paper's quantiles, the closed form of Panter and Dite (1951), and the optimum of Lloyd (1957)
and Max (1960), whose centroids are ratios of incomplete beta functions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy  # its parts are imported when they are asked for
from numpy.typing import ArrayLike, NDArray

from pvq_ref.counting import checked_integer
from pvq_ref.errors import DomainError, ShapeError
from pvq_ref.jit import kernel
from pvq_ref.rotation import splitmix64
from pvq_ref.searching import search_unchecked

Floats = NDArray[np.float64]
MAX_GAIN_BITS = 8
FITTED = "fitted"  # the design that isn't of the law but of the data
SAMPLE = 1 << 16  # coordinates of the sample for the mean cosine
FITTED_SAMPLE = 1 << 15  # gains of a tensor that levels are fitted to
_ROUNDS = 1000  # of Lloyd's iteration, at most


@kernel
def _optimal_gains(w: Floats, y: NDArray[np.int32], gains: Floats, lost: Floats) -> None:
    """Write <w,y>/||y|| of every group, and the squared error that is left with this gain."""
    for group in range(w.shape[0]):
        a, b, square = 0.0, np.int64(0), 0.0
        for i in range(w.shape[1]):
            a += w[group, i] * y[group, i]
            b += np.int64(y[group, i]) * np.int64(y[group, i])
            square += w[group, i] * w[group, i]
        gains[group] = a / np.sqrt(np.float64(b))
        lost[group] = square - gains[group] * gains[group]


def optimal_gains(w: ArrayLike, y: ArrayLike) -> Floats:
    """Return the best amplitude of y/||y|| for each group (spec section 5.1).

    Parameters: w (groups, n) float; y (groups, n) int32, not zero. Returns (groups,) float64, in
    the unit of w: the g that minimizes ||w - g y/||y||||². Raises ShapeError, DomainError.

    >>> optimal_gains(np.array([[3.0, 4.0]]), np.array([[0, 2]], np.int32))
    array([4.])
    """
    w, y = np.ascontiguousarray(w, np.float64), np.ascontiguousarray(y, np.int32)
    if w.ndim != 2 or w.shape != y.shape:
        raise ShapeError(f"w and y must have one shape (groups, n), got {w.shape} and {y.shape}")
    if not y.any(axis=1).all():
        raise DomainError("y must not be zero: a group without pulses has no gain")
    return group_gains(w, y)[0]


def group_gains(w: Floats, y: NDArray[np.int32]) -> tuple[Floats, Floats]:
    """Return the best amplitudes of groups that are known to have pulses, and the squared errors
    that these leave, which rounding may put below zero.
    """
    gains, lost = np.empty(w.shape[0]), np.empty(w.shape[0])
    _optimal_gains(w, y, gains, lost)
    return gains, lost


@dataclass(frozen=True)
class BetaLaw:
    """The law of the norm r of n of cols >= n coordinates (spec section 5.2)."""

    n: int
    cols: int

    def __post_init__(self) -> None:
        checked_integer("n", self.n, 1)
        checked_integer("cols", self.cols, self.n)

    @property
    def is_point(self) -> bool:
        """Whether the group is the whole row, so that r = 1."""
        return self.n == self.cols

    @property
    def _shape(self) -> tuple[float, float]:
        return self.n / 2, (self.cols - self.n) / 2

    @property
    def mean_square(self) -> float:
        """E r²."""
        return self.n / self.cols

    def cdf(self, r: ArrayLike) -> Floats:
        """Return the distribution function at r."""
        return np.asarray(scipy.special.betainc(*self._shape, np.clip(r, 0.0, 1.0) ** 2))

    def quantile(self, p: ArrayLike) -> Floats:
        """Return the quantile function at p."""
        return np.asarray(
            np.sqrt(scipy.special.betaincinv(*self._shape, np.asarray(p, np.float64)))
        )

    def density_root_quantile(self, p: ArrayLike) -> Floats:
        """Return quantiles of the law whose density is the cube root of r's, normalized."""
        alpha = ((self.n - 1) / 3 + 1) / 2
        beta = (self._shape[1] - 1) / 3 + 1
        return np.asarray(np.sqrt(scipy.special.betaincinv(alpha, beta, np.asarray(p, np.float64))))

    def masses_and_moments(self, thresholds: Floats) -> tuple[Floats, Floats]:
        """Return P and E[r; ·] of the intervals that the thresholds, from 0 to 1, bound."""
        alpha, beta = self._shape
        mean = np.exp(scipy.special.betaln(alpha + 0.5, beta) - scipy.special.betaln(alpha, beta))
        squares = thresholds**2
        return np.diff(scipy.special.betainc(alpha, beta, squares)), mean * np.diff(
            scipy.special.betainc(alpha + 0.5, beta, squares)
        )

    def density(self, r: Floats) -> Floats:
        """Return the density of r at points inside (0, 1)."""
        alpha, beta = self._shape
        log = (2 * alpha - 1) * np.log(r) + (beta - 1) * np.log1p(-(r**2))
        return np.asarray(2 * np.exp(log - scipy.special.betaln(alpha, beta)))

    def distortion(self, levels: Floats) -> float:
        """Return E (r - nearest level)² for ascending levels."""
        mass, moment = self.masses_and_moments(_thresholds(levels))
        return float(self.mean_square + np.sum(levels * (levels * mass - 2 * moment)))


def _thresholds(levels: Floats) -> Floats:
    return np.concatenate(([0.0], (levels[:-1] + levels[1:]) / 2, [1.0]))


def _middles(gain_bits: int) -> Floats:
    return (np.arange(1 << gain_bits) + 0.5) / (1 << gain_bits)


def _quantile(law: BetaLaw, gain_bits: int) -> Floats:
    return law.quantile(_middles(gain_bits))


def _panter_dite(law: BetaLaw, gain_bits: int) -> Floats:
    return law.density_root_quantile(_middles(gain_bits))


def _panter_dite_centroids(law: BetaLaw, gain_bits: int) -> Floats:
    borders = np.arange((1 << gain_bits) + 1) / (1 << gain_bits)
    mass, moment = law.masses_and_moments(law.density_root_quantile(borders))
    return moment / mass


def _lloyd_max(law: BetaLaw, gain_bits: int) -> Floats:
    """Solve level = centroid by Newton's method, its Jacobian being tridiagonal."""
    levels = _panter_dite_centroids(law, gain_bits)
    for _ in range(200):
        mass, moment = law.masses_and_moments(_thresholds(levels))
        centroid = moment / mass
        inner = _thresholds(levels)[1:-1]
        # A threshold t moves the centroids beside it by density(t) |t - centroid| / mass, and
        # follows each of its two levels by half.
        weight = law.density(inner) / 2 if inner.size else inner
        left = weight * (inner - centroid[:-1]) / mass[:-1]
        right = weight * (centroid[1:] - inner) / mass[1:]
        jacobian = np.zeros((3, levels.size))
        jacobian[1] = 1.0
        jacobian[1, :-1] -= left
        jacobian[1, 1:] -= right
        jacobian[0, 1:] = -left
        jacobian[2, :-1] = -right
        step = scipy.linalg.solve_banded((1, 1), jacobian, levels - centroid)
        following: Floats = levels - step
        if np.any(np.diff(following) <= 0) or following[0] <= 0 or following[-1] >= 1:
            following = centroid  # Lloyd's own step, which always descends
        if np.max(np.abs(following - levels)) < 1e-10:  # the next step would be 1e-20
            return following
        levels = following
    return levels


DESIGNS: dict[str, Callable[[BetaLaw, int], Floats]] = {
    "quantile": _quantile,
    "panter-dite": _panter_dite,
    "panter-dite-centroids": _panter_dite_centroids,
    "lloyd-max": _lloyd_max,
}


@lru_cache(1024)
def law_levels(design: str, law: BetaLaw, gain_bits: int) -> Floats:
    """Return the 2^gain_bits levels of a design for r, ascending float64 (spec section 5.4)."""
    if design not in DESIGNS:
        raise DomainError(f"design must be one of {', '.join(DESIGNS)}, got {design!r}")
    checked_integer("gain_bits", gain_bits, 0, MAX_GAIN_BITS)
    levels = np.ones(1 << gain_bits) if law.is_point else DESIGNS[design](law, gain_bits)
    levels.flags.writeable = False
    return levels


@dataclass(frozen=True)
class Cosines:
    """Means of the cosine of a normal vector with its best point, and of its square."""

    mean: float
    mean_square: float


@lru_cache(4096)
def cosines(n: int, k: int) -> Cosines:
    """Return the mean cosine c(n,k) over the fixed sample of spec section 5.3."""
    groups = max(256, SAMPLE // n)
    words = splitmix64(0, groups * n) >> np.uint64(12)
    x = scipy.special.ndtri((words.astype(np.float64) + 0.5) * 2.0**-52).reshape(groups, n)
    cosine = optimal_gains(x, search_unchecked(x, k)) / np.sqrt(np.sum(x * x, axis=1))
    return Cosines(float(np.rint(cosine.mean() * 2**24)) / 2**24, float(np.mean(cosine**2)))


def design_levels(design: str, n: int, k: int, cols: int, gain_bits: int) -> NDArray[np.float32]:
    """Return the levels of g* in units of the row norm, (2^gain_bits,) float32 (spec section 5.4).

    Parameters: design, a key of DESIGNS; n, the group; k, its pulses; cols >= n; gain_bits, 0 to 8.
    Raises DomainError.
    """
    levels = law_levels(design, BetaLaw(n, cols), gain_bits) * cosines(n, k).mean
    return levels.astype(np.float32)


def _companded(sample: Floats, mass: Floats, gain_bits: int) -> Floats:
    """Return levels of the optimal density, the cube root of the sample's own (Panter and Dite).

    sample (gains,) ascends, with a positive mass for each. Between neighbouring quantiles the
    density is 1/width, so its cube root adds width^(2/3).
    """
    middle = np.cumsum(mass) - mass / 2
    share = (middle - middle[0]) / max(middle[-1] - middle[0], mass[0])  # from 0 to 1
    points = np.interp(np.linspace(0.0, 1.0, 1025), share, sample)
    density = np.concatenate(([0.0], np.cumsum(np.diff(points) ** (2 / 3))))
    if density[-1] == 0.0:
        return np.full(1 << gain_bits, sample[0])
    return np.interp(_middles(gain_bits), density / density[-1], points)


@kernel
def _lloyd(sample: Floats, above: Floats, total: Floats, levels: Floats) -> None:
    """Move ascending levels to the centroids of what is nearest to them, until they stay.

    sample (gains,) ascends; above and total (gains + 1,) are the masses, and the masses times the
    gains, of all gains before one.
    """
    for _ in range(_ROUNDS):
        moved, first, lowest = False, 0, -np.inf
        for number in range(levels.size):
            last = sample.size
            if number + 1 < levels.size:
                border = (levels[number] + levels[number + 1]) / 2.0
                low = first
                while low < last:
                    middle = (low + last) // 2
                    if sample[middle] < border:
                        low = middle + 1
                    else:
                        last = middle
            centroid, mass = levels[number], above[last] - above[first]
            if mass > 0.0:
                centroid = (total[last] - total[first]) / mass
            lowest = max(lowest, centroid)
            moved |= lowest != levels[number]
            levels[number] = lowest
            first = last
        if not moved:
            return


def fitted_levels(
    gains: Floats, gain_bits: int, weights: Floats | None = None
) -> NDArray[np.float32]:
    """Return the levels with least squared error on the gains themselves (Lloyd's iteration).

    Parameters: gains (groups,) float64, at least one; weights (groups,), positive, of their squared
    errors, 1 if None. At most FITTED_SAMPLE evenly spaced gains are looked at. Returns
    (2^gain_bits,) float32, ascending; some are equal if the gains are few.
    """
    step = -(-gains.size // FITTED_SAMPLE)
    if weights is None:
        sample = np.sort(gains[::step])
        mass = np.ones(sample.size)
    else:
        order = np.argsort(gains[::step], kind="stable")
        sample, mass = gains[::step][order], weights[::step][order]
    above = np.concatenate(([0.0], np.cumsum(mass)))
    total = np.concatenate(([0.0], np.cumsum(mass * sample)))
    levels = _companded(sample, mass, gain_bits)
    _lloyd(sample, above, total, levels)
    return levels.astype(np.float32)


def nearest_levels(gains: Floats, levels: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return the number of the nearest level of each gain, upwards on ties (spec section 5.5)."""
    wide = levels.astype(np.float64)
    numbers = np.zeros(gains.shape, np.uint8)
    for threshold in (wide[:-1] + wide[1:]) / 2:  # few, so that this is faster than halving
        numbers += gains >= threshold
    return numbers
