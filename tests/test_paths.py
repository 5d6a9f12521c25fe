"""Neighbours of points and several paths of a row against brute force (spec section 7.10)."""

import numpy as np
import pytest

from pvq_ref import dequantize, quantize_with_feedback, search
from pvq_ref.curvature import curvature
from pvq_ref.errors import DomainError
from pvq_ref.feedback import Rows, feed_back, steps
from pvq_ref.metadata import PARTS
from pvq_ref.neighbours import take_neighbours
from pvq_ref.oracle.feedback import brute_force_row, exact
from pvq_ref.paths import follow_paths
from pvq_ref.rates import Allotment, Grid
from pvq_ref.rotation import Rotation

LEVELS = np.array([0.4, 0.7, 1.0, 1.4])


def moment(cols, seed=0, tokens=None):
    x = np.random.default_rng([seed, cols]).standard_normal((tokens or 2 * cols, cols))
    return x.T @ x / len(x)


def weights(rows, cols, seed=0):
    return np.random.default_rng([seed, rows, cols, 1]).standard_normal((rows, cols))


def coded(w, curved, a, paths, units=None):
    """Code rows along paths, or in the usual pass if paths is 0; return them and the told loss."""
    units = np.full(len(w), np.sqrt(a.grid.n)) if units is None else units
    rows, course = Rows(w, units, a, [LEVELS] * a.level_rows), steps(curved, a)
    if paths:
        return rows, follow_paths(rows, course, paths)
    return rows, feed_back(rows, course, "weighted")


def row_losses(rows, curved):
    return np.sum((rows.error @ curved.hessian) * rows.error, axis=1)


# Neighbours


def chosen(t, M, k, units, choices):
    """Return the points, levels and errors of `choices` choices, the first the Euclidean point."""
    points = np.zeros((len(t), choices, t.shape[1]), np.int32)
    fields = np.zeros((len(t), choices), np.int64)
    points[:, 0], fields[:, 0] = search(t, k), 2
    losses = np.zeros((len(t), choices))
    losses[:, 0] = 7.0 + np.sum((t @ M) * t, axis=1)
    take_neighbours(t @ M, M, units, LEVELS, points, fields, losses)
    return points, fields, losses


def error(t, M, y, s):
    e = t - s * y
    return e @ M @ e


def changes(t, M, y, s):
    """Return what each exchange adds at a fixed s, with the point behind it, in a list."""
    slope = (t - s * y) @ M
    up = [np.sign(v) if v else (1.0 if g >= 0 else -1.0) for v, g in zip(y, slope, strict=True)]
    result = []
    for j in np.flatnonzero(y):
        for i in set(range(len(y))) - {j}:
            z = y.astype(float)
            z[i] += up[i]
            z[j] -= np.sign(y[j])
            result.append((error(t, M, z, s) - error(t, M, y, s), z.astype(int).tolist()))
    return sorted(result)


@pytest.mark.uncompiled
@pytest.mark.parametrize(("n", "k"), [(1, 2), (2, 1), (2, 3), (3, 2), (5, 4), (7, 9)])
def test_neighbours_are_the_best_exchanges(n, k):
    rng = np.random.default_rng([n, k])
    M, t, units = moment(n, 1) + 0.01 * np.eye(n), rng.standard_normal((6, n)), np.full(6, 1.5)
    points, _, losses = chosen(t, M, k, units, 5)
    for group in range(6):
        y = points[group, 0].astype(float)
        ref = changes(t[group], M, y, 1.5 * LEVELS[2] / np.linalg.norm(y))
        real = np.isfinite(losses[group])
        assert real.sum() == 1 + min(len(ref), 4, n)
        assert points[group, real].tolist()[1:] == [z for _, z in ref[: real.sum() - 1]]
        assert (points[group, ~real] == points[group, 0]).all()


@pytest.mark.uncompiled
def test_neighbours_have_the_level_and_the_error_of_their_own():
    rng = np.random.default_rng(3)
    M, t, units = moment(6, 2), rng.standard_normal((20, 6)), rng.uniform(1, 3, 20)
    points, fields, losses = chosen(t, M, 7, units, 4)
    assert (np.abs(points).sum(axis=2) == 7).all() and len(np.unique(fields)) > 2
    for group in range(20):
        for choice in range(4):
            y = points[group, choice].astype(float)
            found = [error(t[group], M, y, units[group] * level / np.linalg.norm(y))
                     for level in LEVELS]  # fmt: skip
            assert np.isclose(losses[group, choice], 7.0 + found[fields[group, choice]], rtol=1e-12)
            assert choice == 0 or min(found) == found[fields[group, choice]]


