"""Norms, levels and gains of a tensor whose rows are coded (spec sections 5.4, 8.2 and 8.3).

The largest norm, and gains of all rows, are known only once every row has been searched. So each
row leaves a line in a table: its norm, for each part the squared error that no level can mend, and
the gains of its groups, all in the unit of the weights. The table of a tensor comes in blocks of
rows and is passed through several times, so that it need never be in memory as a whole. Blocks have
a multiple of eight rows, all but the last.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import frexp

import numpy as np
from numpy.typing import NDArray

from pvq_ref.gain import (
    FITTED,
    FITTED_SAMPLE,
    Floats,
    design_levels,
    fitted_levels,
    nearest_levels,
)
from pvq_ref.groups import Coding, Part, parts
from pvq_ref.packing import Bytes, pack_into, packed_size
from pvq_ref.rates import Allotment

FIT_GAIN = 0.995  # levels are fitted to the data if they bring the squared error below this part
Tables = Callable[[], Iterator[Floats]]  # each call begins anew: blocks (rows, table_width)


def table_width(a: Allotment) -> int:
    """Return the columns of a table: norm, one for each part, one for each group."""
    return 1 + a.level_rows + a.grid.groups


def _exponent(largest: float) -> int:
    return frexp(largest)[1] - 15 if largest > 0.0 else 0


def _rounded(norms: Floats, exponent: int) -> NDArray[np.float16]:
    return np.ldexp(norms, -exponent).astype(np.float16)


def stored_norms(norms: Floats) -> tuple[NDArray[np.float16], int]:
    """Return binary16 row norms and their exponent (spec section 8.2)."""
    exponent = _exponent(float(norms.max(initial=0.0)))
    return _rounded(norms, exponent), exponent


def _relative(x: Floats, unit: Floats) -> Floats:
    """Return x (rows, …) in units of the rows' stored norms; 0 where that is 0."""
    usable = unit[:, None] > 0.0
    return np.divide(x, unit[:, None], out=np.zeros_like(x), where=usable)


@dataclass(frozen=True)
class _Gains:
    """Gains of one tensor, block by block, in units of the stored norms."""

    tables: Tables
    allotment: Allotment
    exponent: int

    def units(self, table: Floats) -> Floats:
        """Return the stored norms of a block, as a decoder has them."""
        return np.ldexp(_rounded(table[:, 0], self.exponent).astype(np.float64), self.exponent)

    def of(self, part: Part, table: Floats) -> Floats:
        """Return the gains (rows, per_row) of a part."""
        first = 1 + self.allotment.level_rows + part.first_gain
        return _relative(table[:, first : first + part.per_row], self.units(table))

    def seen(self) -> Iterator[Floats]:
        """Yield blocks without the rows of norm 0, which say nothing unless all are such."""
        live = sum(int(np.count_nonzero(self.units(table))) for table in self.tables())
        for table in self.tables():
            usable = self.units(table) > 0.0
            yield table if usable.all() or not live else table[usable]

    def sample(self, part: Part) -> Floats:
        """Return at most FITTED_SAMPLE gains of a part, evenly spaced."""
        step = -(-sum(len(table) for table in self.seen()) * part.per_row // FITTED_SAMPLE)
        taken, passed = [], 0
        for table in self.seen():
            gains = self.of(part, table).reshape(-1)
            taken.append(gains[-passed % step :: step].copy())  # a view would keep its block
            passed += gains.size
        return np.concatenate(taken)

    def errors(self, part: Part, choices: list[NDArray[np.float32]]) -> Floats:
        """Return the squared error with each choice of levels, that of directions included."""
        total = np.zeros(len(choices))
        for table in self.seen():
            unit = self.units(table)[:, None]
            lost = table[:, 1 + part.level_row, None]
            total += float(np.sum(_relative(_relative(lost, unit[:, 0]), unit[:, 0])))
            gains = self.of(part, table).reshape(-1)
            for number, levels in enumerate(choices):
                total[number] += np.sum((gains - levels[nearest_levels(gains, levels)]) ** 2)
        return total


def _choose_levels(
    gains: _Gains, part: Part, coding: Coding, design: str
) -> tuple[NDArray[np.float32], str]:
    """Return the levels of a part and the name of their design (spec section 5.4)."""
    a = coding.allotment
    if design == FITTED:
        return fitted_levels(gains.sample(part), a.gain_bits), design
    wanted = "lloyd-max" if design == "auto" else design
    law = design_levels(wanted, part.n, part.k, a.grid.cols, a.gain_bits)
    if design != "auto":
        return law, design
    fitted = fitted_levels(gains.sample(part), a.gain_bits)
    with_fitted, with_law = gains.errors(part, [fitted, law])
    return (fitted, FITTED) if with_fitted < FIT_GAIN * with_law else (law, wanted)


@dataclass(frozen=True)
class Finish:
    """What holds for all rows of a tensor, and with it the fields that aren't indices."""

    coding: Coding
    design: str
    norm_exponent: int
    levels: NDArray[np.float32]

    def row_norm(self, table: Floats) -> NDArray[np.float16]:
        """Return the stored norms of a block."""
        return _rounded(table[:, 0], self.norm_exponent)

    def gain(self, table: Floats) -> Bytes:
        """Return the packed gains of a block."""
        a = self.coding.allotment
        gains = _Gains(lambda: iter([table]), a, self.norm_exponent)
        packed = np.zeros(packed_size(len(table) * a.grid.groups * a.gain_bits), np.uint8)
        for part in parts(a):
            numbers = nearest_levels(gains.of(part, table).reshape(-1), self.levels[part.level_row])
            layout = (part.first_gain * a.gain_bits, part.per_row, a.grid.groups * a.gain_bits)
            pack_into(packed, numbers.astype(np.uint64)[:, None], a.gain_bits, layout)
        return packed


def finish(tables: Tables, coding: Coding, design: str) -> Finish:
    """Choose the exponent of norms, and the levels, of a tensor by its table."""
    largest = max((float(table[:, 0].max(initial=0.0)) for table in tables()), default=0.0)
    gains = _Gains(tables, coding.allotment, _exponent(largest))
    chosen = [_choose_levels(gains, part, coding, design) for part in parts(coding.allotment)]
    names = [name for _, name in chosen]
    name = FITTED if FITTED in names else names[0]
    return Finish(coding, name, gains.exponent, np.stack([levels for levels, _ in chosen]))
