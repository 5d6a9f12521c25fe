"""Values at equal distances for each group of a row: scales by its extremes, in binary16.

  absmax  step · (i - L // 2): the number of greatest magnitude is the first value (16 bits a group)
  minmax  step · (i - zero), from the least to the greatest, 0 among them (16 bits and zero's own)
  offset  low + step · i, from the least to the greatest (32 bits)

with i = 0 … L-1. Without `clip` the values span what the group has. With it they span that part of
it, of FACTORS, which leaves the least squared error, as quantizers of language models often do.
"""

import math
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SCALES = ("absmax", "minmax", "offset")
FACTORS = np.linspace(1.0, 0.4, 25)  # of the span

# Kernels call only kernels of their own file, which is all that Numba's cache watches.
kernel = numba.njit(nogil=True, error_model="numpy", cache=True)


@kernel
def _half(x: float) -> float:
    """Round a finite number to binary16, ties to even; infinity beyond its range."""
    unit = math.ldexp(1.0, max(math.frexp(x)[1] - 11, -24))
    rounded = np.rint(x / unit) * unit
    return rounded if abs(rounded) <= 65504.0 else math.copysign(math.inf, x)


@kernel
def _line(least: float, most: float, levels: int, scale: int, factor: float) -> tuple[float, float]:
    """Return the first value and the step."""
    if scale == 0:
        first = most if most > -least else least
        half = levels // 2
        step = _half(-factor * first / half)
        return -half * step, step
    if scale == 1:
        low, high = factor * min(least, 0.0), factor * max(most, 0.0)
        step = _half((high - low) / (levels - 1))
        zero = min(max(np.rint(-low / step), 0.0), levels - 1.0) if step > 0.0 else 0.0
        return -zero * step, step
    reach = factor * (most - least) / 2
    middle = (least + most) / 2
    return _half(middle - reach), _half(2 * reach / (levels - 1))


@kernel
def _squared_error(x: Floats, first: float, step: float, levels: int) -> float:
    total = 0.0
    for value in x:
        i = min(max(np.rint((value - first) / step), 0.0), levels - 1.0) if step != 0.0 else 0.0
        total += (value - (first + step * i)) ** 2
    return total


@kernel
def _uniform(x: Floats, scale: int, factors: Floats, values: Floats) -> None:
    """Write ascending values (rows, levels) for the groups x (rows, n)."""
    levels = values.shape[1]
    for row in range(x.shape[0]):
        least, most = x[row].min(), x[row].max()
        first, step, error = 0.0, 0.0, math.inf
        for factor in factors:
            a, b = _line(least, most, levels, scale, factor)
            lost = _squared_error(x[row], a, b, levels) if factors.size > 1 else 0.0
            if lost < error:
                first, step, error = a, b, lost
        for i in range(levels):
            values[row, i if step > 0.0 else levels - 1 - i] = first + step * i


@dataclass(frozen=True)
class Uniform:
    """`levels` >= 2 values for each group of `group` columns; the last one may be narrower."""

    levels: int
    group: int
    scale: str
    clip: bool = False

    def __post_init__(self) -> None:
        if self.levels < 2 or self.group < 1 or self.scale not in SCALES:
            raise ValueError(f"levels >= 2, group >= 1, and a scale of {SCALES}, got {self}")

    def values(self, x: Floats) -> Floats:
        """Return the values (rows, levels), ascending, of the groups x (rows, n)."""
        values = np.empty((len(x), self.levels))
        _uniform(x, SCALES.index(self.scale), FACTORS if self.clip else FACTORS[:1], values)
        if not np.isfinite(values).all():
            raise ValueError("scales must be in the range of binary16, got larger ones")
        return values

    def patterns(self, cols: int) -> int:
        """Return how many rows of indices there are."""
        return int(self.levels**cols)

    def scale_bits(self, rows: int, cols: int) -> int:
        """Return the bits of all scales: binary16, and integers packed together."""
        groups = rows * -(-cols // self.group)
        if self.scale == "minmax":
            return 16 * groups + whole_bytes(groups * (self.levels - 1).bit_length())
        return (32 if self.scale == "offset" else 16) * groups


def whole_bytes(bits: int) -> int:
    """Return the bits of the whole bytes that `bits` bits take."""
    return -(-bits // 8) * 8
