"""The weighted search of a group against brute force (spec section 7.3)."""

import numpy as np
import pytest

from pvq_ref import search
from pvq_ref.exchange import UNCODED, exchange_groups
from pvq_ref.oracle.feedback import brute_force_group, exact, group_error, points

LEVELS = np.array([0.35, 0.55, 0.75, 1.0])
FREE = np.empty(0)
SHAPES = [(1, 3), (2, 1), (2, 4), (3, 2), (3, 5), (4, 3), (4, 6), (5, 4), (6, 3)]


def metric(n, rng, freedom=None):
    """A positive definite matrix; the fewer degrees of freedom, the further from the identity."""
    x = rng.standard_normal((freedom or 2 * n, n))
    return x.T @ x / len(x) + 0.01 * np.eye(n)


def found(t, M, k, units, levels=LEVELS, start=None, fields=None):
    """Return points, numbers of levels and free gains; starts are left as they are."""
    y = search(t, k) if start is None else start.copy()
    fields = np.full(len(t), UNCODED) if fields is None else fields.copy()
    gains = np.zeros((len(t), 2))
    exchange_groups(t @ M, M, units, levels, y, fields, gains)
    return y, fields, gains


def errors(t, M, y, units, levels):
    """Return the errors of points whose amplitudes are given, or units and levels."""
    s = units * levels / np.sqrt(np.sum(y.astype(float) ** 2, axis=1))
    e = t - s[:, None] * y
    return np.einsum("gi,ij,gj->g", e, M, e)


def best_errors(t, M, k, units):
    """Return the least error of every group over all points and levels."""
    y = np.array(list(points(t.shape[1], k)))
    return np.array([
        min(errors(np.repeat(row[None], len(y), 0), M, y, np.full(len(y), unit), level).min()
            for level in LEVELS)
        for row, unit in zip(t, units, strict=True)
    ])  # fmt: skip


def start_errors(t, M, k, units):
    """Return the errors of the Euclidean points, each with the nearest level under M."""
    y = search(t, k).astype(float)
    gain = np.sum((t @ M) * y, axis=1) / np.sum((y @ M) * y, axis=1)
    gain = gain * np.sqrt(np.sum(y * y, axis=1)) / units
    nearest = np.argmin(np.abs(gain[:, None] - LEVELS), axis=1)
    return errors(t, M, y, units, LEVELS[nearest])


@pytest.mark.uncompiled
def test_equals_the_oracle_on_tiny_groups():
    rng, hits, cases = np.random.default_rng(0), 0, 0
    for n, k in ((1, 2), (2, 2), (2, 3), (3, 2)):
        M, t = metric(n, rng), rng.standard_normal((5, n))
        units = np.full(5, np.sqrt(n))
        y, fields, _ = found(t, M, k, units)
        for i in range(5):
            ref, *_ = brute_force_group(t[i], exact(M), k, units[i], LEVELS)
            got = group_error(t[i], exact(M), y[i].tolist(), units[i], LEVELS[fields[i]])
            assert got >= ref
            hits, cases = hits + (got == ref), cases + 1
    assert hits >= 0.9 * cases


@pytest.mark.parametrize(("freedom", "share", "excess"), [(1, 0.8, 0.1), (8, 0.93, 0.02)])
def test_between_start_and_brute_force(freedom, share, excess):
    """Most results are the best of all, the more the nearer the metric is to the identity."""
    rng, hits, sums = np.random.default_rng(1), [], np.zeros(2)
    for n, k in SHAPES:
        M, t = metric(n, rng, freedom * n), rng.standard_normal((100, n))
        units = np.sqrt(n) * rng.uniform(0.8, 1.2, 100)
        y, fields, _ = found(t, M, k, units)
        assert (np.abs(y).sum(axis=1) == k).all()
        got, ref = errors(t, M, y, units, LEVELS[fields]), best_errors(t, M, k, units)
        assert (got >= ref - 1e-12).all()
        assert (got <= start_errors(t, M, k, units) + 1e-12).all()
        hits.append(np.mean(got <= ref + 1e-12))
        sums += got.sum(), ref.sum()
    assert np.mean(hits) >= share and sums[0] <= (1 + excess) * sums[1]


@pytest.mark.parametrize(("n", "k"), [(16, 20), (32, 56), (64, 40)])
def test_never_worse_than_the_start(n, k):
    rng = np.random.default_rng(n)
    for freedom in (2, n, 4 * n):
        M, t = metric(n, rng, freedom), rng.standard_normal((200, n))
        units = np.full(200, np.sqrt(n))
        y, fields, _ = found(t, M, k, units)
        got, ref = errors(t, M, y, units, LEVELS[fields]), start_errors(t, M, k, units)
        assert (got <= ref * (1 + 1e-9)).all()
        assert got.sum() < 0.95 * ref.sum()


