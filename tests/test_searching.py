"""Exact search against brute force and the oracle (spec section 4.1)."""

from fractions import Fraction
from importlib import import_module
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvq_ref import count, oracle, search, search_project
from pvq_ref.errors import DomainError, DTypeError, NonFiniteError, ShapeError
from pvq_ref.oracle.search import brute_force_search
from tests.strategies import vectors

SMALL = [(n, k) for n in range(1, 101) for k in range(1, 71) if 1 < count(n, k) <= 20_000]
LONG = [(1, 9000), (2, 500), (2, 5000)]  # beyond 70 pulses there are only one and two coordinates
KINDS = ("normal", "single", "integers", "sparse", "halves", "near ties", "repeated", "wide",
         "spike", "zero")  # fmt: skip


def inputs(kind, groups, n, seed=0):
    """Return inputs of one kind, (groups, n)."""
    rng = np.random.default_rng([seed, n, KINDS.index(kind)])
    x = rng.standard_normal((groups, n))
    if kind == "single":
        return x.astype(np.float32)
    if kind == "integers":
        return rng.integers(-3, 4, x.shape).astype(float)
    if kind == "sparse":
        return x * (rng.random(x.shape) < 0.3)
    if kind == "halves":
        return np.round(2 * x) / 2
    if kind == "near ties":
        return rng.choice([-1, 1], x.shape) * (1 + rng.integers(-2, 3, x.shape) * 2.0**-52)
    if kind == "repeated":
        return np.repeat(x[:, :1], n, axis=1) * rng.choice([-1, 1], x.shape)
    if kind == "wide":
        return x * 10.0 ** rng.integers(-300, 300, x.shape)
    if kind == "spike":
        x[:, n // 2] *= 1e6
        return x
    return np.zeros(x.shape) if kind == "zero" else x


def cosines(x, y):
    x = x / np.max(np.abs(x), axis=1, keepdims=True)
    norms = np.sqrt(np.sum(x * x, axis=1)) * np.sqrt(np.sum(y.astype(float) ** 2, axis=1))
    return np.sum(x * y, axis=1) / norms


@pytest.mark.parametrize("kind", KINDS)
def test_equals_brute_force(kind):
    for n, k in [pair for pair in SMALL if count(*pair) <= 700]:
        x = inputs(kind, 4, n)
        assert search(x, k).tolist() == [list(brute_force_search(row, k)) for row in x.tolist()]


def magnitudes_of_pyramid(n, k):
    """Return all magnitudes of P(n,k), (points, n) float64, lexicographically greatest first."""
    places = list(combinations(range(n + k - 1), n - 1))
    bars = np.array(places, np.int64).reshape(len(places), n - 1)
    edges = np.pad(bars, ((0, 0), (1, 1)), constant_values=((0, 0), (-1, n + k - 1)))
    return np.diff(edges, axis=1)[::-1].astype(np.float64) - 1


def best_of_all(x, points):
    """Return the magnitudes that section 4.1 asks for: binary64 to narrow down, then fractions."""
    if not x.any():
        return points[0].astype(int).tolist()
    scaled = np.abs(x) / np.max(np.abs(x))
    quality = (points @ scaled) ** 2 / np.sum(points * points, axis=1)
    near = points[quality >= quality.max() * (1 - 1e-9)].astype(int).tolist()
    exact = [Fraction(abs(v)) for v in x.tolist()]

    def key(z):
        return sum(a * b for a, b in zip(exact, z, strict=True)) ** 2 / sum(b * b for b in z), z

    return max(near, key=key)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "k"), SMALL + LONG)
def test_equals_brute_force_up_to_20000(n, k):
    points = magnitudes_of_pyramid(n, k)
    for kind in KINDS:
        x = inputs(kind, 4, n, seed=1)
        got = search(x, k)
        assert np.abs(got).tolist() == [best_of_all(row, points) for row in x]
        assert np.all((got < 0) <= (x < 0))
        assert np.all((got > 0) <= (x >= 0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "k"), [(12, 30), (16, 27), (20, 5), (32, 21)])
