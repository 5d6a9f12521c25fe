"""Scalar quantizers to compare with: every weight on its own, with or without error feedback.

`quantize` covers four known methods, by its grid of values and by what it is given:

                          no Hessian                       a Hessian
  Uniform                 round to nearest                 GPTQ (Frantar et al. 2023)
  LloydMax, rotated       like TurboQuant (Zandieh et      the same with GPTQ's feedback
                          al. 2025), a norm for each row

Feedback in the notation of pvq_ref/curvature.py, H = A Aᵀ, E = W - What, columns in blocks Q of one
group each: what is coded is w_Q + E_< A_<Q A_QQ⁻¹, and inside of the block the error e of column c
moves a later column j by e U_cj / U_cc, with U = A_QQ⁻¹. That is GPTQ column by column, for H⁻¹ =
UᵀU with U = A⁻¹. The scales of a group are read off what is coded when its turn comes.

Indices of L levels are packed arithmetically, row by row: a row takes the bits of L^cols - 1, and
with L_c levels in column c those of the product of all L_c, less 1.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular
from threadpoolctl import threadpool_limits

from pvq_ref.curvature import DAMPING, Curvature, curvature
from pvq_ref.parallel import map_ranges
from pvq_ref.rotation import Rotation
from scalar import lloyd_max_levels
from uniform_grid import Floats, Uniform, kernel, whole_bytes

ROWS = 64  # that one thread codes at a time


@kernel
def _code(x: Floats, values: Floats, inverse: Floats, out: Floats) -> None:
    """Write the nearest of ascending values (rows, levels) for every number of x (rows, n).

    x is changed: each number's error goes to those behind it, by inverse (n, n), which is U.
    """
    for row in range(x.shape[0]):
        own = values[row]
        for c in range(x.shape[1]):
            low, high = 0, own.size - 1
            while low < high:
                middle = (low + high) // 2
                if x[row, c] >= (own[middle] + own[middle + 1]) / 2:
                    low = middle + 1
                else:
                    high = middle
            out[row, c] = own[low]
            error = (x[row, c] - own[low]) / inverse[c, c]
            for j in range(c + 1, x.shape[1]):
                x[row, j] -= error * inverse[c, j]


@dataclass(frozen=True)
class LloydMax:
    """The best `levels` >= 2 values for normal numbers, times the row's norm / sqrt(cols).

    The norm is in binary16; `group` is the number of columns between two products. `more` of these
    groups, from 0 to 1 and spread evenly, have one level more, for rates between two whole numbers
    of levels.
    """

    levels: int
    group: int = 64
    more: float = 0.0

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise ValueError(f"levels must be at least 2, got {self.levels}")
        if not 0.0 <= self.more <= 1.0:
            raise ValueError(f"more levels in 0 to 1 of all groups, got {self.more}")

    def counts(self, cols: int) -> list[int]:
        """Return the number of levels of each group."""
        ends = [math.floor(i * self.more) for i in range(-(-cols // self.group) + 1)]
        return [self.levels + end - start for start, end in pairwise(ends)]

    def row_values(self, x: Floats) -> list[Floats]:
        """Return the values (rows, levels) of rows x (rows, cols), for each group."""
        with np.errstate(over="ignore"):
            norms = np.linalg.norm(x, axis=1).astype(np.float16).astype(np.float64)
        if not np.isfinite(norms).all():
            raise ValueError("norms must be in the range of binary16, got larger ones")
        scales = norms[:, None] / np.sqrt(x.shape[1])
        return [scales * lloyd_max_levels(count) for count in self.counts(x.shape[1])]

    def patterns(self, cols: int) -> int:
        """Return how many rows of indices there are."""
        widths = [min(self.group, cols - start) for start in range(0, cols, self.group)]
        return math.prod(n**width for n, width in zip(self.counts(cols), widths, strict=True))

    def scale_bits(self, rows: int, cols: int) -> int:
        """Return the bits of all norms."""
        return 16 * rows


@dataclass(frozen=True)
class Setting:
    """A grid of values, whether rows are rotated before, and the damping of the Hessian."""

    grid: Uniform | LloydMax
    rotate: bool = False
    seed: int = 0
    damping: float = DAMPING


@dataclass(frozen=True)
class _Block:
    """Columns that are coded together, A_<Q A_QQ⁻¹ (None without feedback), and A_QQ⁻¹."""

    columns: slice
    carry: Floats | None
    inverse: Floats


def _blocks(curved: Curvature | None, cols: int, width: int) -> list[_Block]:
    """Return the blocks from left to right."""
    found = []
    for start in range(0, cols, width):
        q = slice(start, min(start + width, cols))
        eye = np.eye(q.stop - start)
        if curved is None:
            found.append(_Block(q, None, eye))
            continue
        own = curved.factor[q, q]
        carry = solve_triangular(own, curved.factor[:start, q].T, trans="T").T
        found.append(_Block(q, carry, np.ascontiguousarray(solve_triangular(own, eye))))
    return found


def _coded_rows(w: Floats, grid: Uniform | LloydMax, blocks: list[_Block]) -> Floats:
    """Return What for rows w (rows, cols)."""
    decoded, error = np.empty_like(w), np.empty_like(w)
    of_rows = grid.row_values(w) if isinstance(grid, LloydMax) else None
    for number, block in enumerate(blocks):
        q = block.columns
        x = w[:, q].copy() if block.carry is None else w[:, q] + error[:, : q.start] @ block.carry
        values = grid.values(x) if of_rows is None else of_rows[number]
        _code(x, values, block.inverse, decoded[:, q])
        error[:, q] = w[:, q] - decoded[:, q]
    return decoded


def quantize(
    weights: ArrayLike, hessian: ArrayLike | None, setting: Setting, threads: int | None = None
) -> tuple[NDArray[np.float64], int]:
    """Return the weights as decoded (rows, cols) float64, and the bits that are stored in all.

    Parameters: weights (rows, cols), finite; hessian (cols, cols), the second moment of the inputs,
    for error feedback, or None. Neither is changed. Results don't depend on the number of threads.
    """
    w = np.array(weights, np.float64)
    if not np.isfinite(w).all():
        raise ValueError("weights must be finite")
    rows, cols = w.shape
    rotation = Rotation.of(cols, setting.seed) if setting.rotate else None
    with threadpool_limits(1):
        curved = None if hessian is None else curvature(hessian, cols, rotation, setting.damping)
        blocks = _blocks(curved, cols, setting.grid.group)

        def work(start: int, stop: int) -> None:
            mine = w[start:stop]
            if rotation is not None:
                rotation.forward(mine)
            mine[:] = _coded_rows(mine, setting.grid, blocks)
            if rotation is not None:
                rotation.inverse(mine)

        for _ in map_ranges(work, rows, ROWS, threads):
            pass
    return w, stored_bits(rows, cols, setting.grid)


def stored_bits(rows: int, cols: int, grid: Uniform | LloydMax) -> int:
    """Return the bits of indices, in whole bytes, and scales; levels follow from their number."""
    row = (grid.patterns(cols) - 1).bit_length()
    return whole_bytes(rows * row) + grid.scale_bits(rows, cols)
