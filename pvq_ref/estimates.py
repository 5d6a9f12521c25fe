"""Means with their standard errors, and those of paired differences.

The standard error of a mean of N values is their standard deviation, with N - 1 below, over √N. Two
models that are measured on the same items differ by the mean of the items' differences, whose
standard error is far smaller than that of either mean: what is hard for one is hard for the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, sqrt

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error, None where there is only one value to go by."""

    value: float
    standard_error: float | None

    def exponential(self) -> "Estimate":
        """Return exp of the value; its standard error to first order, exp(value) times the old."""
        value = exp(self.value) if self.value < 700.0 else inf
        error = self.standard_error
        return Estimate(value, None if error is None else value * error)


def mean(values: ArrayLike) -> Estimate:
    """Return the mean of N values and its standard error.

    >>> mean([1.0, 2.0, 3.0])
    Estimate(value=2.0, standard_error=0.5773502691896258)
    """
    x = np.asarray(values, np.float64)
    error = float(np.std(x, ddof=1)) / sqrt(len(x)) if len(x) > 1 else None
    return Estimate(float(np.mean(x)), error)


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of independent estimates, each with the same weight."""
    value = sum(one.value for one in estimates) / len(estimates)
    errors = [one.standard_error for one in estimates if one.standard_error is not None]
    if len(errors) < len(estimates):
        return Estimate(value, None)
    return Estimate(value, sqrt(sum(error**2 for error in errors)) / len(estimates))
