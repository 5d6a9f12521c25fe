"""Curvature, the pass and sweeps against the oracle (spec sections 7.1, 7.2 and 7.4)."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from pvq_ref import feedback, oracle
from pvq_ref.curvature import MAX_DAMPING, curvature
from pvq_ref.errors import DomainError, DTypeError, NonFiniteError, ShapeError
from pvq_ref.feedback import Rows, code_alone, feed_back, steps, sweep
from pvq_ref.oracle.feedback import (
    brute_force_group,
    brute_force_row,
    damped,
    exact,
    loss,
    propagation,
    rotated,
    sweep_target,
    times,
)
from pvq_ref.rates import Allotment, Grid
from pvq_ref.rotation import Rotation

LEVELS = np.array([0.4, 0.7, 1.0, 1.4], np.float64)
EYE = np.eye


def moment(cols, seed=0, tokens=None):
    x = np.random.default_rng([seed, cols]).standard_normal((tokens or 2 * cols, cols))
    return x.T @ x / len(x)


def weights(rows, cols, seed=0):
    return np.random.default_rng([seed, rows, cols, 1]).standard_normal((rows, cols))


def allotment(rows, cols, n, k, tail_k=2):
    return Allotment(Grid(rows, cols, n), k, tail_k if cols % n else 0, 2)


def coded(w, curved, a, search="weighted", sweeps=0, units=None):
    """Code rows; levels are in units of a typical group."""
    units = np.full(len(w), np.sqrt(a.grid.n)) if units is None else units
    rows = Rows(w, units, a, [LEVELS] * a.level_rows)
    course = steps(curved, a)
    feed_back(rows, course, search)
    slope = rows.error @ curved.hessian
    for _ in range(sweeps):
        sweep(rows, course, slope)
    return rows


def damped_loss(error, curved):
    return float(np.sum((error @ curved.hessian) * error))


# 7.1


@pytest.mark.uncompiled
@pytest.mark.parametrize("cols", [1, 5, 12])
def test_curvature_is_the_oracles(cols):
    h, rotation = moment(cols), Rotation.of(cols, 3)
    got = curvature(h, cols, rotation, 0.25)
    blocks = [oracle.rotation.Block(b.count, b.order, b.base.paley, b.base.q)
              for b in rotation.blocks]  # fmt: skip
    ref = np.array(rotated(damped(exact(h.tolist()), Fraction(1, 4)), 3, blocks))
    assert np.allclose(got.unit * got.hessian, ref, rtol=1e-13, atol=1e-14)
    assert np.allclose(got.unit * got.factor @ got.factor.T, ref, rtol=1e-13, atol=1e-14)
    assert np.array_equal(got.factor, np.triu(got.factor)) and (np.diag(got.factor) > 0).all()
    assert np.array_equal(got.hessian, got.hessian.T)


@pytest.mark.parametrize("cols", [3, 64, 200])
def test_losses_are_traces(cols):
    h, e = moment(cols), weights(7, cols)
    got = curvature(h, cols, None, 0.5)
    assert np.isclose(got.unit * got.loss(e), np.trace(e @ h @ e.T), rtol=1e-12)


@pytest.mark.uncompiled
@pytest.mark.parametrize("rotation", [None, Rotation.of(12, 5)])
@pytest.mark.parametrize("factor", [1.0, 0.0, 3.7, 1e-300, 1e300])
def test_a_multiple_of_the_identity_stays_one(factor, rotation):
    got = curvature(factor * EYE(12), 12, rotation, 0.01)
    assert np.array_equal(got.hessian, got.hessian[0, 0] * EYE(12))
    assert np.array_equal(got.factor, got.factor[0, 0] * EYE(12))
    for step in steps(got, allotment(1, 12, 5, 3)):
        assert not step.carry.any()


@pytest.mark.parametrize("exponent", [-1000, -1, 1, 900])
def test_powers_of_two_change_the_unit_alone(exponent):
    h, rotation = moment(12), Rotation.of(12)
    ref, got = curvature(h, 12, rotation), curvature(np.ldexp(h, exponent), 12, rotation)
    assert np.array_equal(got.hessian, ref.hessian) and np.array_equal(got.factor, ref.factor)
    assert got.unit == np.ldexp(ref.unit, exponent) and got.added == ref.added


@pytest.mark.parametrize("value", [5e-324, 1e-310, 1.7e308])
def test_hessians_of_extreme_numbers(value):
    got = curvature(value * EYE(3), 3, None, 0.0)
    assert np.array_equal(got.unit * got.hessian, value * EYE(3))


def test_order_in_memory_does_not_matter():
    h = moment(12)
    h[0, 1] += 1e-6
    ref, got = (curvature(one, 12, Rotation.of(12)) for one in (h, np.asfortranarray(h)))
    assert np.array_equal(got.hessian, ref.hessian) and np.array_equal(got.factor, ref.factor)


def test_zero_counts_as_the_identity():
    ref, got = curvature(EYE(5), 5, None), curvature(np.zeros((5, 5)), 5, None)
    assert np.array_equal(got.hessian, ref.hessian) and got.unit == ref.unit == 1.0


def test_almost_symmetric_is_taken_as_the_mean():
    h = moment(6)
    tilted = h.copy()
    tilted[0, 1] += 1e-5
    ref, got = curvature((tilted + tilted.T) / 2, 6, None), curvature(tilted, 6, None)
    assert np.array_equal(got.hessian, ref.hessian)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.int64])
def test_types_of_numbers(dtype):
    h = (8 * EYE(6) + 1).astype(dtype)
    ref = curvature(h.astype(np.float64), 6, None)
    assert np.array_equal(curvature(h, 6, None).hessian, ref.hessian)
    assert np.array_equal(curvature(h.tolist(), 6, None).hessian, ref.hessian)


def test_inputs_that_are_never_seen_or_seen_twice():
    h = moment(9)
    h[:, 4] = h[4] = 0.0
    h[:, 8], h[8] = h[:, 2], h[2]
    h[8, 8] = h[2, 2]
    got = curvature(h, 9, None, 0.01)
    assert np.isfinite(got.factor).all()
    for rotation in (None, Rotation.of(9)):
        curvature(h, 9, rotation, 0.01)
    with pytest.raises(
        DomainError, match="hessian must be positive definite, and isn't with a dam"
    ):
        curvature(h, 9, None, 0.0)


def changed(value, i=1, j=2):
    h = moment(4)
    h[i, j] = value
    return h


@pytest.mark.uncompiled
@pytest.mark.parametrize(
    ("hessian", "error", "match"),
    [
        (moment(5), ShapeError, r"hessian must be of shape \(4, 4\), got \(5, 5\)"),
        (np.ones(4), ShapeError, r"got \(4,\)"),
        (moment(4) + 0j, DTypeError, "real numbers, got complex128"),
        ([["a"] * 4] * 4, DTypeError, "real numbers, got <U1"),
        (changed(np.nan), NonFiniteError, r"hessian must be finite, got nan at \(1, 2\)"),
        (changed(-np.inf, 3, 3), NonFiniteError, r"got -inf at \(3, 3\)"),
        (changed(-0.5, 2, 2), DomainError, r"no negative diagonal, got -0.5 at \(2, 2\)"),
        (changed(0.7), DomainError, r"must be symmetric, got 0.7 at \(1, 2\) and"),
        (changed(1e308), DomainError, "must be symmetric"),
        (np.ones((4, 4)) - EYE(4), DomainError, "must be positive definite"),
        (3 * EYE(4) - 1.5, DomainError, "positive definite, and isn't with a damping of 0.01"),
    ],
)
def test_hessians_that_are_none(hessian, error, match):
    with pytest.raises(error, match=match):
        curvature(hessian, 4, None)


@pytest.mark.parametrize("damping", [-1e-9, float("nan"), float("inf"), 2 * MAX_DAMPING, 10**400])
def test_dampings_outside_the_domain(damping):
    with pytest.raises(DomainError, match="damping must be from 0 to 1e"):
        curvature(moment(4), 4, None, damping)


@pytest.mark.parametrize("damping", [None, True, "0.01"])
def test_dampings_that_are_no_numbers(damping):
    with pytest.raises(DomainError, match="damping must be a number, got"):
        curvature(moment(4), 4, None, damping)


# 7.2


@pytest.mark.uncompiled
@pytest.mark.parametrize(("cols", "n"), [(7, 3), (6, 2), (4, 4), (5, 1)])
def test_metrics_and_carries_are_the_least_squares_solutions(cols, n):
    curved = curvature(moment(cols), cols, None, 0.125)
    h = exact(curved.hessian.tolist())
    course = steps(curved, allotment(2, cols, n, 3))
    assert [step.slot.number for step in course] == list(range(-(-cols // n)))
    assert course[-1].slot.columns.stop == cols
    for step in course:
        q = step.slot.columns
        ref = propagation(h, q.start, q.stop)
        assert np.allclose(step.metric, np.array(ref.metric, float), rtol=1e-11, atol=1e-13)
        if q.start:
            assert np.allclose(step.carry, np.array(ref.carry, float), rtol=1e-10, atol=1e-12)


@pytest.mark.uncompiled
@pytest.mark.parametrize("stretch", [1, 3, 4, 256])
@pytest.mark.parametrize(("cols", "n"), [(8, 3), (5, 5), (6, 1)])
def test_plain_feedback_is_the_oracles_search_of_the_targets(monkeypatch, cols, n, stretch):
    """Also where groups come in stretches of several, and of one."""
    monkeypatch.setattr(feedback, "STRETCH", stretch)
    monkeypatch.setattr(feedback, "WIDE", 1)
    curved, w = curvature(moment(cols), cols, None), weights(4, cols)
    a = allotment(4, cols, n, 4)
    rows, h = coded(w, curved, a, "plain"), exact(curved.hessian.tolist())
    for i, step in enumerate(steps(curved, a)):
        q = step.slot.columns
        carry = propagation(h, q.start, q.stop).carry
        for row in range(4):
            pull = times(exact([rows.error[row, : q.start]]), carry)[0] if q.start else [0] * n
            target = [Fraction(v) + p for v, p in zip(w[row, q], pull, strict=True)]
            y = rows.points[i][row].tolist()
            assert tuple(y) == oracle.search(target, step.slot.part.k)
            length = np.sqrt(float(sum(v * v for v in y)))
            gain = float(sum(t * v for t, v in zip(target, y, strict=True))) / length
            level = np.argmin(np.abs(gain / rows.units[row] - LEVELS))
            assert rows.fields[row, i] == level
            what = rows.units[row] * LEVELS[level] / length * np.array(y)
            assert np.array_equal(rows.error[row, q], w[row, q] - what)


@pytest.mark.parametrize("search", ["plain", "weighted"])
def test_stretches_change_nothing_but_rounding(monkeypatch, search):
    cols, n = 200, 16
    curved, w, a = curvature(moment(cols), cols, None), weights(20, cols), allotment(20, cols, n, 9)
    ref = coded(w, curved, a, search, sweeps=1)
    firsts = []
    monkeypatch.setattr(feedback, "WIDE", 199)
    for stretch in (16, 100, 192):
        monkeypatch.setattr(feedback, "STRETCH", stretch)
        firsts.append([s.slot.columns.start for s in steps(curved, a) if s.ahead is not None])
        got = coded(w, curved, a, search, sweeps=1)
        assert all(np.array_equal(*pair) for pair in zip(got.points, ref.points, strict=True))
        assert np.allclose(got.error, ref.error, rtol=0, atol=1e-12)
    assert firsts == [list(range(0, 200, 16)), [0, 96, 192], [0, 192]]


@pytest.mark.parametrize("cols", [6, 8])
def test_weighted_feedback_of_the_last_group_is_near_the_best(cols):
    """The last group's metric is H_QQ and its target is that of a sweep."""
    curved, w, hits = curvature(moment(cols), cols, None), weights(20, cols), 0
    a = allotment(20, cols, 2, 3)
    rows, h = coded(w, curved, a), exact(curved.hessian.tolist())
    last = steps(curved, a)[-1]
    q = last.slot.columns
    for row in range(20):
        target = sweep_target(w[row], rows.error[row], h, q.start, q.stop)
        metric = exact(curved.hessian[q, q].tolist())
        ref, _, _ = brute_force_group(target, metric, 3, rows.units[row], LEVELS)
        away = [t - Fraction(v) for t, v in zip(target, (w - rows.error)[row, q], strict=True)]
        got = float(loss([away], metric))
        assert got >= ref * (1 - 1e-12)
        hits += got <= ref * (1 + 1e-12)
    assert hits >= 17


