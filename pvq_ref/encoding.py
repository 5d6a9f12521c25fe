"""Encoding: weights -> PVQTensor (spec section 8).

Composition only: rows are cut into ranges, each range goes through rotation, search, ranking and
packing on one thread. A row's result doesn't depend on the rows around it, so neither ranges nor
the number of threads matter. What needs all rows comes last (`pvq_ref.finishing`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvq_ref.counting import ORDERS, bits, checked_integer
from pvq_ref.errors import DomainError, NonFiniteError, ShapeError
from pvq_ref.finishing import finish, table_width
from pvq_ref.gain import DESIGNS, FITTED, Floats, group_gains
from pvq_ref.groups import Coding, even_rows, parts, row_blocks
from pvq_ref.jit import kernel
from pvq_ref.packing import Bytes, pack_into, packed_size
from pvq_ref.parallel import map_over
from pvq_ref.ranking import rank_unchecked
from pvq_ref.rates import allot
from pvq_ref.rotation import Rotation
from pvq_ref.searching import search_unchecked
from pvq_ref.tables import check_tables
from pvq_ref.tensor import PVQTensor, dtype_name

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
class Coded:
    """Coded rows: their packed indices, and their lines of the table of `finishing`."""

    index: Bytes
    table: Floats


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


@dataclass(frozen=True)
class Block:
    """Rows start … stop of a tensor to be coded, `step` rows at a time on one thread.

    step and start are multiples of eight, so that the fields of ranges begin at whole bytes.
    """

    read: RowReader
    coding: Coding
    start: int
    stop: int
    step: int

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Rows that one thread codes at a time."""
        firsts = range(self.start, self.stop, self.step)
        return [(at, min(at + self.step, self.stop)) for at in firsts]


def _code_range(read: RowReader, coding: Coding, start: int, stop: int) -> Coded:
    x = rotated_rows(read, coding, start, stop)
    a = coding.allotment
    table = np.empty((stop - start, table_width(a)))
    table[:, 0] = row_norms(x, start)
    index = np.zeros(packed_size((stop - start) * a.row_index_bits), np.uint8)
    for part in parts(a):
        w = part.columns(x)
        y = search_unchecked(w, part.k)
        fields = rank_unchecked(y, part.tables(coding), coding.order)
        layout = (part.first_bit, part.per_row, a.row_index_bits)
        pack_into(index, fields, bits(part.n, part.k), layout)
        gains, lost = group_gains(w, y)
        lost = np.maximum(lost, 0.0)
        table[:, 1 + part.level_row] = np.sum(lost.reshape(-1, part.per_row), axis=1)
        first = 1 + a.level_rows + part.first_gain
        table[:, first : first + part.per_row] = gains.reshape(-1, part.per_row)
    return Coded(index, table)


def _joined(pieces: list[Coded]) -> Coded:
    return Coded(
        np.concatenate([one.index for one in pieces]), np.concatenate([one.table for one in pieces])
    )


def coded_blocks(blocks: Sequence[Block], threads: int | None) -> Iterator[Coded]:
    """Yield blocks, of one tensor or many, coded. Threads don't wait for a block's last range."""
    ranges = ((block, *one) for block in blocks for one in block.ranges)
    done = map_over(lambda one: _code_range(one[0].read, one[0].coding, *one[1:]), ranges, threads)
    for block in blocks:
        yield _joined(list(islice(done, len(block.ranges))))


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
    rows, cols = coding.allotment.grid.rows, coding.allotment.grid.cols
    step, done = even_rows(rows, cols), []
    blocks = [Block(read, coding, *one, step) for one in row_blocks(rows, cols)]
    for one in coded_blocks(blocks, threads):
        done.append(one)
        rows_done(len(one.table))
    end = finish(lambda: (one.table for one in done), coding, design)
    return PVQTensor(
        shape,
        dtype,
        coding,
        end.design,
        end.norm_exponent,
        np.concatenate([one.index for one in done]),
        np.concatenate([end.gain(one.table) for one in done]),
        np.concatenate([end.row_norm(one.table) for one in done]),
        end.levels,
    )


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
