"""The order `opus` and the exact search beside libopus itself (spec sections 3.2 and 4.1).

tests/peers/libopus.py says what is needed for that; without it these tests are skipped.
"""

import numpy as np
import pytest

from pvq_ref import count, rank, search, unrank
from pvq_ref.oracle.counting import half_count
from tests.peers.libopus import MissingError, build

pytestmark = pytest.mark.peer

# The grid of libopus's own celt/tests/test_unit_cwrs32.c: the greatest K for each N. Without custom
# modes its tables, and that test, have the 22 N of STANDARD only: 329 pairs (N,K). With them, as in
# Debian's package, there are all 44 N and 549 pairs.
MOST_PULSES = {
    2: 128, 3: 128, 4: 128, 5: 128, 6: 88, 7: 52, 8: 36, 9: 26, 10: 22, 11: 18, 12: 16, 13: 15,
    14: 13, 15: 12, 16: 12, 18: 11, 20: 10, 22: 9, 24: 9, 26: 8, 28: 8, 30: 7, 32: 7, 36: 7, 40: 7,
    44: 6, 48: 6, 52: 6, 56: 6, 60: 6, 64: 5, 72: 5, 80: 5, 88: 5, 96: 5, 104: 5, 112: 4, 120: 4,
    128: 4, 144: 4, 160: 4, 176: 4, 192: 4, 208: 4,
}  # fmt: skip
STANDARD = {2, 3, 4, 6, 8, 9, 11, 12, 16, 18, 22, 24, 32, 36, 44, 48, 64, 72, 88, 96, 144, 176}

# Searches: every N with every K.
SEARCH_N = (2, 3, 4, 6, 8, 12, 16, 18, 24, 32, 48, 64, 96, 144, 176)
SEARCH_K = (1, 2, 3, 5, 7, 11, 16, 24, 40, 64, 100, 160, 256)
KINDS = ("normal", "heavy tails", "sparse", "small integers")
TRIALS = 24


def pulses(n):
    """Return the K that go with N: those of libopus's get_pulses(1 … 40) up to the greatest."""
    grid = (i if i < 8 else (8 + (i & 7)) << ((i >> 3) - 1) for i in range(1, 41))
    return [k for k in grid if k <= MOST_PULSES[n]]


@pytest.fixture(scope="module")
def libopus(tmp_path_factory):
    try:
        return build(tmp_path_factory.mktemp("libopus"))
    except MissingError as missing:
        pytest.skip(str(missing))


def check_indices(libopus, n, k, indices):
    """Compare both directions and the counts; indices are Python integers."""
    index = np.array(indices, np.uint32)
    ref, total = libopus.decode(index, n, k)
    assert np.all(total == count(n, k))
    assert np.array_equal(unrank(index.astype(np.uint64)[:, None], n, k, "opus"), ref)
    ref_index, total = libopus.encode(ref, k)
    assert np.all(total == count(n, k))
    assert np.array_equal(ref_index, index)
    assert np.array_equal(rank(ref, "opus"), ref_index[:, None])


def check_grid(libopus, n, samples):
    if n not in STANDARD and not libopus.has_custom_modes:
        pytest.skip(f"this libopus has no table for N = {n}: it was built without custom modes")
    for k in pulses(n):
        total, u, u1 = count(n, k), half_count(n, k), half_count(n, k + 1)
        edges = [0, 1, total // 2 - 1, total // 2, total - 2, total - 1]
        edges += [u - 1, u, u + 1, u1 - 1, u1, u1 + 1]
        strided = range(0, total, max(1, total // samples))
        check_indices(libopus, n, k, [*(i for i in edges if 0 <= i < total), *strided])


def test_the_grid_has_the_pairs_of_libopus():
    assert sum(len(pulses(n)) for n in MOST_PULSES) == 549
    assert sum(len(pulses(n)) for n in STANDARD) == 329
    assert all(count(n, most) < 1 << 32 for n, most in MOST_PULSES.items())


@pytest.mark.parametrize("n", MOST_PULSES)
def test_indices(libopus, n):
    check_grid(libopus, n, samples=300)


@pytest.mark.slow
@pytest.mark.parametrize("n", MOST_PULSES)
def test_indices_at_every_stride_of_libopus(libopus, n):
    check_grid(libopus, n, samples=20_000)


def inputs(kind, n):
    """Return rows of one kind (TRIALS, n) float32, each of l1 norm 32.

    op_pvq_search_c takes l1 norms of 64 and more for infinite.
    """
    rng = np.random.default_rng([n, KINDS.index(kind)])
    x = rng.standard_normal((TRIALS, n))
    if kind == "heavy tails":
        x = x**3
    elif kind == "sparse":
        x *= rng.random(x.shape) < 0.3
    elif kind == "small integers":
        x = np.rint(2 * x)
    x[~x.any(axis=1), -1] = 1.0
    return (32.0 * x / np.abs(x).sum(axis=1, keepdims=True)).astype(np.float32)


def cosines(x, y):
    x, y = x.astype(np.float64), y.astype(np.float64)
    return np.sum(x * y, axis=1) / np.sqrt(np.sum(x * x, axis=1) * np.sum(y * y, axis=1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", SEARCH_N)
def test_search_is_never_below_that_of_libopus(libopus, n, kind):
    x = inputs(kind, n)
    for k in SEARCH_K:
        theirs, ours = libopus.search(x, k), search(x, k)
        for y in (theirs, ours):
            assert np.all(np.abs(y).sum(axis=1) == k)
            assert np.all(x * y >= 0)
        assert np.all(cosines(x, ours) >= cosines(x, theirs) - 1e-12)


def test_search_of_libopus_misses_some_optima(libopus):
    """Without this the comparison above could be one of equal things."""
    x = np.concatenate([inputs("normal", 16), inputs("heavy tails", 16)])
    better = [
        np.mean(cosines(x, search(x, k)) > cosines(x, libopus.search(x, k)) + 1e-9)
        for k in SEARCH_K
    ]
    assert 0.02 < np.mean(better) < 0.4


@pytest.mark.parametrize("k", SEARCH_K)
def test_zero_rows_agree(libopus, k):
    for n in SEARCH_N:
        x = np.zeros((1, n), np.float32)
        x[0, 1] = -0.0
        assert np.array_equal(search(x, k), libopus.search(x, k))
