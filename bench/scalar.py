"""Scalar quantizers of the normal law of variance 1, each weight on its own.

The error of levels t_i, each used where it is nearest, is 1 + Σ t_i (t_i p_i - 2 m_i), with
p_i = P and m_i = E[x; ·] of the i-th interval. The optimum has t_i = m_i / p_i (Lloyd 1957, Max
1960).
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import ndtr

Floats = NDArray[np.float64]


def _masses_and_moments(levels: Floats) -> tuple[Floats, Floats]:
    """Return P and E[x; ·] of the intervals where each of the ascending levels is nearest."""
    borders = np.concatenate(([-np.inf], (levels[:-1] + levels[1:]) / 2, [np.inf]))
    density: Floats = np.exp(-(borders**2) / 2) / math.sqrt(2 * math.pi)
    return np.diff(ndtr(borders)), -np.diff(density)


def _error(levels: Floats) -> float:
    mass, moment = _masses_and_moments(levels)
    return float(1.0 + np.sum(levels * (levels * mass - 2 * moment)))


def _even_levels(count: int, step: float) -> Floats:
    return (np.arange(count, dtype=np.float64) - (count - 1) / 2) * step


@lru_cache
def lloyd_max_levels(count: int) -> Floats:
    """Return the `count` >= 2 levels of least mean squared error, ascending (Lloyd's iteration)."""
    levels = _even_levels(count, 4.0 / count)
    while True:
        mass, moment = _masses_and_moments(levels)
        following = moment / mass
        if np.max(np.abs(following - levels)) < 1e-10:
            following.flags.writeable = False
            return following
        levels = following


def lloyd_max_error(rate: int) -> float:
    """Return the least mean squared error of 2^rate levels."""
    return _error(lloyd_max_levels(1 << rate))


def uniform_error(rate: int) -> float:
    """Return the least error of 2^rate levels at equal distances, symmetric about zero."""
    found = minimize_scalar(
        lambda step: _error(_even_levels(1 << rate, step)),
        bounds=(0.0, 4.0),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return float(found.fun)
