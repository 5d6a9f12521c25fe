"""Products with compressed matrices on the CPU (spec section 10).

W x = W' (R x): x is rotated once, and rows of W' are decoded a range at a time, multiplied and
dropped.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvq_ref.decoding import decode_groups
from pvq_ref.errors import DTypeError, ShapeError
from pvq_ref.gain import Floats
from pvq_ref.groups import parts, rows_per_range
from pvq_ref.jit import kernel
from pvq_ref.parallel import map_ranges
from pvq_ref.tensor import PVQTensor, check_fields


@kernel
def _multiply_vector(
    y: NDArray[np.int32], amplitudes: Floats, x: Floats, out: Floats, first: int, per_row: int
) -> None:
    """Add each group's part of W' x to out (rows, 1); x is (cols, 1).

    Each place in a group has a sum of its own over the groups of a row, so that no addition waits
    for the one before. The loops are as plain as the compiler needs them to do several at once.
    """
    n, column = y.shape[1], x.reshape(-1)
    sums, scales = np.empty(n), np.empty(per_row)
    for row in range(out.shape[0]):
        start = row * per_row
        for i in range(per_row):
            group, b = y[start + i], np.int64(0)
            for j in range(n):
                b += np.int64(group[j]) * np.int64(group[j])
            scales[i] = np.float64(b)
        part = amplitudes[start : start + per_row]
        for i in range(per_row):
            scales[i] = part[i] / np.sqrt(scales[i])
        sums[:] = 0.0
        for i in range(per_row):
            group, scale = y[start + i], scales[i]
            values = column[first + i * n : first + (i + 1) * n]
            for j in range(n):
                sums[j] += scale * (np.float64(group[j]) * values[j])
        for j in range(n):
            out[row, 0] += sums[j]


@kernel
def _multiply(
    y: NDArray[np.int32], amplitudes: Floats, x: Floats, out: Floats, first: int, per_row: int
) -> None:
    """Add each group's part of W' x to out (rows, batch); x is (cols, batch)."""
    n, batch = y.shape[1], x.shape[1]
    total = np.empty(batch)
    for group in range(y.shape[0]):
        row, column = group // per_row, first + group % per_row * n
        total[:] = 0.0
        b = np.int64(0)
        for i in range(n):
            value = np.float64(y[group, i])
            b += np.int64(y[group, i]) * np.int64(y[group, i])
            for j in range(batch):
                total[j] += value * x[column + i, j]
        scale = amplitudes[group] / np.sqrt(np.float64(b))
        for j in range(batch):
            out[row, j] += scale * total[j]


def matmul(t: PVQTensor, x: ArrayLike, *, threads: int | None = None) -> Floats:
    """Multiply a compressed tensor by activations, as `dequantize(t) @ x` would, without that
    array.

    Parameters: t (…, rows, cols); x (cols,) or (cols, batch), floating; threads, all by default.
    Returns (…, rows) or (…, rows, batch) float64. Raises ShapeError, DTypeError, PayloadError.

    With u = 2^-53, an element differs from the exact <w, x>, w the exactly decoded row, by at most
    (cols + m sqrt(cols) + m + 8) u ||w|| ||x||, to first order in u, with m = log2(order) + base +
    2 for the largest block of the rotation: rotating x errs by at most m u ||x|| in each of the
    cols elements, which ||w||_1 <= sqrt(cols) ||w|| gathers, and the sums of products of cols terms
    by (cols + 8) u.
    """
    array = np.asarray(x)
    if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
        raise DTypeError(f"x must be floating, got {array.dtype}")
    if array.ndim not in (1, 2) or array.shape[0] != t.grid.cols:
        raise ShapeError(
            f"x must be of shape ({t.grid.cols},) or ({t.grid.cols}, batch), got {array.shape}"
        )
    check_fields(t)
    batch = array.reshape(t.grid.cols, -1)
    rotated = np.array(batch.T, np.float64, order="C")
    if t.rotation is not None:
        t.rotation.forward(rotated)
    rotated = np.ascontiguousarray(rotated.T)

    multiply = _multiply_vector if rotated.shape[1] == 1 else _multiply

    def work(start: int, stop: int) -> Floats:
        out = np.zeros((stop - start, rotated.shape[1]))
        for part in parts(t.allotment):
            y, amplitudes = decode_groups(t, part, start, stop)
            multiply(y, amplitudes, rotated, out, part.first_column, part.per_row)
        return out

    rows = 2 * rows_per_range(t.grid.cols)  # not much is held of a row, and calls take their time
    out = np.concatenate(list(map_ranges(work, t.grid.rows, rows, threads)))
    return out.reshape(t.shape[:-1] + array.shape[1:])