def test_a_row_without_a_norm_has_no_neighbours():
    points, fields, losses = chosen(weights(3, 4), np.eye(4), 3, np.zeros(3), 5)
    assert np.isinf(losses[:, 1:]).all() and (points == points[:, :1]).all() and (fields == 2).all()


# Paths


@pytest.mark.uncompiled
@pytest.mark.parametrize("paths", [1, 3, 8])
def test_the_loss_is_that_of_the_points(paths):
    """Also where a row is shorter than its groups, and where it ends in a tail."""
    for cols, n, k, tail_k in ((10, 4, 3, 2), (6, 1, 2, 0), (5, 5, 4, 0), (9, 8, 5, 1)):
        w, curved = weights(11, cols), curvature(moment(cols), cols, None)
        a = Allotment(Grid(11, cols, n), k, tail_k, 2)
        units = np.append(np.full(10, np.sqrt(n)), 0.0)
        rows, told = coded(w, curved, a, paths, units)
        y = np.concatenate(rows.points, axis=1)
        sizes = [point.shape[1] for point in rows.points]
        lengths = [np.linalg.norm(point, axis=1) for point in rows.points]
        s = units[:, None] * LEVELS[rows.fields] / np.stack(lengths, axis=1)
        assert [set(np.abs(point).sum(axis=1)) for point in rows.points] == [
            {tail_k if tail_k and size == cols % n else k} for size in sizes
        ]
        assert np.allclose(rows.error, w - np.repeat(s, sizes, axis=1) * y, rtol=0, atol=1e-14)
        assert np.isclose(told, row_losses(rows, curved).sum(), rtol=1e-12)
        assert not rows.fields[10].any() and np.array_equal(rows.error[10], w[10])


@pytest.mark.parametrize(("n", "groups", "k"), [(2, 3, 2), (3, 2, 3), (4, 2, 2), (2, 4, 1)])
def test_many_paths_come_nearer_to_the_best_row(n, groups, k):
    cols, excess, hits = n * groups, np.zeros(3), np.zeros(3)
    levels = LEVELS[1:3]
    for seed in range(6):
        h, w = moment(cols, seed, cols) + 0.02 * np.eye(cols), weights(4, cols, seed)
        curved, a = curvature(h, cols, None, 0.0), Allotment(Grid(4, cols, n), k, 0, 1)
        ref = np.array([
            brute_force_row(row, exact(h), [n] * groups, k, np.sqrt(n), levels.tolist())
            for row in w
        ])  # fmt: skip
        for which, paths in enumerate((0, 4, 64)):
            rows = Rows(w, np.full(4, np.sqrt(n)), a, [levels])
            course = steps(curved, a)
            _ = follow_paths(rows, course, paths) if paths else feed_back(rows, course, "weighted")
            got = curved.unit * row_losses(rows, curved)
            assert (got >= ref * (1 - 1e-9)).all()
            excess[which] += np.sum(got - ref)
            hits[which] += np.sum(got <= ref * (1 + 1e-9))
    assert excess[0] > excess[1] >= excess[2] and hits[0] < hits[2], (excess, hits)


@pytest.mark.parametrize(("cols", "n", "k"), [(96, 16, 12), (160, 32, 24), (100, 32, 26)])
def test_more_paths_lose_less(cols, n, k):
    w, curved = weights(60, cols), curvature(moment(cols), cols, Rotation.of(cols))
    a = Allotment(Grid(60, cols, n), k, 3 if cols % n else 0, 2)
    losses = [coded(w, curved, a, paths)[1] for paths in (0, 2, 8, 32)]
    assert losses[3] < 0.99 * losses[2] < 0.97 * losses[1] < 0.97 * losses[0], losses


