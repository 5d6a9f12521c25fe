"""Many groups at once against one group after another (spec section 4.1)."""

import numpy as np
import pytest

from pvq_ref import lanes, oracle, search, striding, walking
from pvq_ref.batches import fits, search_batches

PAIRS = [(1, 3), (2, 9), (5, 4), (8, 36), (16, 8), (31, 3), (32, 56)]
KINDS = ("normal", "integers", "sparse", "spikes", "flat", "wide", "scales")


def inputs(kind, groups, n):
    """Return inputs of one kind, (groups, n), no row of zeros."""
    rng = np.random.default_rng([n, KINDS.index(kind)])
    x = rng.standard_normal((groups, n))
    if kind == "integers":
        x = np.rint(2 * x)
    elif kind == "sparse":
        x *= rng.random(x.shape) < 0.3
    elif kind == "spikes":
        x[np.arange(groups), rng.integers(0, n, groups)] *= 10.0 ** rng.integers(0, 6, groups)
    elif kind == "flat":
        x = np.sign(x) * (1 + 0.01 * rng.random(x.shape))
    elif kind == "wide":
        x *= 10.0 ** rng.integers(-20, 20, x.shape)
    elif kind == "scales":
        x *= 10.0 ** rng.integers(-50, 50, (groups, 1))
    x[~x.any(axis=1), -1] = -1.0
    return x


def one_by_one(x, k):
    y, sure = np.empty(x.shape, np.int32), np.empty(len(x), np.bool_)
    walking.search_rows(x, k, y, sure)
    return y, sure


def at_once(x, k, size):
    y, sure = np.empty(x.shape, np.int32), np.empty(len(x), np.bool_)
    search_batches(x, k, y, sure, size)
    return y, sure


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "k"), PAIRS)
def test_what_is_sure_equals_walks(n, k, kind):
    x = inputs(kind, 300, n)
    ref, surely = one_by_one(x, k)
    for size in (1, 7, 256):
        got, sure = at_once(x, k, size)
        assert np.all(surely[sure])  # what isn't certain in binary64 isn't certain here
        assert np.array_equal(got[sure], ref[sure])


@pytest.mark.uncompiled
@pytest.mark.parametrize("kind", KINDS)
def test_a_few_groups_equal_walks(kind):
    x = inputs(kind, 12, 6)
    ref, _ = one_by_one(x, 5)
    got, sure = at_once(x, 5, 8)
    assert np.array_equal(got[sure], ref[sure])


@pytest.mark.parametrize(("n", "k"), [*PAIRS[1:], (64, 111), (128, 221)])
def test_nearly_all_normal_groups_are_proved(n, k):
    _, sure = at_once(inputs("normal", 2000, n), k, 256)
    assert np.mean(sure) > 0.99


def test_doubtful_groups_are_left():
    """Zeros, magnitudes whose powers don't fit, equal magnitudes where pulses run out, a tie."""
    x = np.array([[0.0, 0.0], [1e-70, 2e-71], [1e70, 3e70], [1.0, 1.0], [2.0, 1.0]])
    assert at_once(x, 1, 3)[1].tolist() == [False, False, False, False, True]


@pytest.mark.parametrize("seed", range(4))
def test_equal_quality_of_distinct_magnitudes_is_left(seed):
    """f is the same for (2, 1, …, 1) and for (2, 2 seven times, 0 seven times).

    Nothing else is as good, and the vertices on the way are far below.
    """
    steps = np.arange(-3, 4) / 64
    x = np.random.default_rng(seed).permutation(np.concatenate([[21.0], 17 + steps, 7 + steps]))
    assert at_once(x[None], 16, 1)[1].tolist() == [False]
    assert search(x[None], 16)[0].tolist() == list(oracle.search(x.tolist(), 16))


@pytest.mark.uncompiled
@pytest.mark.parametrize("n", [1, 3, 4, 5, 8])
def test_keys_name_the_same_pulses_as_one_group(n):
    """Small integers and halves, so that there are ties and nothing is rounded."""
    rng = np.random.default_rng(n)
    count = 5
    points = np.zeros((2, (n + 3) // 4 * 4, count))
    points[0, n:] = -np.inf
    points[0, :n] = rng.integers(0, 4, (n, count))
    points[1, :n] = rng.integers(0, 3, (n, count))
    points[1, 0] += 1.0  # no lane without pulses
    s, keys = rng.integers(1, 4, count) / 2, np.empty((2, 2, count))
    found = np.empty((8, lanes.ROW_SIZE))
    lanes.extremes(points[0], points[1], s, keys)
    lanes.find_pairs(points.shape[1], keys, found.ravel(), count)
    for lane in range(count):
        u, z = points[0, :n, lane].copy(), points[1, :n, lane].copy()
        i, gain = walking._best_place(u, z, s[lane])
        j, loss = walking._worst_pulse(u, z, s[lane])
        assert found[:4, lane].tolist() == [i, j, gain - loss, (gain + loss) / 2]


@pytest.mark.uncompiled
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize(("second", "surely"), [(1.25, True), (1.5, False), (1.5 + 1e-15, False)])
def test_of_the_two_walks_of_a_group_the_better_one_counts(second, surely, order):
    """Both have just come to a better point, one of quality 1.5."""
    w, walks, x = np.zeros((4, 2)), np.zeros(striding.WALKS_SIZE), np.ones((1, 4))
    w[0], w[1] = [3.0, 1.0], [0.0, 2.0]
    y, quality, sure = np.zeros((1, 4), np.int32), np.array([1.0]), np.array([True])
    for walk, best in zip(order, (1.5, second), strict=True):
        walks[striding.BEST + walk], walks[striding.AT_B + walk] = best, 5.0
        walks[striding.IMPROVES + walk] = 1.0
    assert striding._land(x, 3.0, w, walks, 2, y, quality, sure) == 0
    assert sure[0] == surely
    if surely:
        assert y[0].tolist() == w[:, order[0]].tolist()


@pytest.mark.parametrize(("n", "k"), [(512, 9), (513, 9), (8, 256), (8, 257), (512, 1024)])
def test_largest_batches_and_beyond(n, k):
    x = inputs("normal", 20, n)
    ref, surely = one_by_one(x, k)
    assert np.array_equal(search(x, k)[surely], ref[surely])
    if fits(n, k):
        assert at_once(x, k, 16)[1].any()


def test_what_fits():
    assert fits(512, 1024)
    assert not fits(513, 1)
    assert not fits(512, 1025)
    assert not fits(8, 257)
    assert not fits(8, 0)