def test_a_multiple_of_the_identity_leaves_free_points_alone():
    t = np.random.default_rng(2).standard_normal((300, 12))
    y, _, gains = found(t, 0.25 * np.eye(12), 9, np.ones(300), FREE)
    assert np.array_equal(y, search(t, 9))
    length = np.sqrt(np.sum(y * y, axis=1))
    assert np.allclose(gains[:, 0], np.sum(t * y, axis=1) / length, rtol=1e-13)
    assert np.allclose(gains[:, 1], 0.25, rtol=1e-13)


def test_free_gains_are_the_best():
    rng = np.random.default_rng(3)
    M, t = metric(8, rng, 8), rng.standard_normal((200, 8))
    y, _, gains = found(t, M, 7, np.ones(200), FREE)
    here = errors(t, M, y, np.ones(200), gains[:, 0])
    for change in (0.01, -0.01):
        away = errors(t, M, y, np.ones(200), gains[:, 0] + change)
        ok = gains[:, 0] > 0.0
        assert np.allclose(away[ok] - here[ok], gains[ok, 1] * 1e-4, rtol=1e-6, atol=1e-12)


@pytest.mark.uncompiled
def test_a_negative_best_gain_has_the_lowest_level():
    M, t = np.array([[1.0, 3.0], [3.0, 10.0]]), np.array([[1.0, -1.0]])
    start = search(t, 1)
    assert start.tolist() == [[1, 0]] and ((t @ M) @ start[0])[0] < 0
    y, fields, gains = found(t, M, 1, np.ones(1), FREE)
    assert y.tolist() == [[1, 0]] and gains[0, 0] == 0.0
    y, fields, _ = found(t, M, 1, np.ones(1))
    assert y.tolist() == [[0, -1]]  # at the lowest level of the start there is a better point
    ref, *_ = brute_force_group(t[0], exact(M), 1, 1.0, LEVELS)
    assert group_error(t[0], exact(M), y[0].tolist(), 1.0, LEVELS[fields[0]]) == ref


@pytest.mark.uncompiled
def test_a_row_without_a_norm_keeps_its_start():
    rng = np.random.default_rng(4)
    M, t = metric(4, rng, 4), rng.standard_normal((3, 4))
    y, fields, _ = found(t, M, 3, np.zeros(3))
    assert np.array_equal(y, search(t, 3)) and not fields.any()
    start = np.array([2, 0, 3])
    assert np.array_equal(found(t, M, 3, np.zeros(3), fields=start)[1], start)


def test_coded_groups_move_only_if_they_gain():
    rng = np.random.default_rng(5)
    M, t = metric(12, rng, 12), rng.standard_normal((300, 12))
    units, start = np.full(300, 3.0), search(rng.standard_normal((300, 12)), 10)
    fields = rng.integers(0, 4, 300)
    y, numbers, _ = found(t, M, 10, units, start=start, fields=fields)
    before, after = (errors(t, M, *one) for one in ((start, units, LEVELS[fields]),
                                                    (y, units, LEVELS[numbers])))  # fmt: skip
    same = (y == start).all(axis=1) & (numbers == fields)
    assert (after <= before).all() and (after[~same] < before[~same]).all()
    y2, numbers2, _ = found(t, M, 10, units, start=y, fields=numbers)
    assert np.mean((y2 == y).all(axis=1) & (numbers2 == numbers)) > 0.95


def test_equal_choices_do_not_take_turns():
    """Two coordinates that always come together can share pulses in any way: none is a gain."""
    M = np.kron(np.eye(3), np.ones((2, 2))) + 0.0
    t = np.random.default_rng(6).standard_normal((200, 6))
    y, fields, _ = found(t, M, 5, np.full(200, 2.0))
    for _ in range(3):
        z, numbers, _ = found(t, M, 5, np.full(200, 2.0), start=y, fields=fields)
        gained = errors(t, M, y, 2.0, LEVELS[fields]) - errors(t, M, z, 2.0, LEVELS[numbers])
        moved = (z != y).any(axis=1) | (numbers != fields)
        assert (gained[moved] > 1e-13).all()
        y, fields = z, numbers
    assert not moved.any()


@pytest.mark.uncompiled
@pytest.mark.parametrize("exponent", [-40, 3, 60])
def test_scales_by_powers_of_two_change_nothing(exponent):
    rng = np.random.default_rng(7)
    M, t = metric(6, rng, 6), rng.standard_normal((20, 6))
    ref = found(t, M, 5, np.full(20, 2.0))
    for of_M, of_t in ((exponent, 0), (0, exponent)):
        units = np.full(20, np.ldexp(2.0, of_t))
        got = found(np.ldexp(t, of_t), np.ldexp(M, of_M), 5, units)
        assert np.array_equal(got[0], ref[0]) and np.array_equal(got[1], ref[1])


def test_signs_of_coordinates_carry_over():
    rng = np.random.default_rng(8)
    M, t = metric(10, rng), rng.standard_normal((100, 10))
    sign = rng.choice([-1.0, 1.0], 10)
    ref = found(t, M, 8, np.full(100, 3.0))
    got = found(t * sign, M * sign * sign[:, None], 8, np.full(100, 3.0))
    assert np.array_equal(got[0], ref[0] * sign) and np.array_equal(got[1], ref[1])
