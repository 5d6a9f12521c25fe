"""The paper's search: project, round, fix (spec section 4.2).

van der Ouderaa et al. 2024, section 2.5: project on the l1 sphere of radius k, round to the nearest
integers, and correct the sum, one coordinate at a time. Near the best point, but not always it:
`pvq_ref.searching` finds that.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvq_ref.jit import kernel
from pvq_ref.lanes import Floats
from pvq_ref.searching import in_ranges
from pvq_ref.walking import magnitudes


@kernel
def _fix(offset: Floats, missing: int, z: NDArray[np.int32]) -> int:
    """Change each coordinate at most once towards the sum k; return what is still missing."""
    for _ in range(z.size):
        if missing == 0:
            return 0
        place = -1
        for i in range(z.size):
            if missing > 0:
                better = place < 0 or offset[i] > offset[place]
                free = offset[i] > -np.inf
            else:
                better = place < 0 or offset[i] <= offset[place]
                free = z[i] > 0 and offset[i] < np.inf
            if free and better:
                place = i
        if place < 0:
            return missing
        step = 1 if missing > 0 else -1
        offset[place] = -np.inf if missing > 0 else np.inf
        z[place] += np.int32(step)
        missing -= step
    return missing


@kernel
def _project(x: Floats, k: int, y: NDArray[np.int32]) -> None:
    """Project, round and fix every row of x (spec section 4.2)."""
    n = x.shape[1]
    u, offset = np.empty(n), np.empty(n)
    for row in range(x.shape[0]):
        largest, _ = magnitudes(x[row], u)
        y[row] = 0
        if largest == 0.0 or k == 0:
            y[row, 0] = k
            continue
        total = 0.0
        for value in u:
            total += value
        missing = k
        for i in range(n):
            share = (k * u[i]) / total
            y[row, i] = np.int32(np.rint(share))
            missing -= int(y[row, i])
        while missing != 0:
            for i in range(n):
                offset[i] = (k * u[i]) / total - y[row, i]
            missing = _fix(offset, missing, y[row])
        for i in range(n):
            if x[row, i] < 0.0:
                y[row, i] = -y[row, i]


def project_unchecked(x: Floats, k: int) -> NDArray[np.int32]:
    """Project, round and fix finite float64 rows on the calling thread."""
    y = np.empty(x.shape, np.int32)
    _project(x, k, y)
    return y


def search_project(x: ArrayLike, k: int, *, threads: int | None = None) -> NDArray[np.int32]:
    """Find integer vectors with l1 norm k near the rows of x by the paper's rule.

    Project on the l1 sphere of radius k, round, and correct the sum. Parameters, results and errors
    as in `search`. Spec section 4.2 (van der Ouderaa et al. 2024, section 2.5).

    >>> search_project(np.array([[0.9, -0.5, 0.1]]), 3)
    array([[ 2, -1,  0]], dtype=int32)
    """
    return in_ranges(project_unchecked, x, k, threads)
