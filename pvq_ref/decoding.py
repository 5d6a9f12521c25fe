"""Decoding: PVQTensor -> weights, bit-exact everywhere (spec section 8.5)."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pvq_ref.counting import bits
from pvq_ref.errors import IndexRangeError, PayloadError
from pvq_ref.gain import Floats
from pvq_ref.groups import RANGE, Part, even_rows, parts
from pvq_ref.jit import kernel
from pvq_ref.packing import unpack_from
from pvq_ref.parallel import map_ranges, thread_count
from pvq_ref.ranking import check_indices, unrank_unchecked
from pvq_ref.tables import FREE_COUNTS, check_tables
from pvq_ref.tensor import DTYPES, PVQTensor, check_fields, dtype_name, round_to
from pvq_ref.words import Words

MAX_COLS = 1 << 21  # columns of what files hold: a row takes up to 80 bytes for each of them


@kernel
def _fill(y: NDArray[np.int32], amplitudes: Floats, out: Floats, first: int, per_row: int) -> None:
    """Write amplitude · y/||y|| for every group into rows of out, from column `first` on."""
    n = y.shape[1]
    for row in range(out.shape[0]):
        for place in range(per_row):
            group, column = row * per_row + place, first + place * n
            point, weights = y[group], out[row, column : column + n]
            b = np.int64(0)
            for i in range(n):
                b += np.int64(point[i]) * np.int64(point[i])
            scale = amplitudes[group] / np.sqrt(np.float64(b))
            for i in range(n):
                weights[i] = scale * point[i]


@kernel
def _scale_levels(fields: Words, levels: Floats, unit: Floats, amplitudes: Floats) -> None:
    """Write unit · level of every group; fields are (rows · groups in a row, 1)."""
    per_row = fields.shape[0] // max(1, unit.size)
    for row in range(unit.size):
        for group in range(row * per_row, (row + 1) * per_row):
            amplitudes[group] = unit[row] * levels[fields[group, 0]]


def _indices(t: PVQTensor, part: Part, start: int, stop: int) -> Words:
    """Return the index fields of a part's groups in a range of rows."""
    row_bits = t.allotment.row_index_bits
    layout = (start * row_bits + part.first_bit, part.per_row, row_bits)
    groups = (stop - start) * part.per_row
    return unpack_from(t.index, bits(part.n, part.k), groups, layout)


def _amplitudes(t: PVQTensor, part: Part, start: int, stop: int) -> Floats:
    """Return norm · level of a part's groups in a range of rows."""
    row_bits = t.grid.groups * t.allotment.gain_bits
    layout = (start * row_bits + part.first_gain * t.allotment.gain_bits, part.per_row, row_bits)
    fields = unpack_from(t.gain, t.allotment.gain_bits, (stop - start) * part.per_row, layout)
    unit = np.ldexp(t.row_norm[start:stop].astype(np.float64), t.norm_exponent)
    amplitudes = np.empty(len(fields))
    _scale_levels(fields, t.levels[part.level_row].astype(np.float64), unit, amplitudes)
    return amplitudes


def _check_indices(t: PVQTensor, part: Part, start: int, stop: int, first: int = 0) -> Words:
    """Return the index fields of a part's groups; raise PayloadError if one isn't below V."""
    index = _indices(t, part, start, stop)
    try:
        check_indices(index, part.n, part.k)
    except IndexRangeError as error:
        raise PayloadError(f"rows {first + start} to {first + stop - 1}: {error}") from None
    return index


def decode_groups(
    t: PVQTensor, part: Part, start: int, stop: int, first: int = 0
) -> tuple[NDArray[np.int32], Floats]:
    """Return y and the amplitude of a part's groups in a range of rows, on the calling thread.

    Errors count rows from `first`, for a tensor that is a range of another one.
    """
    index = _check_indices(t, part, start, stop, first)
    table = part.tables(t.coding)
    return unrank_unchecked(index, table, t.coding.order), _amplitudes(t, part, start, stop)


def has_large_tables(t: PVQTensor) -> bool:
    """Return whether tables take so long to make that all indices should be checked before."""
    return any((part.n + 1) * (part.k + 2) > FREE_COUNTS for part in parts(t.allotment))


def check_before_tables(t: PVQTensor, rows: int, first: int = 0) -> None:
    """Check all indices whose tables take long to make, `rows` rows at a time."""
    for part in parts(t.allotment):
        if (part.n + 1) * (part.k + 2) > FREE_COUNTS:
            check_tables(part.n, part.k, t.coding.order, t.coding.block)
            for start in range(0, t.grid.rows, rows):
                _check_indices(t, part, start, min(start + rows, t.grid.rows), first)


def decode_rows(t: PVQTensor, start: int, stop: int, first: int = 0) -> Floats:
    """Return rows of W', before the inverse rotation, on the calling thread (spec section 8.5)."""
    out = np.empty((stop - start, t.grid.cols))
    for part in parts(t.allotment):
        y, amplitudes = decode_groups(t, part, start, stop, first)
        _fill(y, amplitudes, out, part.first_column, part.per_row)
    return out


def decoding_steps(rows: int, cols: int) -> tuple[int, int]:
    """Return the rows that one thread decodes at a time, and how many threads may do so at once.

    Short rows come in ranges that encoding has too; long ones take memory, so there are few.
    """
    rows = min(even_rows(rows, cols), max(1, RANGE // cols))
    return rows, max(1, 2 * MAX_COLS // (rows * cols))


def decoded_ranges(
    t: PVQTensor, dtype: DTypeLike, threads: int | None
) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """Yield (first row, rows of W) in order, each range rounded to dtype once."""
    check_fields(t)
    rows, most = decoding_steps(t.grid.rows, t.grid.cols)
    check_before_tables(t, rows)

    def work(start: int, stop: int) -> tuple[int, NDArray[np.floating]]:
        x = decode_rows(t, start, stop)
        if t.rotation is not None:
            t.rotation.inverse(x)
        return start, round_to(x, np.dtype(dtype))

    return map_ranges(work, t.grid.rows, rows, min(thread_count(threads), most))


def dequantize(
    t: PVQTensor, dtype: DTypeLike | None = None, *, threads: int | None = None
) -> NDArray[np.floating]:
    """Decompress a tensor: bit-exact on every machine and any number of threads.

    Parameters: t; dtype of the result, float64 by default; threads, all by default. Returns an
    array of t.shape. Raises DTypeError, PayloadError, MetadataError. Spec section 8.5.
    """
    dtype = DTYPES[dtype_name(np.float64 if dtype is None else dtype)]
    out = np.empty((t.grid.rows, t.grid.cols), dtype)
    for start, rows in decoded_ranges(t, dtype, threads):
        out[start : start + len(rows)] = rows
    return out.reshape(t.shape)
