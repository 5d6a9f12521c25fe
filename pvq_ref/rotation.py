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
from pvq_ref.hadamard import Block, matrix, plan
from pvq_ref.jit import kernel

Floats = NDArray[np.float64]
MAX_SEED = (1 << 64) - 1
_MASK = (1 << 64) - 1


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
    """Transform each run of `length` elements, a power of two, by Sylvester's matrix."""
    step = 1
    while step < length:
        for first in range(0, z.size, 2 * step):
            for i in range(first, first + step):
                a, b = z[i], z[i + step]
                z[i] = a + b
                z[i + step] = a - b
        step *= 2


@kernel
def _mix(z: Floats, base: Floats, out: Floats) -> None:
    """Write base times z, z an (order of base, …) array in row-major order."""
    order = base.shape[0]
    run = z.size // order
    for i in range(order):
        row = out[i * run : (i + 1) * run]
        for t in range(run):
            row[t] = base[i, 0] * z[t]
        for j in range(1, order):
            c = base[i, j]
            other = z[j * run : (j + 1) * run]
            for t in range(run):
                row[t] += c * other[t]


@kernel
def _rotate(x: Floats, sign: Floats, count: int, order: int, base: Floats) -> None:
    """Rotate `count` consecutive blocks of every row in place."""
    factor = 1.0 / np.sqrt(np.float64(order))
    mixed = np.empty(order)
    for row in range(x.shape[0]):
        for block in range(count):
            z = x[row, block * order : (block + 1) * order]
            z *= sign[block * order : (block + 1) * order]
            _sylvester(z, order // base.shape[0])
            if base.shape[0] > 1:
                _mix(z, base, mixed)
                for i in range(order):  # a slice would do, and take seconds to compile
                    z[i] = mixed[i]
            z *= factor


@kernel
def _unrotate(x: Floats, sign: Floats, count: int, order: int, transposed: Floats) -> None:
    """Undo `_rotate`; transposed is the base's transpose."""
    factor = 1.0 / np.sqrt(np.float64(order))
    mixed = np.empty(order)
    for row in range(x.shape[0]):
        for block in range(count):
            z = x[row, block * order : (block + 1) * order]
            if transposed.shape[0] > 1:
                _mix(z, transposed, mixed)
                for i in range(order):  # a slice would do, and take seconds to compile
                    z[i] = mixed[i]
            _sylvester(z, order // transposed.shape[0])
            z *= factor
            z *= sign[block * order : (block + 1) * order]


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
            base = matrix(block.base)
            part, part_signs = x[:, first:stop], sign[first:stop]
            if inverse:
                transposed = np.ascontiguousarray(base.T)
                _unrotate(part, part_signs, block.count, block.order, transposed)
            else:
                _rotate(part, part_signs, block.count, block.order, base)
            first = stop
