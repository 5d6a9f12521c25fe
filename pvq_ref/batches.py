"""Batches of lanes: the exact search of many groups as a whole (spec section 4.1).

The stages are told in `pvq_ref.proving`.
"""

import math

import numpy as np
from numpy.typing import NDArray

from pvq_ref.jit import kernel
from pvq_ref.lanes import (
    AGAIN,
    LANES_SIZE,
    MISSING,
    MOST_LANES,
    MOST_WALKS,
    RATIO,
    ROW,
    ROW_SIZE,
    SQUARE,
    START,
    SURE,
    TOTAL,
    VERDICT,
    A,
    B,
    Floats,
    U,
    Z,
    load,
    settle,
    start,
)
from pvq_ref.proving import confine, learn
from pvq_ref.striding import VECTOR, WALKS_SIZE, join, look, stride, write

FEW = 8  # groups that are left over at the end, and take no longer one by one
FEW_WALKS = MOST_WALKS - 2 * MOST_LANES  # as many wait for the next batch to join them


def fits(n: int, k: int) -> bool:
    """Return whether groups of n coordinates and k pulses may be sure.

    The places below worths have room for 512 coordinates; with more pulses 1/b² is too small to be
    seen (`pvq_ref.proving`).
    """
    return n <= 512 and 0 < k**3 <= n << 21


@kernel
def _finish(
    x: Floats, points: Floats, lanes: Floats, count: int, y: NDArray[np.int32], quality: Floats,
    sure: NDArray[np.bool_],
) -> int:  # fmt: skip
    """Write what is sure unless a walk finds better; move what needs another batch to the front,
    and return how many lanes that are.
    """
    kept = 0
    for lane in range(count):
        row = int(lanes[ROW + lane])
        sure[row], quality[row] = lanes[VERDICT + lane] == SURE, lanes[RATIO + lane]
        if sure[row]:
            write(x, points[Z], lane, row, y)
        elif lanes[VERDICT + lane] == AGAIN:
            for i in range(x.shape[1]):
                points[U, i, kept] = points[U, i, lane]
                points[Z, i, kept] = points[Z, i, lane]
            for field in (ROW, TOTAL, SQUARE, MISSING, START, A, B):
                lanes[field + kept] = lanes[field + lane]
            lanes[VERDICT + kept] = SURE
            kept += 1
    return kept


@kernel
def search_batches(
    x: Floats, k: int, y: NDArray[np.int32], sure: NDArray[np.bool_], size: int
) -> None:
    """Search for every row of x, `size` at a time, MOST_LANES at most; say which rows of y are
    certainly best.

    n and k must fit. The last few rows that need another batch are left to `pvq_ref.walking`.
    """
    rows, n = x.shape
    pulses, size, height = float(k), min(size, MOST_LANES, rows), (n + 3) // 4 * 4
    # Another cache line per row: lanes whose distance is a power of two would evict each other.
    points = np.empty((2, height, size + 8))
    walkers = np.zeros((2, height, min(2 * size + FEW_WALKS, 2 * rows) + VECTOR))
    lanes, looks, keys = np.empty(LANES_SIZE), np.empty(WALKS_SIZE), np.empty((2, 2, ROW_SIZE))
    walks = np.ones(WALKS_SIZE)  # so that nothing odd is calculated for what is taken along
    quality = np.empty(rows)
    columns, places = np.empty(ROW_SIZE, np.uint32), np.empty(ROW_SIZE, np.uint32)
    hint = np.empty(2)  # a fit for normal vectors, to begin with
    hint[0] = min(4096.0 / k, 1.0 + 0.17 * (n / k) ** 1.3)
    hint[1] = min(0.4, 0.1 * math.sqrt(n / k))
    row = kept = going = 0 * rows  # literals would make Numba compile the kernels below twice
    while row < rows or kept > FEW:
        count = min(size, kept + rows - row)
        load(x, row, points, lanes, kept, count)
        start(points, n, pulses, lanes, kept, count, hint)
        row += count - kept
        settle(points, lanes, count, keys)
        confine(n, pulses, lanes, count)
        learn(pulses, lanes, count, hint)
        look(points, pulses, lanes, count, looks, keys)
        going = join(points, count, looks, walkers, walks, going, columns, places)
        kept = _finish(x, points, lanes, count, y, quality, sure)
        is_last = row == rows and kept <= FEW
        while going > (0 if is_last else FEW_WALKS):
            going = stride(
                x, pulses, walkers, walks, going, keys, columns, places, y, quality, sure
            )
