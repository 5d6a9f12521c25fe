"""Ranking: integer vector <-> index, in three orders (spec section 3).

    fischer   y_1 takes 0, +1, -1, +2, -2, …            `pvq_ref.fischer`; the paper's order
    opus      y_1 takes k, …, 1, 0, -k, …, -1            `pvq_ref.opus`; RFC 6716, libopus
    blocked   the first b coordinates at a time          `pvq_ref.blocked`

The files of the orders have the kernels, here are checks, threads, and memory for results.
"""

from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvq_ref import blocked, fischer, opus, words
from pvq_ref.counting import checked_integer, count
from pvq_ref.errors import DTypeError, IndexRangeError, PyramidError, ShapeError
from pvq_ref.jit import kernel
from pvq_ref.parallel import map_ranges
from pvq_ref.tables import Tables, tables
from pvq_ref.words import Words

SPAN = 1 << 18  # coordinates that one thread takes at a time
LARGE = 1 << 16  # counts above which rows are checked before the tables are made


@kernel
def _first_above(index: Words, last: Words) -> int:
    """Return the first row of index that is above last, or -1."""
    for row in range(index.shape[0]):
        for w in range(last.size - 1, -1, -1):
            if index[row, w] > last[w]:
                return row
            if index[row, w] < last[w]:
                break
    return -1


def _vectors(y: ArrayLike) -> NDArray[np.int32]:
    array = np.asarray(y)
    if array.ndim != 2 or array.shape[1] < 1:
        raise ShapeError(f"y must be of shape (groups, n) with n >= 1, got {array.shape}")
    if array.dtype not in (np.int32, np.int64):
        raise DTypeError(f"y must be int32 or int64, got {array.dtype}")
    if array.dtype == np.int64 and array.size and (array.max() >= 2**31 or array.min() < -(2**31)):
        raise PyramidError("y must hold values of 32 bits, got larger ones")
    return np.ascontiguousarray(array, np.int32)


def _rank_into(y: NDArray[np.int32], table: Tables, order: str, index: Words) -> int:
    """Rank vectors on the calling thread; return the first one off the pyramid, or -1."""
    if order == "opus":
        return opus.rank(y, table, index)
    return blocked.rank(y, table, index) if table.block else fischer.rank(y, table, index)


def _unrank_into(index: Words, table: Tables, order: str, y: NDArray[np.int32]) -> None:
    """Unrank indices that are below V(n,k) on the calling thread."""
    if order == "opus":
        opus.unrank(index, table, y)
    else:
        (blocked if table.block else fischer).unrank(index, table, y)


def rank_unchecked(y: NDArray[np.int32], table: Tables, order: str) -> Words:
    """Rank vectors that are known to be in the pyramid, on the calling thread."""
    index = np.empty((y.shape[0], table.words), np.uint64)
    _rank_into(y, table, order, index)
    return index


def unrank_unchecked(index: Words, table: Tables, order: str) -> NDArray[np.int32]:
    """Unrank indices that are known to be below V(n,k), on the calling thread."""
    y = np.empty((index.shape[0], table.n), np.int32)
    _unrank_into(index, table, order, y)
    return y


def check_indices(index: Words, n: int, k: int) -> None:
    """Raise IndexRangeError for the first index that isn't below V(n,k)."""
    limit = count(n, k)
    row = _first_above(index, words.from_integers([limit - 1], index.shape[1])[0])
    if row >= 0:
        got = words.to_integer(index[row])
        raise IndexRangeError(f"index must be below V({n},{k}) = {limit}, got {got} in row {row}")


def _norms(y: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return l1 norms; in 64 bits, since -2^31 has no magnitude in 32."""
    return np.asarray(np.abs(y.astype(np.int64)).sum(axis=1))


def _refuse_row(y: NDArray[np.int32], k: int, row: int) -> NoReturn:
    raise PyramidError(
        f"y must have the l1 norm {k} of row 0 in every row, got {_norms(y[row : row + 1])[0]} "
        f"in row {row}"
    )


def _checked_pulses(y: NDArray[np.int32]) -> int:
    """Return the l1 norm of row 0; if tables for it are large, check first that all rows have it.

    Kernels check it too, but need the tables.
    """
    k = int(_norms(y[:1]).sum())
    if (y.shape[1] + 1) * (k + 2) > LARGE:
        off = np.flatnonzero(_norms(y) != k)
        if off.size:
            _refuse_row(y, k, int(off[0]))
    return k


def _step(n: int) -> int:
    """Return the groups that one thread takes at a time."""
    return max(1, SPAN // n)


def rank(
    y: ArrayLike, order: str = "fischer", block: int = 4, *, threads: int | None = None
) -> Words:
    """Return the index of each integer vector in its pyramid.

    Parameters: y (groups, n) int32 or int64, the same l1 norm k in every row; order `fischer`,
    `opus` or `blocked`; block, the block size of `blocked`; threads, all by default. Returns
    (groups, words) uint64, least significant word first. Raises ShapeError, DTypeError,
    DomainError, PyramidError, CapacityError. Spec section 3 (Fischer 1986; RFC 6716 section
    4.3.4.2).

    >>> rank(np.array([[1, -1, 0, 2, 0, 0, 0, 0]], np.int32))
    array([[2078]], dtype=uint64)
    """
    y = _vectors(y)
    block = checked_integer("block", block, 1)
    k = _checked_pulses(y)
    table = tables(y.shape[1], k, order, block if order == "blocked" else 0)
    index = np.empty((len(y), table.words), np.uint64)

    def work(start: int, stop: int) -> int:
        row = _rank_into(y[start:stop], table, order, index[start:stop])
        return row if row < 0 else start + row

    for row in map_ranges(work, len(y), _step(y.shape[1]), threads):
        if row >= 0:
            _refuse_row(y, k, row)
    return index


def unrank(
    index: ArrayLike,
    n: int,
    k: int,
    order: str = "fischer",
    block: int = 4,
    *,
    threads: int | None = None,
) -> NDArray[np.int32]:
    """Return the integer vector of each index: the inverse of `rank`.

    Parameters: index (groups, words) uint64, least significant word first, words = max(1,
    ceil(B/64)); n >= 1 and k >= 0, the pyramid; order, block, threads as in `rank`. Returns
    (groups, n) int32. Raises ShapeError, DTypeError, DomainError, IndexRangeError, CapacityError.
    Spec section 3.

    >>> unrank(np.array([[514]], np.uint64), 8, 4, "opus")
    array([[ 1, -1,  0,  2,  0,  0,  0,  0]], dtype=int32)
    """
    n = checked_integer("n", n, 1)
    k = checked_integer("k", k, 0)
    block = checked_integer("block", block, 1)
    table = tables(n, k, order, block if order == "blocked" else 0)
    array = np.asarray(index)
    if array.dtype != np.uint64:
        raise DTypeError(f"index must be uint64, got {array.dtype}")
    if array.ndim != 2 or array.shape[1] != table.words:
        raise ShapeError(f"index must be of shape (groups, {table.words}), got {array.shape}")
    array = np.ascontiguousarray(array)
    check_indices(array, n, k)

    y = np.empty((len(array), n), np.int32)

    def work(start: int, stop: int) -> None:
        _unrank_into(array[start:stop], table, order, y[start:stop])

    for _ in map_ranges(work, len(array), _step(n), threads):
        pass
    return y
