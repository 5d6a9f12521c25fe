"""How the rows of a tensor are cut into groups and ranges (spec sections 8.1 and 8.3).

The groups of a row are its whole groups and, where n doesn't divide the columns, a tail. Each kind
is a part: it has its own pyramid and its own place in the fields.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pvq_ref.counting import bits
from pvq_ref.rates import Allotment
from pvq_ref.rotation import Rotation
from pvq_ref.tables import Tables, tables

RANGE = 1 << 18  # weights that one thread takes at a time
BLOCK = 1 << 21  # weights that are kept, and coded again after an interruption, as one


@dataclass(frozen=True)
class Coding:
    """How a tensor is coded; all that an encoder needs to know before it sees the weights."""

    allotment: Allotment
    order: str
    block: int  # 0 for the orders that have none
    rotation: Rotation | None


@dataclass(frozen=True)
class Part:
    """The whole groups of all rows, or their tails."""

    n: int
    k: int
    per_row: int
    first_column: int
    first_bit: int  # of the first index in a row
    first_gain: int  # number of the first gain in a row
    level_row: int

    def tables(self, coding: Coding) -> Tables:
        """Return the tables of the part's pyramid."""
        return tables(self.n, self.k, coding.order, coding.block)

    def columns(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the part's groups (rows · per_row, n) of rows x."""
        stop = self.first_column + self.per_row * self.n
        return np.ascontiguousarray(x[:, self.first_column : stop]).reshape(-1, self.n)


def parts(a: Allotment) -> Iterator[Part]:
    """Yield the whole groups, and the tails if there are any."""
    grid = a.grid
    yield Part(grid.n, a.k, grid.whole, 0, 0, 0, 0)
    if grid.tail:
        whole = grid.whole
        bit = whole * bits(grid.n, a.k)
        yield Part(grid.tail, a.tail_k, 1, whole * grid.n, bit, whole, 1)


def rows_per_range(cols: int) -> int:
    """Return a multiple of eight rows, so that the fields of ranges begin at whole bytes."""
    return max(8, RANGE // cols // 8 * 8)


def even_rows(rows: int, cols: int) -> int:
    """Return the rows of a range, a multiple of eight, at most `rows_per_range`.

    A tensor alone is cut into a multiple of four ranges, nearly equal, so that a few threads end
    together.
    """
    most = rows_per_range(cols)
    pieces = 4 * -(-rows // (4 * most))
    return min(most, -(-rows // pieces // 8) * 8)


def row_blocks(rows: int, cols: int) -> list[tuple[int, int]]:
    """Return (start, stop) of the blocks of a tensor: whole ranges, BLOCK weights or one range.

    They depend on nothing but the shape.
    """
    step = rows_per_range(cols)
    step *= max(1, BLOCK // (step * cols))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]
