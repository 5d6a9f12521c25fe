"""Ranking: integer vector <-> index, in three orders (spec section 3).

    fischer   y_1 takes 0, +1, -1, +2, -2, …            Fischer 1986, the paper's order
    opus      y_1 takes k, …, 1, 0, -k, …, -1            RFC 6716, libopus
    blocked   the first b coordinates at a time          `pvq_ref.blocked`

In the two orders of this file a coordinate costs one look-up: with l coordinates left, y_j among
them, and R pulses for those after y_j, the rank is

    fischer   V - 1 - sum of (V(l,R) if y_j > 0 else 2 U(l,R))
    opus              sum of U(l,R) + (U(l,R+|y_j|+1) if y_j < 0 else 0).

Kernels come in pairs: for indices of one 64-bit word, and of any number of them.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvq_ref import blocked, words
from pvq_ref.counting import Tables, checked_integer, tables
from pvq_ref.errors import DTypeError, IndexRangeError, PyramidError, ShapeError
from pvq_ref.fischer import (
    fischer_from_word,
    fischer_from_words,
    fischer_to_word,
    fischer_to_words,
)
from pvq_ref.jit import kernel
from pvq_ref.parallel import map_ranges
from pvq_ref.words import Words

STEP = 1 << 14  # groups that one thread takes at a time
_ZERO = np.uint64(0)
_ONE = np.uint64(1)


@kernel
def _first_off_pyramid(y: NDArray[np.int32], k: int) -> int:
    """Return the first row whose l1 norm isn't k, or -1."""
    for row in range(y.shape[0]):
        total = np.int64(0)
        for value in y[row]:
            total += abs(np.int64(value))  # in 64 bits: -2^31 has no magnitude in 32
        if total != k:
            return row
    return -1


@kernel
def _first_above(index: Words, limit: Words) -> int:
    """Return the first row of index that isn't below limit, or -1."""
    for row in range(index.shape[0]):
        if not words.less(index[row], limit):
            return row
    return -1


@kernel
def _rank_fischer(y: NDArray[np.int32], low: Words, high: Words, last: Words, index: Words) -> None:
    """Rank rows; last (words,) is V(n,k) - 1."""
    for row in range(y.shape[0]):
        index[row] = last
        if index.shape[1] == 1:
            index[row, 0] -= fischer_to_word(y[row], low, high)
        else:
            fischer_to_words(y[row], low, high, index[row])


@kernel
def _unrank_fischer(
    index: Words, k: int, low: Words, high: Words, last: Words, y: NDArray[np.int32]
) -> None:
    """Unrank rows; last (words,) is V(n,k) - 1."""
    left = np.empty(index.shape[1], np.uint64)
    for row in range(index.shape[0]):
        if index.shape[1] == 1:
            fischer_from_word(last[0] - index[row, 0], k, low, high, y[row])
        else:
            left[:] = last
            words.subtract(left, index[row])
            fischer_from_words(left, k, low, high, y[row])


@kernel
def _rank_opus(y: NDArray[np.int32], half: Words, index: Words) -> None:
    """Rank rows; half (n+1, k+2, words) holds U."""
    n = y.shape[1]
    for row in range(y.shape[0]):
        total = index[row]
        total[:] = _ZERO
        after = 0
        for j in range(n - 1, -1, -1):
            words.add(total, half[n - j, after])
            value = int(y[row, j])
            after += abs(value)
            if value < 0:
                words.add(total, half[n - j, after + 1])


@kernel
def _unrank_opus(index: Words, k: int, half: Words, y: NDArray[np.int32]) -> None:
    """Unrank rows; half (n+1, k+2, words) holds U."""
    n = y.shape[1]
    left = np.empty(index.shape[1], np.uint64)
    for row in range(index.shape[0]):
        left[:] = index[row]
        before = k
        for j in range(n):
            column = half[n - j]
            negative = not words.less(left, column[before + 1])
            if negative:
                words.subtract(left, column[before + 1])
            after = before
            while words.less(left, column[after]):
                after -= 1
            words.subtract(left, column[after])
            y[row, j] = after - before if negative else before - after
            before = after


def _vectors(y: ArrayLike) -> NDArray[np.int32]:
    array = np.asarray(y)
    if array.ndim != 2 or array.shape[1] < 1:
        raise ShapeError(f"y must be of shape (groups, n) with n >= 1, got {array.shape}")
    if array.dtype not in (np.int32, np.int64):
        raise DTypeError(f"y must be int32 or int64, got {array.dtype}")
    if array.dtype == np.int64 and array.size and (array.max() >= 2**31 or array.min() < -(2**31)):
        raise PyramidError("y must hold values of 32 bits, got larger ones")
    return np.ascontiguousarray(array, np.int32)


def rank_unchecked(y: NDArray[np.int32], table: Tables, order: str) -> Words:
    """Rank vectors that are known to be in the pyramid, on the calling thread."""
    index = np.empty((y.shape[0], table.words), np.uint64)
    if order == "opus":
        _rank_opus(y, table.low, index)
    elif table.block:
        blocked.rank(y, table, index)
    else:
        _rank_fischer(y, table.low, table.high, _last(table), index)
    return index


def unrank_unchecked(index: Words, table: Tables, order: str) -> NDArray[np.int32]:
    """Unrank indices that are known to be below V(n,k), on the calling thread."""
    y = np.empty((index.shape[0], table.n), np.int32)
    if order == "opus":
        _unrank_opus(index, table.k, table.low, y)
    elif table.block:
        blocked.unrank(index, table, y)
    else:
        _unrank_fischer(index, table.k, table.low, table.high, _last(table), y)
    return y


def check_indices(index: Words, table: Tables) -> None:
    """Raise IndexRangeError for the first index that isn't below V(n,k)."""
    row = _first_above(index, table.limit)
    if row >= 0:
        raise IndexRangeError(
            f"index must be below V({table.n},{table.k}) = {words.to_integer(table.limit)}, "
            f"got {words.to_integer(index[row])} in row {row}"
        )


def _last(table: Tables) -> Words:
    """Return V(n,k) - 1 in words."""
    last: Words = table.limit[: table.words].copy()
    words.subtract(last, np.ones(1, np.uint64))
    return last


def _joined(parts: list[Any], empty: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else empty


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
    k = int(np.abs(y[0].astype(np.int64)).sum()) if len(y) else 0
    row = _first_off_pyramid(y, k)
    if row >= 0:
        got = int(np.abs(y[row].astype(np.int64)).sum())
        raise PyramidError(
            f"y must have the l1 norm {k} of row 0 in every row, got {got} in row {row}"
        )
    table = tables(y.shape[1], k, order, block if order == "blocked" else 0)

    def work(start: int, stop: int) -> Words:
        return rank_unchecked(y[start:stop], table, order)

    return _joined(
        list(map_ranges(work, len(y), STEP, threads)), np.zeros((0, table.words), np.uint64)
    )


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
    check_indices(array, table)

    def work(start: int, stop: int) -> NDArray[np.int32]:
        return unrank_unchecked(array[start:stop], table, order)

    return _joined(list(map_ranges(work, len(array), STEP, threads)), np.zeros((0, n), np.int32))
