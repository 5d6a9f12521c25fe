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
from pvq_ref.jit import fused_kernel, kernel

Floats = NDArray[np.float64]
_1, _2, _3, _4, _8, _12 = map(np.uint64, (1, 2, 3, 4, 8, 12))
MAX_SEED = (1 << 64) - 1
_SPAN = 128  # elements of the base's product that are made together
_TILE = 1 << 15  # elements of several rows that are rotated together, at most


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
def _sylvester(z: Floats, length: int) -> None:
    """Transform each run of `length` elements, a power of two, by Sylvester's matrix.

    Two steps at a time, with the roundings of one after the other. Unsigned places, which can't
    count from the end, let the compiler make vectors of elements that are far apart.
    """
    step = 1
    if length >= 16:
        for run in range(np.uint64(z.size) >> _4):
            for part in range(_4):
                at = (run << _4) + (part << _2)
                p, q, r, s = z[at], z[at + _1], z[at + _2], z[at + _3]
                a, b, c, d = p + q, p - q, r + s, r - s
                z[at], z[at + _1], z[at + _2], z[at + _3] = a + c, b + d, a - c, b - d
            for part in range(_4):
                at = (run << _4) + part
                p, q, r, s = z[at], z[at + _4], z[at + _8], z[at + _12]
                a, b, c, d = p + q, p - q, r + s, r - s
                z[at], z[at + _4], z[at + _8], z[at + _12] = a + c, b + d, a - c, b - d
        step = 16
    while 4 * step <= length:
        for first in range(0, z.size, 4 * step):
            p, q = z[first : first + step], z[first + step : first + 2 * step]
            r, s = z[first + 2 * step : first + 3 * step], z[first + 3 * step : first + 4 * step]
            for i in range(step):
                a, b, c, d = p[i] + q[i], p[i] - q[i], r[i] + s[i], r[i] - s[i]
                p[i], q[i], r[i], s[i] = a + c, b + d, a - c, b - d
        step *= 4
    if step < length:
        for first in range(0, z.size, 2 * step):
            p, q = z[first : first + step], z[first + step : first + 2 * step]
            for i in range(step):
                p[i], q[i] = p[i] + q[i], p[i] - q[i]


@fused_kernel
def _mix(z: Floats, base: Floats, out: Floats) -> None:
    """Write base times z, z a (base.shape[0], …) array in row-major order.

    Orders of bases are multiples of four: four products are added to each of four sums in one pass;
    a few columns at a time stay in the cache for all rows.
    """
    order = base.shape[0]
    run = z.size // order
    for first in range(0, run, _SPAN):
        width = min(_SPAN, run - first)
        for i in range(0, order, 4):
            at = i * run + first
            e, f = out[at : at + width], out[at + run : at + run + width]
            at += 2 * run
            g, h = out[at : at + width], out[at + run : at + run + width]
            for t in range(width):
                e[t] = f[t] = g[t] = h[t] = -0.0  # sums that begin with it are those of the rest
            for j in range(0, order, 4):
                at = j * run + first
                p, q = z[at : at + width], z[at + run : at + run + width]
                at += 2 * run
                r, s = z[at : at + width], z[at + run : at + run + width]
                e0, e1, e2, e3 = base[i, j], base[i, j + 1], base[i, j + 2], base[i, j + 3]
                f0, f1, f2, f3 = (
                    base[i + 1, j], base[i + 1, j + 1], base[i + 1, j + 2], base[i + 1, j + 3]
                )  # fmt: skip
                g0, g1, g2, g3 = (
                    base[i + 2, j], base[i + 2, j + 1], base[i + 2, j + 2], base[i + 2, j + 3]
                )  # fmt: skip
                h0, h1, h2, h3 = (
                    base[i + 3, j], base[i + 3, j + 1], base[i + 3, j + 2], base[i + 3, j + 3]
                )  # fmt: skip
                for t in range(width):
                    a, b, c, d = p[t], q[t], r[t], s[t]  # before anything is written
                    u, v, x, y = e[t], f[t], g[t], h[t]
                    e[t] = u + e0 * a + e1 * b + e2 * c + e3 * d
                    f[t] = v + f0 * a + f1 * b + f2 * c + f3 * d
                    g[t] = x + g0 * a + g1 * b + g2 * c + g3 * d
                    h[t] = y + h0 * a + h1 * b + h2 * c + h3 * d


@kernel
def _apply(
    x: Floats, sign: Floats, start: int, count: int, order: int, base: Floats, forward: bool
) -> None:
    """Rotate `count` consecutive blocks of every row in place, from column `start` on, or back.

    base is the transpose for the way back. Where the runs that the base mixes are short, a few rows
    go through each step together: z holds their runs of one number side by side.
    """
    length = order // base.shape[0]
    factor = 1.0 / np.sqrt(np.float64(order))
    most = max(1, min(x.shape[0], _SPAN // length, _TILE // order))
    tile, room = np.empty(order * most), np.empty(order * most)
    for top in range(0, x.shape[0], most):
        together = min(most, x.shape[0] - top)
        for first in range(start, start + count * order, order):
            z, mixed = tile[: order * together], room[: order * together]
            for row in range(together):
                for place in range(0, order, length):
                    column, at = first + place, place * together + row * length
                    part = x[top + row, column : column + length]
                    signed, to = sign[column : column + length], z[at : at + length]
                    if forward:
                        for i in range(length):
                            to[i] = part[i] * signed[i]
                    else:
                        for i in range(length):
                            to[i] = part[i]
            if forward:
                _sylvester(z, length)
            if base.shape[0] > 1:
                _mix(z, base, mixed)
                z, mixed = mixed, z
            if not forward:
                _sylvester(z, length)
            for row in range(together):
                for place in range(0, order, length):
                    column, at = first + place, place * together + row * length
                    part = x[top + row, column : column + length]
                    signed, to = sign[column : column + length], z[at : at + length]
                    if forward:
                        for i in range(length):
                            part[i] = to[i] * factor
                    else:
                        for i in range(length):
                            part[i] = to[i] * factor * signed[i]


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
