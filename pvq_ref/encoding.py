"""Encoding: weights -> PVQTensor (spec section 8).

Composition only: rows are cut into ranges, each range goes through rotation, search, gain, ranking
and packing on one thread. Ranges don't depend on the number of threads, so neither do results.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import frexp, prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvq_ref.counting import ORDERS, bits, checked_integer
from pvq_ref.errors import DomainError, NonFiniteError, ShapeError
from pvq_ref.gain import (
    DESIGNS,
    FITTED,
    Floats,
    design_levels,
    fitted_levels,
    group_gains,
    nearest_levels,
)
from pvq_ref.groups import Coding, Part, parts, rows_per_range
from pvq_ref.jit import kernel
from pvq_ref.packing import Bytes, pack_into
from pvq_ref.parallel import map_ranges
from pvq_ref.ranking import rank_unchecked
from pvq_ref.rates import allot
from pvq_ref.rotation import Rotation
from pvq_ref.searching import search_unchecked
from pvq_ref.tables import check_tables
from pvq_ref.tensor import PVQTensor, dtype_name

FIT_GAIN = 0.995  # levels are fitted to the data if they bring the squared error below this part
RowReader = Callable[[int, int], NDArray[np.floating]]  # (start, stop) -> rows


@kernel
def _row_norms(x: Floats, norms: Floats) -> None:
    """Write the l2 norm of every row, summed in index order."""
    for row in range(x.shape[0]):
        total = 0.0
        for value in x[row]:
            total += value * value
        norms[row] = np.sqrt(total)


@dataclass(frozen=True)
class _Encoded:
    """A range of rows: packed indices, and per part gains and squared errors of direction."""

    index: Bytes
    norms: Floats
    gains: list[Floats]
    lost: list[Floats]


def _finite_rows(read: RowReader, start: int, stop: int) -> Floats:
    rows = read(start, stop)
    x = rows.astype(np.float64)
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise NonFiniteError(
            f"weights must be finite, got {x[row, column]} in row {start + row}, column {column}"
        )
    return x


def rotated_rows(read: RowReader, coding: Coding, start: int, stop: int) -> Floats:
    """Return rows of W' (rows, cols). Raises NonFiniteError."""
    x = _finite_rows(read, start, stop)
    if coding.rotation is not None:
        coding.rotation.forward(x)
    return x


def row_norms(x: Floats, first: int) -> Floats:
    """Return the l2 norms of rows x, the first of number `first`. Raises NonFiniteError."""
    norms = np.empty(len(x))
    _row_norms(x, norms)
    if not np.isfinite(norms).all():
        row = first + int(np.argmin(np.isfinite(norms)))
        raise NonFiniteError(f"weights must have finite sums of squares, got infinity in row {row}")
    return norms