def test_equals_oracle_beyond_brute_force(kind, n, k):
    x = inputs(kind, 4, n, seed=2)
    assert search(x, k).tolist() == [list(oracle.search(row, k)) for row in x.tolist()]


@pytest.mark.uncompiled
@given(vectors(), st.integers(0, 12))
def test_equals_oracle_on_hard_vectors(x, k):
    assert search(x[None], k)[0].tolist() == list(oracle.search(x.tolist(), k))


@given(vectors(width=32), st.integers(0, 30))
def test_single_precision_is_taken_as_exact(x, k):
    assert np.array_equal(search(x[None], k), search(x[None].astype(np.float64), k))


@pytest.mark.parametrize(("n", "k"), [(32, 56), (64, 111), (128, 221), (33, 400)])
def test_never_below_the_search_of_the_paper(n, k):
    for kind in ("normal", "halves", "sparse", "repeated"):
        x = inputs(kind, 500, n, seed=3)
        x = x[np.abs(x).max(axis=1) > 0]
        y = search(x, k)
        assert np.all(np.abs(y).sum(axis=1) == k)
        assert np.all(cosines(x, y) >= cosines(x, search_project(x, k)) - 1e-12)


@pytest.mark.parametrize(("n", "k"), [(32, 56), (64, 40)])
def test_no_exchange_of_a_pulse_improves_the_cosine(n, k):
    x = np.abs(inputs("normal", 40, n, seed=4))
    y = search(x, k)
    best = cosines(x, y)
    for i in range(n):
        for j in range(n):
            z = y.copy()
            z[:, i] += 1
            z[:, j] -= 1
            allowed = (z[:, j] >= 0) & (i != j)
            assert np.all(cosines(x, z)[allowed] <= best[allowed] + 1e-15)


@given(vectors(max_n=6), st.integers(1, 9), st.integers(-40, 40))
def test_powers_of_two_change_nothing(x, k, exponent):
    x = np.where(np.abs(x) < 1e-200, 0.0, np.clip(x, -1e200, 1e200))  # so that scaling is exact
    assert np.array_equal(search(x[None], k), search(np.ldexp(x, exponent)[None], k))


@given(vectors(max_n=6), st.integers(1, 9), st.integers(0, 63))
def test_signs_follow_the_input(x, k, flips):
    sign = np.array([1 - 2 * (flips >> i & 1) for i in range(x.size)])
    x = np.where(x == 0.0, 0.0, x)
    ref = search(x[None], k)[0] * np.where(x == 0.0, 1, sign)
    assert np.array_equal(search((x * sign)[None], k)[0], ref)


def test_ties_go_to_lower_coordinates():
    assert search(np.ones((1, 5)), 3).tolist() == [[1, 1, 1, 0, 0]]
    assert search(np.array([[1.0, 2.0, 2.0, 1.0]]), 3).tolist() == [[1, 1, 1, 0]]


@pytest.mark.uncompiled
@pytest.mark.parametrize("seed", range(5))
def test_equal_quality_far_apart_obeys_the_tie_rule(seed):
    """f is 2450 for (2, 1 seven times, 1 seven times) and for (2, 2 seven times, 0 seven times)."""
    x = np.array([21.0] + [17.0] * 7 + [7.0] * 7)
    x = np.random.default_rng(seed).permutation(x) if seed else x[::-1]
    assert search(x[None], 16)[0].tolist() == list(oracle.search(x.tolist(), 16))


@pytest.mark.uncompiled
def test_zero_row_and_negative_zero():
    assert search(np.array([[0.0, -0.0, 0.0], [-0.0, -1.0, 0.0]]), 4).tolist() == [
        [4, 0, 0],
        [0, -4, 0],
    ]
    assert search(np.array([[-0.0, -0.0]]), 1).tolist() == [[1, 0]]


def test_no_pulses():
    assert not search(np.ones((2, 3)), 0).any()


