"""Search: the pyramid point nearest in angle to a real vector (spec section 4).

With a = <X,z>, X = |x|, and b = ||z||², the cosine is a/sqrt(b)/||X||. a²/b is convex in (a,b), so
its maximum is at a vertex of the convex hull of all (a,b), and each vertex is a Euclidean nearest
point of the pyramid to s X for an interval of scales s; at the optimum s = b/a is inside its
interval. For a fixed s the nearest point is exact and easy: pulse m on coordinate i is worth s X_i
- (m - 1/2), and the k most valuable pulses are taken. As s moves, one pulse at a time changes
place.

So: find a point that is nearest to its own s = b/a, and prove that no vertex on either side is
better. Three files do that, each with what the one before leaves in doubt: `pvq_ref.batches` for
many groups at once, `pvq_ref.walking` for one group, and `pvq_ref.exact_search` in integers, where
binary64 can't tell two candidates apart.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvq_ref.batches import fits, search_batches
from pvq_ref.counting import checked_integer
from pvq_ref.errors import DTypeError, NonFiniteError, ShapeError
from pvq_ref.exact_search import exact_search
from pvq_ref.lanes import MOST_LANES, Floats
from pvq_ref.parallel import map_ranges
from pvq_ref.walking import magnitudes, norm_bounds, products, search_rows

STEP = 1 << 12  # groups that one thread takes at a time


def _decide(x: Floats, k: int, y: NDArray[np.int32]) -> None:
    """Replace y by the exact result for x (n,), starting from what is there."""
    u, z = np.empty(x.size), np.abs(y).astype(np.float64)
    magnitudes(x, u)
    a, b = products(u, z)
    s_low, s_high, _, _ = norm_bounds(u, k, a * a / b * (1.0 - 1e-9))
    exponent = math.frexp(float(np.max(np.abs(x))))[1] - 1
    best = exact_search([abs(v) for v in x.tolist()], [int(v) for v in z], s_low, s_high, exponent)
    y[:] = np.where(x < 0, -1, 1) * np.array(best)


def search_unchecked(x: Floats, k: int) -> NDArray[np.int32]:
    """Search for finite float64 rows on the calling thread."""
    x = np.ascontiguousarray(x)
    y = np.empty(x.shape, np.int32)
    sure = np.zeros(x.shape[0], np.bool_)
    if fits(x.shape[1], k):
        search_batches(x, k, y, sure, MOST_LANES)
    doubtful = np.flatnonzero(~sure)
    if doubtful.size:
        rows, best = x[doubtful], np.empty((doubtful.size, x.shape[1]), np.int32)
        sure = np.empty(doubtful.size, np.bool_)
        search_rows(rows, k, best, sure)
        for row in np.flatnonzero(~sure):
            _decide(rows[row], k, best[row])
        y[doubtful] = best
    return y


def _checked(x: ArrayLike, k: int) -> tuple[NDArray[np.floating], int]:
    array = np.asarray(x)
    if array.dtype not in (np.float32, np.float64):
        raise DTypeError(f"x must be float32 or float64, got {array.dtype}")
    if array.ndim != 2 or array.shape[1] < 1:
        raise ShapeError(f"x must be of shape (groups, n) with n >= 1, got {array.shape}")
    bad = ~np.isfinite(array)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise NonFiniteError(f"x must be finite, got {array[row, column]} at ({row}, {column})")
    return array, checked_integer("k", k, 0)


def in_ranges(
    work: Callable[[Floats, int], NDArray[np.int32]],
    x: ArrayLike,
    k: int,
    threads: int | None,
) -> NDArray[np.int32]:
    """Run a search that trusts its input over ranges of rows."""
    array, k = _checked(x, k)
    y = np.empty(array.shape, np.int32)

    def part(start: int, stop: int) -> None:
        y[start:stop] = work(np.array(array[start:stop], np.float64, order="C"), k)

    for _ in map_ranges(part, len(y), STEP, threads):
        pass
    return y


def search(x: ArrayLike, k: int, *, threads: int | None = None) -> NDArray[np.int32]:
    """Find the integer vectors with l1 norm k of greatest cosine with the rows of x.

    The true maximum for every input; ties go to the lower coordinate numbers, a zero row to the
    first coordinate. Parameters: x (groups, n) float32 or float64; k >= 0; threads, all by default.
    Returns (groups, n) int32. Raises ShapeError, DTypeError, DomainError, NonFiniteError. Spec
    section 4.1; the paper's own search is `search_project`.

    >>> search(np.array([[0.9, -0.5, 0.1]]), 3)
    array([[ 2, -1,  0]], dtype=int32)
    """
    return in_ranges(search_unchecked, x, k, threads)