def _encode_range(read: RowReader, coding: Coding, start: int, stop: int) -> _Encoded:
    x = rotated_rows(read, coding, start, stop)
    norms = row_norms(x, start)
    row_bits = coding.allotment.row_index_bits
    index = np.zeros(-(-(stop - start) * row_bits // 8), np.uint8)
    gains: list[Floats] = []
    lost: list[Floats] = []
    for part in parts(coding.allotment):
        w = part.columns(x)
        y = search_unchecked(w, part.k)
        fields = rank_unchecked(y, part.tables(coding), coding.order)
        pack_into(index, fields, bits(part.n, part.k), (part.first_bit, part.per_row, row_bits))
        for kept, values in zip((gains, lost), group_gains(w, y), strict=True):
            kept.append(values.reshape(-1, part.per_row))
    return _Encoded(index, norms, gains, lost)


def stored_norms(norms: Floats) -> tuple[NDArray[np.float16], int]:
    """Return binary16 row norms and their exponent (spec section 8.2)."""
    largest = float(norms.max(initial=0.0))
    exponent = frexp(largest)[1] - 15 if largest > 0.0 else 0
    return np.ldexp(norms, -exponent).astype(np.float16), exponent


def _relative(gains: Floats, unit: Floats) -> Floats:
    """Return gains (rows, …) in units of the rows' norms; 0 where that is 0."""
    usable = unit[:, None] > 0.0
    return np.divide(gains, unit[:, None], out=np.zeros_like(gains), where=usable)


def _choose_levels(
    gains: Floats, lost: Floats, part: Part, coding: Coding, design: str
) -> tuple[NDArray[np.float32], str]:
    """Return the levels of a part and the name of their design (spec section 5.4).

    gains and lost, the squared error that no level can mend, are in units of the rows' norms.
    """
    a = coding.allotment
    if design == FITTED:
        return fitted_levels(gains, a.gain_bits), design
    wanted = "lloyd-max" if design == "auto" else design
    law = design_levels(wanted, part.n, part.k, a.grid.cols, a.gain_bits)
    if design != "auto":
        return law, design
    fitted = fitted_levels(gains, a.gain_bits)
    direction = float(np.maximum(lost, 0.0).sum())

    def error(levels: NDArray[np.float32]) -> float:
        return direction + float(np.sum((gains - levels[nearest_levels(gains, levels)]) ** 2))

    return (fitted, FITTED) if error(fitted) < FIT_GAIN * error(law) else (law, wanted)


def encode(
    read: RowReader,
    shape: tuple[int, ...],
    dtype: str,
    coding: Coding,
    design: str,
    threads: int | None,
    rows_done: Callable[[int], None] = lambda rows: None,
) -> PVQTensor:
    """Compress the tensor whose rows `read(start, stop)` returns; see `quantize`."""
    a = coding.allotment

    def work(start: int, stop: int) -> _Encoded:
        return _encode_range(read, coding, start, stop)

    index = np.zeros(a.index_size, np.uint8)
    ranges, filled = [], 0
    for one in map_ranges(work, a.grid.rows, rows_per_range(a.grid.cols), threads):
        index[filled : filled + one.index.size] = one.index
        filled += one.index.size
        ranges.append(replace(one, index=one.index[:0]))
        rows_done(one.norms.size)
    row_norm, exponent = stored_norms(np.concatenate([one.norms for one in ranges]))
    unit = np.ldexp(row_norm.astype(np.float64), exponent)
    gain = np.zeros(a.gain_size, np.uint8)
    levels, names = [], []
    for number, part in enumerate(parts(a)):
        gains = _relative(np.concatenate([one.gains[number] for one in ranges]), unit)
        lost = np.concatenate([one.lost[number] for one in ranges])
        lost = _relative(_relative(lost, unit), unit)
        seen = unit > 0.0 if unit.any() else unit == 0.0  # rows without weights say nothing
        chosen, name = _choose_levels(
            gains[seen].reshape(-1), lost[seen].reshape(-1), part, coding, design
        )
        fields = nearest_levels(gains.reshape(-1), chosen).astype(np.uint64)[:, None]
        layout = (part.first_gain * a.gain_bits, part.per_row, a.grid.groups * a.gain_bits)
        pack_into(gain, fields, a.gain_bits, layout)
        levels.append(chosen)
        names.append(name)
    name = FITTED if FITTED in names else names[0]
    return PVQTensor(shape, dtype, coding, name, exponent, index, gain, row_norm, np.stack(levels))


def coding_for(
    shape: tuple[int, ...],
    bits: float = 3.25,
    group: int = 32,
    gain_bits: int | None = None,
    order: str = "blocked",
    block: int = 4,
    seed: int = 0,
    rotate: bool = True,
) -> Coding | None:
    """Return how a tensor of this shape is to be coded, or None where nothing fits the rate."""
    if len(shape) < 2:
        raise ShapeError(f"weights must have two dimensions or more, got shape {shape}")
    if order not in ORDERS:
        raise DomainError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
    block = checked_integer("block", block, 1) if order == "blocked" else 0
    allotment = allot(prod(shape[:-1]), shape[-1], bits, group, gain_bits)
    rotation = Rotation.of(max(1, shape[-1]), seed)
    if allotment is None:
        return None
    coding = Coding(allotment, order, block, rotation if rotate else None)
    for part in parts(allotment):
        check_tables(part.n, part.k, order, block)
    return coding


def no_room(shape: tuple[int, ...], bits: float) -> DomainError:
    """Return the error of a rate at which nothing fits."""
    return DomainError(
        f"bits must allow at least one pulse a group, got {bits} for shape {shape}; "
        "a tensor this small or narrow is better left as it is"
    )


def checked_design(design: str) -> str:
    """Return the name of a design of levels, or raise DomainError."""
    names = ("auto", *DESIGNS, FITTED)
    if design not in names:
        raise DomainError(f"design must be one of {', '.join(names)}, got {design!r}")
    return design


def quantize(
    W: ArrayLike,
    bits: float = 3.25,
    group: int = 32,
    gain_bits: int | None = None,
    order: str = "blocked",
    seed: int = 0,
    rotate: bool = True,
    threads: int | None = None,
    *,
    block: int = 4,
    design: str = "auto",
) -> PVQTensor:
    """Compress a weight tensor without calibration data.

    Parameters: W (…, rows, cols), float16, bfloat16, float32 or float64, finite; bits, the file
    rate that isn't exceeded, 1 to 8; group, coordinates of a group; gain_bits, 0 to 8, chosen if
    None; order and block as in `rank`; seed of the rotation, 0 to 2^64 - 1; rotate, whether to
    rotate at all; threads, all by default; design of the gain levels: `auto` is `lloyd-max` unless
    levels fitted to the data are better, or any name of spec section 5.4. Returns a PVQTensor, the
    same for any number of threads. Raises ShapeError, DTypeError, NonFiniteError, DomainError (also
    where nothing fits the rate). Spec section 8.

    >>> t = quantize(np.random.default_rng(0).standard_normal((64, 128)))
    >>> t.rates.file <= 3.25
    True
    """
    array = np.asarray(W)
    name = dtype_name(array.dtype)
    checked_design(design)
    coding = coding_for(array.shape, bits, group, gain_bits, order, block, seed, rotate)
    if coding is None:
        raise no_room(array.shape, bits)
    rows = array.reshape(-1, array.shape[-1])
    return encode(lambda start, stop: rows[start:stop], array.shape, name, coding, design, threads)