def test_one_coordinate():
    assert search(np.array([[-0.5], [2.0], [0.0]]), 7).tolist() == [[-7], [7], [7]]


def test_subnormal_and_huge_rows():
    tiny = np.array([[3.0, -1.0, 0.5]]) * 5e-324
    huge = np.array([[1.7e308, -1.7e308, 1e308]])
    for x in (tiny, huge):
        assert search(x, 5).tolist() == [list(oracle.search(x[0].tolist(), 5))]


def test_a_triple_crossing_ends():
    """Three pulses that move at one scale once made the walk turn back for ever."""
    u = 1.0 + np.arange(32) / 7
    for k in range(1, 200):
        y = search((u * 0.1)[None], k)
        assert np.abs(y).sum() == k


def test_regular_inputs_end():
    rng = np.random.default_rng(9)
    for step in (3, 5, 7, 11):
        x = rng.integers(-40, 41, (2000, 32)) / step
        for k in (21, 55, 100):
            assert np.all(np.abs(search(x, k)).sum(axis=1) == k)


@pytest.mark.uncompiled
@pytest.mark.parametrize("kind", ["integers", "halves", "near ties"])
def test_doubtful_groups_are_decided_exactly(kind):
    """The exact path alone, without the fast one's start, gives the same."""
    from pvq_ref.exact_search import exact_search

    for row in inputs(kind, 10, 7, seed=5):
        if not row.any():
            continue
        for k in (3, 8):
            start = [0] * 7
            start[int(np.argmax(np.abs(row)))] = k
            exponent = int(np.frexp(np.abs(row).max())[1]) - 1
            z = exact_search(np.abs(row).tolist(), start, 0.0, 1e4, exponent)
            assert z == [abs(v) for v in oracle.search(row.tolist(), k)]


def test_large_k_is_exact():
    rng = np.random.default_rng(6)
    x = rng.standard_normal((3, 3))
    for k in (5000, 20_000):
        y = search(x, k)
        assert y.tolist() == [list(oracle.search(row, k)) for row in x.tolist()]


def test_threads_and_memory_layout_change_nothing():
    x = inputs("normal", 10_000, 8)
    ref = search(x, 6, threads=1)
    assert np.array_equal(ref, search(np.asfortranarray(x), 6, threads=3))
    assert ref.dtype == np.int32


def test_input_is_not_changed():
    x = inputs("normal", 3, 4)
    x.flags.writeable = False
    search(x, 3)
    search_project(x, 3)


@pytest.mark.uncompiled
def test_no_groups():
    assert search(np.zeros((0, 4)), 3).shape == (0, 4)


@pytest.mark.uncompiled
@pytest.mark.parametrize("function", [search, search_project])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(function, bad):
    x = np.ones((3, 4))
    x[1, 2] = bad
    with pytest.raises(NonFiniteError, match=rf"x must be finite, got {bad} at \(1, 2\)"):
        function(x, 3)


@pytest.mark.uncompiled
@pytest.mark.parametrize("function", [search, search_project])
def test_wrong_arguments(function):
    with pytest.raises(ShapeError, match=r"x must be of shape \(groups, n\)"):
        function(np.ones(4), 3)
    with pytest.raises(ShapeError, match="n >= 1"):
        function(np.ones((4, 0)), 3)
    with pytest.raises(DTypeError, match="x must be float32 or float64, got int64"):
        function(np.ones((4, 2), int), 3)
    with pytest.raises(DTypeError):
        function(np.ones((4, 2), np.float16), 3)
    with pytest.raises(DomainError, match="k must be from 0"):
        function(np.ones((4, 2)), -1)
    with pytest.raises(DomainError, match="threads"):
        function(np.ones((4, 2)), 1, threads=0)


def test_the_function_hides_no_module():
    """pvq_ref.search is the function, whatever was imported before."""
    import_module("pvq_ref.searching")
    import pvq_ref

    assert callable(pvq_ref.search)
    assert callable(pvq_ref.matmul)
