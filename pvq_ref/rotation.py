"""Randomized Hadamard rotation of rows, for any number of columns (spec section 6).

    W' = W Rᵀ,    R = (H ⊗ S) D / sqrt(order)  on each block of columns,

D signs from a seed, S Sylvester's matrix of order 2^e, H a base of Paley's. A rotated row looks
like a point drawn uniformly from a sphere, which is what the gain law (section 5.2) rests on.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pvq_ref.counting import checked_integer
from pvq_ref.hadamard import Block, matrix, plan, transposed
from pvq_ref.jit import kernel

Floats = NDArray[np.float64]
MAX_SEED = (1 << 64) - 1
_TILE = 1 << 13  # elements that are rotated together: they stay in the cache
_LANES = 8  # rows, at most: with more, rows of the base are far enough apart to evict each other
_SPAN = 128  # columns of the base's product that are made together


def splitmix64(state: int, length: int) -> NDArray[np.uint64]:
    """Return the first outputs of SplitMix64 (spec section 6.1; Steele, Lea and Flood 2014).

    >>> [hex(word) for word in splitmix64(0, 2)]
    ['0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4']
    """
    steps = np.arange(1, length + 1, dtype=np.uint64)
    z = np.uint64(state) + steps * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@lru_cache(16)
def signs(seed: int, cols: int) -> Floats:
    """Return the signs of the columns, +1 or -1 (cols,) float64 (spec section 6.2)."""
    first = int(splitmix64(seed, 1)[0])
    stream = splitmix64(first ^ cols, -(-cols // 64))
    bits = np.unpackbits(stream.astype("<u8").view(np.uint8), bitorder="little", count=cols)
    result = 1.0 - 2.0 * bits.astype(np.float64)
    result.flags.writeable = False
    return result


@kernel
def _sylvester(z: Floats, length: int, lanes: int) -> None:
    """Transform each run of `length` vectors of lanes, a power of two, by Sylvester's matrix.

    Two steps at a time, with the roundings of one after the other.
    """
    step, stop = lanes, length * lanes
    while 2 * step < stop:
        for first in range(0, z.size, 4 * step):
            p, q = z[first : first + step], z[first + step : first + 2 * step]
            r, s = z[first + 2 * step : first + 3 * step], z[first + 3 * step : first + 4 * step]
            for i in range(step):
                a, b, c, d = p[i] + q[i], p[i] - q[i], r[i] + s[i], r[i] - s[i]
                p[i], q[i], r[i], s[i] = a + c, b + d, a - c, b - d
        step *= 4
    if step < stop:
        for first in range(0, z.size, 2 * step):
            p, q = z[first : first + step], z[first + step : first + 2 * step]
            for i in range(step):
                p[i], q[i] = p[i] + q[i], p[i] - q[i]


@kernel
def _mix(z: Floats, base: Floats, out: Floats) -> None:
    """Write base times z, z a (base.shape[0], …) array in row-major order.

    Orders of bases are multiples of four, so four products are added in one pass; a few columns at
    a time stay in the cache for all rows.
    """
    order = base.shape[0]
    run = z.size // order
    for first in range(0, run, _SPAN):
        stop = min(first + _SPAN, run)
        for i in range(0, order, 2):
            upper = out[i * run + first : i * run + stop]
            lower = out[(i + 1) * run + first : (i + 1) * run + stop]
            for t in range(upper.size):
                upper[t] = lower[t] = -0.0  # a sum that begins with it is the sum of the rest
            for j in range(0, order, 4):
                at = j * run + first
                p, q = z[at : at + upper.size], z[at + run : at + run + upper.size]
                at += 2 * run
                r, s = z[at : at + upper.size], z[at + run : at + run + upper.size]
                a, b, c, d = base[i, j], base[i, j + 1], base[i, j + 2], base[i, j + 3]
                e, f, g, h = (
                    base[i + 1, j], base[i + 1, j + 1], base[i + 1, j + 2], base[i + 1, j + 3]
                )  # fmt: skip
                for t in range(upper.size):
                    upper[t] = upper[t] + a * p[t] + b * q[t] + c * r[t] + d * s[t]
                    lower[t] = lower[t] + e * p[t] + f * q[t] + g * r[t] + h * s[t]


@kernel
def _apply(
    x: Floats, sign: Floats, start: int, count: int, order: int, base: Floats, forward: bool
) -> None:
    """Rotate `count` consecutive blocks of every row in place, from column `start` on, or back.

    base is the transpose for the way back. A tile of rows goes through each step together: z holds
    their elements of one column side by side.
    """
    factor, length = 1.0 / np.sqrt(np.float64(order)), order // base.shape[0]
    most = min(x.shape[0], max(4, min(_LANES, _TILE // order // 4 * 4)))
    tile, room = np.empty(order * most), np.empty(order * most)
    for top in range(0, x.shape[0], most):
        lanes = min(most, x.shape[0] - top)
        for first in range(start, start + count * order, order):
            z, mixed = tile[: order * lanes], room[: order * lanes]
            for lane in range(lanes):
                for i in range(order):
                    value = x[top + lane, first + i]
                    z[i * lanes + lane] = value * sign[first + i] if forward else value
            if forward:
                _sylvester(z, length, lanes)
            if base.shape[0] > 1:
                _mix(z, base, mixed)
                z, mixed = mixed, z
            if not forward:
                _sylvester(z, length, lanes)
            for lane in range(lanes):
                for i in range(order):
                    value = z[i * lanes + lane] * factor
                    x[top + lane, first + i] = value if forward else value * sign[first + i]


@dataclass(frozen=True)
class Rotation:
    """A rotation of rows of `cols` columns: a seed, and blocks from left to right."""

    seed: int
    cols: int
    blocks: tuple[Block, ...]

    @staticmethod
    def of(cols: int, seed: int = 0) -> "Rotation":
        """Return the planned rotation of `cols` >= 1 columns; 0 <= seed < 2^64."""
        cols = checked_integer("cols", cols, 1)
        return Rotation(checked_integer("seed", seed, 0, MAX_SEED), cols, plan(cols))

    def forward(self, x: Floats) -> None:
        """Replace the rows of x (rows, cols) float64 by R times them (spec section 6.6)."""
        self._apply(x, inverse=False)

    def inverse(self, x: Floats) -> None:
        """Replace the rows of x (rows, cols) float64 by Rᵀ times them (spec section 6.7)."""
        self._apply(x, inverse=True)

    def _apply(self, x: Floats, *, inverse: bool) -> None:
        sign = signs(self.seed, self.cols)
        first = 0
        for block in self.blocks:
            stop = first + block.count * block.order
            base = transposed(block.base) if inverse else matrix(block.base)
            _apply(x, sign, first, block.count, block.order, base, not inverse)
            first = stop