@pytest.mark.parametrize("search", ["plain", "weighted"])
def test_rows_are_never_better_than_the_best_of_all(search):
    curved, w = curvature(moment(4, 1), 4, None), weights(6, 4)
    a, h = allotment(6, 4, 2, 2), exact(curvature(moment(4, 1), 4, None).hessian.tolist())
    excess = []
    for sweeps in (0, 5):
        rows = coded(w, curved, a, search, sweeps)
        got = [float(loss(exact([error]), h)) for error in rows.error]
        ref = [brute_force_row(row, h, [2, 2], 2, np.sqrt(2), LEVELS) for row in w]
        assert all(g >= r * (1 - 1e-12) for g, r in zip(got, ref, strict=True))
        excess.append(sum(got) / sum(ref))
    assert 1.0 <= excess[1] <= excess[0] < 1.6 and excess[1] < 1.3


@pytest.mark.parametrize("search", ["plain", "weighted"])
def test_what_the_groups_lose_adds_up(search):
    cols = 40
    curved, w = curvature(moment(cols), cols, None), weights(9, cols)
    a = allotment(9, cols, 16, 20)
    rows = Rows(w, np.full(9, 4.0), a, [LEVELS] * 2)
    got = feed_back(rows, steps(curved, a), search)
    assert np.isclose(got, damped_loss(rows.error, curved), rtol=1e-12)


