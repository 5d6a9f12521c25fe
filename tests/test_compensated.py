"""Whole tensors with error feedback (spec section 7)."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvq_ref import dequantize, quantize, quantize_with_feedback
from pvq_ref.compensated import SAMPLE, Feedback
from pvq_ref.errors import DomainError, DTypeError, NonFiniteError, ShapeError
from pvq_ref.metadata import PARTS, object_of
from pvq_ref.oracle import tensor as oracle

SHAPES = [(9, 64), (5, 35), (1, 100), (3, 2, 40), (9, 33), (40, 9), (3, 12), (70, 65)]


def weights(shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def moment(cols, seed=0, decay=1.0):
    """A Hessian with a spectrum that decays, in directions of its own."""
    rng = np.random.default_rng([seed, cols])
    q = np.linalg.qr(rng.standard_normal((cols, cols)))[0]
    h = (q / np.arange(1, cols + 1) ** decay) @ q.T
    return (h + h.T) / 2


def same(one, other):
    return object_of(one) == object_of(other) and all(
        np.array_equal(getattr(one, part), getattr(other, part)) for part in PARTS
    )


def relative_loss(w, back, h):
    cols = w.shape[-1]
    w, e = w.reshape(-1, cols).astype(float), (w.astype(float) - back).reshape(-1, cols)
    return np.trace(e @ h @ e.T) / np.trace(w @ h @ w.T)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rotate", [True, False])
def test_losses_are_those_of_the_decoded_weights(shape, rotate):
    w, h = weights(shape), moment(shape[-1])
    t, losses = quantize_with_feedback(w, h, 4, rotate=rotate, seed=3)
    assert t.rates.file <= 4 and t.shape == shape
    assert np.isclose(losses.coded, relative_loss(w, dequantize(t), h), rtol=1e-6, atol=0)
    got = dequantize(t).reshape(-1, shape[-1]).tolist()
    assert got == oracle.decode({part: getattr(t, part).tobytes() for part in PARTS}, object_of(t))


@pytest.mark.parametrize("shape", [(64, 64), (33, 70), (100, 128)])
def test_feedback_helps(shape):
    w, h = weights(shape), moment(shape[-1])
    free = relative_loss(w, dequantize(quantize(w)), h)
    losses = [
        quantize_with_feedback(w, h, search=search, sweeps=sweeps)[1]
        for search, sweeps in (("plain", 0), ("weighted", 0), ("weighted", 4))
    ]
    got = [free, *(one.coded for one in losses)]
    assert got[0] > 1.2 * got[1] and got[1] > 1.03 * got[2] and got[2] > got[3], got
    for one in losses:
        assert np.isclose(one.without, free, rtol=0.15)


@pytest.mark.parametrize("design", ["lloyd-max", "quantile"])
def test_the_loss_without_feedback_is_that_of_quantize(design):
    w, h = weights((SAMPLE, 96)), moment(96)
    _, losses = quantize_with_feedback(w, h, design=design, search="plain", sweeps=0)
    ref = relative_loss(w, dequantize(quantize(w, design=design)), h)
    assert np.isclose(losses.without, ref, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rotate", [True, False])
def test_without_curvature_it_is_quantize(shape, rotate):
    w = weights(shape)
    how = {"bits": 4, "rotate": rotate, "seed": 9, "design": "lloyd-max"}
    ref = quantize(w, **how)
    for h in (np.eye(shape[-1]), 1e-5 * np.eye(shape[-1]), np.zeros((shape[-1],) * 2)):
        got, losses = quantize_with_feedback(w, h, search="plain", sweeps=0, **how)
        assert same(ref, got)
        if shape[0] <= SAMPLE:
            assert np.isclose(losses.coded, losses.without, rtol=1e-12)


@pytest.mark.uncompiled
def test_without_curvature_it_is_quantize_on_one_tail():
    w, how = weights((3, 20)), {"bits": 6, "group": 8, "design": "lloyd-max"}
    got, _ = quantize_with_feedback(w, np.eye(20), search="plain", sweeps=0, **how)
    assert same(quantize(w, **how), got)


@pytest.mark.uncompiled
def test_a_small_tensor_with_a_tail():
    w, h = weights((3, 20)), moment(20)
    t, losses = quantize_with_feedback(w, h, 6, 8)
    assert np.isclose(losses.coded, relative_loss(w, dequantize(t), h), rtol=1e-6, atol=0)
    assert losses.coded < losses.without


def test_more_columns_in_a_group_than_there_are():
    w, h = weights((20, 12)), moment(12)
    got, losses = quantize_with_feedback(w, h, 5, 32)
    assert same(got, quantize_with_feedback(w, h, 5, 12)[0])
    assert losses.coded < losses.without


@pytest.mark.parametrize("group", [1, 2])
def test_groups_of_one_column(group):
    w, h = weights((30, 9)), moment(9)
    t, losses = quantize_with_feedback(w, h, 7, group, rotate=False)
    assert t.allotment.grid.n == group
    assert np.isclose(losses.coded, relative_loss(w, dequantize(t), h), rtol=1e-6, atol=0)
    assert losses.coded < losses.without


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("shape", [(300, 160), (131, 65)])
def test_threads_change_nothing(shape, threads):
    w, h = weights(shape), moment(shape[-1])
    ref = quantize_with_feedback(w, h, threads=1)
    got = quantize_with_feedback(w, h, threads=threads)
    assert same(ref[0], got[0]) and ref[1] == got[1]


@settings(max_examples=20)
@given(st.integers(-200, 200), st.integers(-30, 30))
def test_powers_of_two_change_nothing_but_the_exponent(of_h, of_w):
    w, h = weights((3, 40)), moment(40)
    ref, losses = quantize_with_feedback(w, h)
    got, again = quantize_with_feedback(np.ldexp(w, of_w), np.ldexp(h, of_h))
    for part in PARTS:
        assert np.array_equal(getattr(ref, part), getattr(got, part))
    assert got.norm_exponent == ref.norm_exponent + of_w and losses == again


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_scales_of_hessians(scale):
    w, h = weights((20, 40)), moment(40)
    ref = quantize_with_feedback(w, h)[1]
    assert np.isclose(quantize_with_feedback(w, scale * h)[1].coded, ref.coded, rtol=0.02)


@pytest.mark.parametrize("scale", [1e-160, 1e-30, 1e100])
def test_scales_of_weights(scale):
    w, h = weights((20, 40)), moment(40)
    ref = quantize_with_feedback(w, h)[1]
    with np.errstate(under="ignore"):
        assert np.isclose(quantize_with_feedback(w * scale, h)[1].coded, ref.coded, rtol=0.1)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_types_of_weights(dtype):
    w, h = weights((8, 64)).astype(dtype), moment(64)
    ref = quantize_with_feedback(w.astype(np.float64), h)[0]
    got, _ = quantize_with_feedback(w, h.astype(np.float32).astype(np.float64))
    assert got.dtype != ref.dtype
    got = quantize_with_feedback(w, h)[0]
    assert all(np.array_equal(getattr(ref, part), getattr(got, part)) for part in PARTS)


@pytest.mark.parametrize("design", ["auto", "lloyd-max", "fitted", "quantile"])
@pytest.mark.parametrize("sweeps", [0, 2])
def test_zero_rows_and_constant_rows(design, sweeps):
    w, h = weights((9, 70)), moment(70)
    w[[0, 4]], w[7] = 0.0, -2.0
    t, losses = quantize_with_feedback(w, h, design=design, sweeps=sweeps)
    back = dequantize(t)
    assert not back[[0, 4]].any() and t.design == (design if design != "auto" else t.design)
    assert np.isclose(losses.coded, relative_loss(w, back, h), rtol=1e-6)
    assert losses.coded < 0.05


@pytest.mark.parametrize("design", ["auto", "fitted", "lloyd-max"])
def test_zero_tensor(design):
    t, losses = quantize_with_feedback(np.zeros((4, 64)), moment(64), design=design)
    assert not dequantize(t).any() and losses.coded == losses.without == 0.0


@pytest.mark.parametrize("rotate", [True, False])
def test_inputs_that_are_never_seen_or_seen_twice(rotate):
    w, h = weights((20, 48)), moment(48)
    h[:, 5], h[5] = 0.0, 0.0
    h[:, 30], h[30] = h[:, 7], h[7]
    h[30, 30] = h[7, 7]
    h[30, 7] = h[7, 30] = h[7, 7]
    t, losses = quantize_with_feedback(w, h, rotate=rotate)
    assert np.isclose(losses.coded, relative_loss(w, dequantize(t), h), rtol=1e-7)
    assert losses.coded < losses.without
    with pytest.raises(DomainError, match="positive definite"):
        quantize_with_feedback(w, h, rotate=False, damping=0)


def test_no_damping():
    w, h = weights((20, 48)), moment(48)
    t, losses = quantize_with_feedback(w, h, damping=0)
    assert np.isclose(losses.coded, relative_loss(w, dequantize(t), h), rtol=1e-6, atol=0)


def test_huge_damping_is_no_feedback():
    w, h = weights((20, 64)), moment(64)
    ref = dequantize(quantize(w, design="lloyd-max"))
    t, _ = quantize_with_feedback(w, h, design="lloyd-max", damping=1e6, search="plain", sweeps=0)
    assert np.mean(dequantize(t) == ref) > 0.9


@pytest.mark.parametrize("order", ["fischer", "opus"])
def test_orders_change_only_the_indices(order):
    w, h = weights((6, 64)), moment(64)
    ref, got = (quantize_with_feedback(w, h, order=one)[0] for one in ("blocked", order))
    assert np.array_equal(dequantize(ref), dequantize(got))


def test_fitted_levels_fit_targets_better_than_the_law():
    """Weights that the Hessian draws far from a sphere: unrotated, a few of them large."""
    w, h = weights((64, 128)) * (1 + 9 * (weights((64, 128), 1) > 2)), moment(128)
    got, losses = quantize_with_feedback(w, h, rotate=False)
    assert got.design == "fitted"
    law = quantize_with_feedback(w, h, rotate=False, design="lloyd-max")[1]
    assert losses.coded < 0.98 * law.coded


def test_inputs_are_not_changed():
    w, h = weights((6, 64)), moment(64)
    kept = w.copy(), h.copy()
    quantize_with_feedback(w, h, sweeps=1)
    quantize_with_feedback(w, h, rotate=False)
    assert np.array_equal(w, kept[0]) and np.array_equal(h, kept[1])


def test_progress_is_told_in_rows():
    from pvq_ref.compensated import encode
    from pvq_ref.curvature import curvature
    from pvq_ref.encoding import coding_for

    w, rows = weights((150, 64)), []
    coding = coding_for(w.shape)
    encode(lambda start, stop: w[start:stop], w.shape, "F64", coding, "auto",
           curvature(moment(64), 64, coding.rotation), Feedback(), 2, rows.append)  # fmt: skip
    assert sum(rows) == 150 and len(rows) > 1


@pytest.mark.parametrize(
    ("w", "h", "how", "error", "match"),
    [
        (np.zeros(4), np.eye(4), {}, ShapeError, "two dimensions"),
        (np.zeros((4, 4), int), np.eye(4), {}, DTypeError, "float"),
        (np.full((4, 64), np.nan), np.eye(64), {}, NonFiniteError, "weights must be finite"),
        (np.zeros((4, 64)), np.eye(65), {}, ShapeError, r"hessian must be of shape \(64, 64\)"),
        (np.zeros((4, 64)), np.full((64, 64), np.nan), {}, NonFiniteError, "hessian must be fin"),
        (np.zeros((4, 64)), np.tri(64), {}, DomainError, "hessian must be symmetric"),
        (np.zeros((4, 64)), -np.eye(64), {}, DomainError, "no negative diagonal"),
        (np.zeros((4, 64)), np.eye(64) * 1j, {}, DTypeError, "hessian must be of real numbers"),
        (np.zeros((4, 64)), np.eye(64), {"bits": 9}, DomainError, "bits must be"),
        (np.zeros((1, 1)), np.eye(1), {}, DomainError, "bits must allow at least one pulse"),
        (np.zeros((4, 64)), np.eye(64), {"damping": -1}, DomainError, "damping must be from 0"),
        (np.zeros((4, 64)), np.eye(64), {"search": "best"}, DomainError, "search must be one of"),
        (np.zeros((4, 64)), np.eye(64), {"sweeps": -1}, DomainError, "sweeps must be from 0"),
        (np.zeros((4, 64)), np.eye(64), {"sweeps": 1.0}, DomainError, "sweeps must be an integer"),
        (np.zeros((4, 64)), np.eye(64), {"design": "best"}, DomainError, "design must be one of"),
        (np.zeros((4, 64)), np.eye(64), {"threads": 0}, DomainError, "threads must be from 1"),
    ],
)
def test_what_is_refused(w, h, how, error, match):
    with pytest.raises(error, match=match):
        quantize_with_feedback(w, h, **how)