def test_without_curvature_no_row_loses_more():
    """Groups don't depend on each other, and the way that the pass finds is never dropped."""
    curved, a = curvature(np.eye(96), 96, None), Allotment(Grid(80, 96, 16), 12, 0, 2)
    ref = row_losses(coded(weights(80, 96), curved, a, 0)[0], curved)
    for paths in (1, 4):
        got = row_losses(coded(weights(80, 96), curved, a, paths)[0], curved)
        assert (got <= ref * (1 + 1e-12)).all()


@pytest.mark.uncompiled
@pytest.mark.parametrize("exponent", [-40, 60])
def test_scales_by_powers_of_two_change_nothing(exponent):
    w, a = weights(3, 10), Allotment(Grid(3, 10, 4), 3, 2, 2)
    ref, told = coded(w, curvature(moment(10), 10, None), a, 4)
    for of_h, of_w in ((exponent, 0), (0, exponent)):
        curved, units = curvature(np.ldexp(moment(10), of_h), 10, None), np.full(3, 2.0)
        got, loss = coded(np.ldexp(w, of_w), curved, a, 4, np.ldexp(units, of_w))
        assert all(np.array_equal(*pair) for pair in zip(got.points, ref.points, strict=True))
        assert np.array_equal(got.fields, ref.fields)
        assert np.isclose(loss, np.ldexp(told, 2 * of_w), rtol=1e-14)


def test_company_does_not_matter():
    """Rows don't depend on each other, though they are searched together."""
    w, curved = weights(200, 64), curvature(moment(64), 64, Rotation.of(64))
    a = Allotment(Grid(200, 64, 16), 12, 0, 2)
    ref = row_losses(coded(w, curved, a, 16)[0], curved)
    got = row_losses(coded(w[::-1].copy(), curved, a, 16)[0], curved)[::-1]
    assert np.mean(np.isclose(got, ref, rtol=1e-9)) > 0.97  # ties fall by the last bits of products


# Whole tensors


@pytest.mark.parametrize("shape", [(70, 96), (9, 33), (5, 100), (3, 2, 40)])
def test_losses_are_those_of_the_decoded_weights(shape):
    cols = shape[-1]
    w, h = np.random.default_rng(shape).standard_normal(shape), moment(cols, 0, cols)
    ref = quantize_with_feedback(w, h, 3)[1].coded
    for sweeps in (0, 2):
        t, losses = quantize_with_feedback(w, h, 3, paths=8, sweeps=sweeps)
        flat, e = w.reshape(-1, cols), (w - dequantize(t)).reshape(-1, cols)
        loss = np.trace(e @ h @ e.T) / np.trace(flat @ h @ flat.T)
        assert np.isclose(losses.coded, loss, rtol=1e-6) and losses.coded < ref


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("shape", [(300, 160), (131, 65)])
def test_threads_change_nothing(shape, threads):
    w, h = weights(*shape), moment(shape[1])
    ref, got = (quantize_with_feedback(w, h, threads=one, paths=5) for one in (1, threads))
    assert ref[1] == got[1]
    assert all(np.array_equal(getattr(ref[0], part), getattr(got[0], part)) for part in PARTS)


@pytest.mark.parametrize("design", ["auto", "lloyd-max", "fitted", "quantile"])
def test_zero_rows_stay_zero(design):
    w, h = weights(9, 70), moment(70)
    w[[0, 4]], w[7] = 0.0, -2.0
    back = dequantize(quantize_with_feedback(w, h, design=design, paths=4)[0])
    assert not back[[0, 4]].any() and back[7].any()
    assert not dequantize(quantize_with_feedback(0 * w, h, design=design, paths=4)[0]).any()


def test_inputs_are_not_changed():
    w, h = weights(6, 64), moment(64)
    kept = w.copy(), h.copy()
    quantize_with_feedback(w, h, paths=3, rotate=False)
    assert np.array_equal(w, kept[0]) and np.array_equal(h, kept[1])


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"paths": 0}, "paths must be from 1 to 1024, got 0"),
        ({"paths": 1025}, "paths must be from 1 to 1024, got 1025"),
        ({"paths": 2.0}, "paths must be an integer"),
        ({"paths": 2, "search": "plain"}, "paths must be 1 with a plain search, got 2"),
    ],
)
def test_what_is_refused(how, match):
    with pytest.raises(DomainError, match=match):
        quantize_with_feedback(np.zeros((4, 64)), np.eye(64), **how)