def test_each_step_beats_the_one_before():
    cols = 64
    curved, w = curvature(moment(cols, tokens=40), cols, None), weights(100, cols)
    a = allotment(100, cols, 16, 20)
    alone = Rows(w, np.full(100, 4.0), a, [LEVELS])
    code_alone(alone, a)
    losses = [
        alone,
        coded(w, curved, a, "plain"),
        coded(w, curved, a),
        coded(w, curved, a, sweeps=3),
    ]
    got = [curved.loss(rows.error) for rows in losses]
    assert got[0] > 1.3 * got[1] and got[1] > 1.05 * got[2] and got[2] > 1.001 * got[3], got


def test_without_curvature_feedback_does_nothing():
    w, a = weights(50, 45), allotment(50, 45, 16, 20, 9)
    alone = Rows(w, np.full(50, 4.0), a, [LEVELS] * 2)
    code_alone(alone, a)
    got = coded(w, curvature(0.3 * EYE(45), 45, Rotation.of(45)), a, "plain", units=alone.units)
    assert all(np.array_equal(*pair) for pair in zip(got.points, alone.points, strict=True))
    assert np.array_equal(got.fields, alone.fields) and np.array_equal(got.error, alone.error)


# 7.4


@pytest.mark.parametrize("search", ["plain", "weighted"])
@pytest.mark.parametrize(("cols", "n", "tokens"), [(40, 16, 80), (24, 8, 10), (30, 1, 60)])
def test_sweeps_never_raise_the_damped_loss(cols, n, tokens, search):
    curved, w = curvature(moment(cols, tokens=tokens), cols, None), weights(30, cols)
    a = allotment(30, cols, n, n)
    rows = coded(w, curved, a, search)
    slope, course = rows.error @ curved.hessian, steps(curved, a)
    losses = [[damped_loss(row, curved) for row in rows.error]]
    for _ in range(6):
        before = rows.error.copy()
        moved = sweep(rows, course, slope)
        assert moved == (not np.array_equal(before, rows.error))
        losses.append([damped_loss(row, curved) for row in rows.error])
        same = (before == rows.error).all(axis=1)
        assert (np.array(losses[-1])[~same] < np.array(losses[-2])[~same]).all()
        assert np.allclose(slope, rows.error @ curved.hessian, rtol=1e-10, atol=1e-12)
    assert np.sum(losses[-1]) < np.sum(losses[0])


def test_sweeps_come_to_an_end():
    curved, w = curvature(moment(16), 16, None), weights(40, 16)
    a = allotment(40, 16, 4, 5)
    rows = coded(w, curved, a)
    slope, course = rows.error @ curved.hessian, steps(curved, a)
    assert any(not sweep(rows, course, slope) for _ in range(30))
    before = rows.error.copy()
    assert not sweep(rows, course, slope) and np.array_equal(rows.error, before)


def test_equal_inputs_do_not_keep_sweeps_busy():
    h = np.kron(moment(8), np.ones((2, 2)))
    curved, w = curvature(h, 16, None, 0.0001), weights(40, 16)
    a = allotment(40, 16, 4, 5)
    rows = coded(w, curved, a)
    slope, course = rows.error @ curved.hessian, steps(curved, a)
    assert any(not sweep(rows, course, slope) for _ in range(60))
