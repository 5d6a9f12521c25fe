"""The baselines of bench/ against plain restatements, and their laws."""

import math

import numpy as np
import pytest
from scipy.linalg import cholesky

from baselines import LloydMax, Setting, quantize, stored_bits
from pvq_ref.rotation import Rotation
from scalar import lloyd_max_error, lloyd_max_levels
from uniform_grid import SCALES, Uniform, _half

GRIDS = [
    *(Uniform(levels, 16, scale) for scale in SCALES for levels in (2, 3, 8)),
    *(Uniform(6, 20, scale, clip=True) for scale in SCALES),
    LloydMax(5),
    LloydMax(8, group=16),
    LloydMax(5, group=16, more=0.4),
]


def names(grid):
    return str(grid).replace(" ", "")


def correlated(rows=24, cols=72, seed=0):
    """Weights, and the Hessian of inputs that depend on each other."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((5 * cols, cols // 3)) @ rng.standard_normal((cols // 3, cols))
    x += 0.3 * rng.standard_normal(x.shape)
    return rng.standard_normal((rows, cols)) * 0.05, x.T @ x / len(x)


def loss(w, decoded, h):
    return np.sum(((w - decoded) @ h) * (w - decoded))


# ---------------------------------------------------------------- plain versions


def half(value):
    return float(np.float16(value))


def plain_uniform(group, levels, scale, factor):
    """All values that a group may take, from their definition."""
    low, high = min(group), max(group)
    if scale == "absmax":
        first = max(group, key=abs)
        step = half(-factor * first / (levels // 2))
        return [step * (i - levels // 2) for i in range(levels)]
    if scale == "minmax":
        low, high = factor * min(low, 0.0), factor * max(high, 0.0)
        step = half((high - low) / (levels - 1))
        zero = min(max(round(-low / step), 0), levels - 1) if step else 0
        return [step * (i - zero) for i in range(levels)]
    middle, reach = (low + high) / 2, (high - low) / 2
    step = half(2 * factor * reach / (levels - 1))
    return [half(middle - factor * reach) + step * i for i in range(levels)]


def nearest(value, values):
    return min(values, key=lambda one: abs(one - value))


def plain_values(group, row, grid, number):
    if isinstance(grid, LloydMax):
        extra = math.floor((number + 1) * grid.more) - math.floor(number * grid.more)
        scale = half(np.linalg.norm(row)) / math.sqrt(len(row))
        return [scale * level for level in lloyd_max_levels(grid.levels + extra)]
    factors = [1 - 0.025 * i for i in range(25)] if grid.clip else [1.0]
    choices = [plain_uniform(group, grid.levels, grid.scale, factor) for factor in factors]
    return min(choices, key=lambda v: sum((x - nearest(x, v)) ** 2 for x in group))


def plain_quantize(w, h, setting):
    """GPTQ column by column, with the factor of the inverse that its text uses; h None: no errors
    are fed back.
    """
    w, grid, cols = w.copy(), setting.grid, w.shape[1]
    turn = np.eye(cols)
    if setting.rotate:
        Rotation.of(cols, setting.seed).forward(turn)  # rows R e_i: the transpose of R
    w = w @ turn
    rows = w.copy()
    factor = np.eye(cols)
    if h is not None:
        h = turn.T @ h @ turn
        h += setting.damping * np.mean(np.diag(h)) * np.eye(cols)
        factor = cholesky(np.linalg.inv(h), lower=False)
    decoded = np.empty_like(w)
    for c in range(cols):
        if c % grid.group == 0:
            values = [
                plain_values(list(one[c : c + grid.group]), row, grid, c // grid.group)
                for one, row in zip(w, rows, strict=True)
            ]
        decoded[:, c] = [nearest(x, v) for x, v in zip(w[:, c], values, strict=True)]
        w[:, c + 1 :] -= np.outer((w[:, c] - decoded[:, c]) / factor[c, c], factor[c, c + 1 :])
    return decoded @ turn.T


# ---------------------------------------------------------------- the same as they


def test_binary16():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(20000) * np.exp2(rng.integers(-30, 18, 20000))
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
    every = every[np.isfinite(every)]
    ties = np.sort(every)[:-1] + np.diff(np.sort(every)) / 2
    x = np.concatenate([x, every, ties, [65504.0, 65519.99, 65520.0, -65520.0, 1e300]])
    with np.errstate(over="ignore"):
        ref = x.astype(np.float16).astype(np.float64)
    got = np.array([_half(one) for one in x])
    np.testing.assert_array_equal(got, ref)


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("grid", GRIDS, ids=names)
def test_round_to_nearest(grid, rotate):
    w, _ = correlated()
    w[3], w[5, :20] = 0.0, 0.0
    setting = Setting(grid, rotate, seed=5)
    got, _ = quantize(w, None, setting)
    np.testing.assert_allclose(got, plain_quantize(w, None, setting), rtol=0, atol=1e-15)


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("grid", GRIDS, ids=names)
def test_feedback(grid, rotate):
    w, h = correlated()
    setting = Setting(grid, rotate, seed=5, damping=0.02)
    got, _ = quantize(w, h, setting)
    np.testing.assert_allclose(got, plain_quantize(w, h, setting), rtol=0, atol=1e-12)


@pytest.mark.uncompiled
def test_feedback_of_few_rows():
    w, h = correlated(3, 36)
    for grid in GRIDS:
        got, _ = quantize(w, h, Setting(grid, True))
        ref = plain_quantize(w, h, Setting(grid, True))
        np.testing.assert_allclose(got, ref, rtol=0, atol=1e-12)


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if grid.levels > 2], ids=names)
def test_feedback_lowers_the_loss_of_the_outputs(grid):
    w, h = correlated(200)
    for rotate in (False, True):
        alone, _ = quantize(w, None, Setting(grid, rotate))
        fed, _ = quantize(w, h, Setting(grid, rotate))
        assert loss(w, fed, h) < 0.85 * loss(w, alone, h)


@pytest.mark.parametrize("grid", GRIDS, ids=names)
def test_without_correlation_there_is_no_feedback(grid):
    w, h = correlated()
    alone, _ = quantize(w, None, Setting(grid))
    for one in (np.eye(72), np.diag(np.arange(1.0, 73.0)), np.zeros((72, 72))):
        got, _ = quantize(w, one, Setting(grid))
        np.testing.assert_array_equal(got, alone)
    damped, _ = quantize(w, h, Setting(grid, damping=1e6))
    np.testing.assert_allclose(damped, alone, rtol=0, atol=2e-4)  # scales may round otherwise
    fed, _ = quantize(w, h, Setting(grid))
    assert np.abs(fed - alone).max() > 1e-2


@pytest.mark.parametrize("grid", GRIDS, ids=names)
def test_rows_and_threads_do_not_matter_and_inputs_stay(grid):
    w, h = correlated(150)
    before = w.copy(), h.copy()
    one, bits = quantize(w, h, Setting(grid, True), threads=1)
    two, _ = quantize(w, h, Setting(grid, True), threads=3)
    np.testing.assert_array_equal(one, two)
    part, few = quantize(w[70:80], h, Setting(grid, True))
    np.testing.assert_allclose(part, one[70:80], rtol=0, atol=1e-14)
    assert few < bits
    np.testing.assert_array_equal(w, before[0])
    np.testing.assert_array_equal(h, before[1])


def test_a_group_takes_no_more_values_than_are_stored():
    w, h = correlated()
    for grid in GRIDS[:-2]:
        got, _ = quantize(w, h, Setting(grid))
        for start in range(0, 72, grid.group):
            part = got[:, start : start + grid.group]
            assert max(len(np.unique(row)) for row in part) <= grid.levels


def test_extremes_are_kept():
    w, _ = correlated()
    w = w.astype(np.float16).astype(np.float64)
    w[:, 16] = 0.0
    for levels in (2, 3, 8):
        absmax, _ = quantize(w, None, Setting(Uniform(levels, 72, "absmax")))
        rows = np.arange(len(w)), np.abs(w).argmax(axis=1)
        np.testing.assert_allclose(absmax[rows], w[rows], rtol=2**-11)
        minmax, _ = quantize(w, None, Setting(Uniform(levels, 72, "minmax")))
        assert (minmax[:, 16] == 0.0).all()
        offset, _ = quantize(w, None, Setting(Uniform(levels, 72, "offset")))
        np.testing.assert_array_equal(offset.min(axis=1), w.min(axis=1))
        np.testing.assert_allclose(offset.max(axis=1), w.max(axis=1), rtol=2**-9)


@pytest.mark.parametrize("scale", SCALES)
def test_clipping_never_loses(scale):
    w, _ = correlated(100)
    whole, _ = quantize(w, None, Setting(Uniform(4, 16, scale)))
    clipped, _ = quantize(w, None, Setting(Uniform(4, 16, scale, clip=True)))
    errors = [
        np.sum((w - one)[:, :64].reshape(100, 4, 16) ** 2, axis=2) for one in (whole, clipped)
    ]
    assert (errors[1] <= errors[0]).all() and errors[1].sum() < 0.95 * errors[0].sum()


def test_levels_for_normal_numbers():
    np.testing.assert_allclose(lloyd_max_levels(2), np.sqrt(2 / np.pi) * np.array([-1, 1]))
    np.testing.assert_allclose(lloyd_max_levels(4), [-1.5104, -0.4528, 0.4528, 1.5104], atol=1e-4)
    w = np.random.default_rng(3).standard_normal((64, 1024))
    for rate in (2, 3):
        got, _ = quantize(w, None, Setting(LloydMax(1 << rate), rotate=True))
        assert np.mean((w - got) ** 2) == pytest.approx(lloyd_max_error(rate), rel=0.02)


def test_bits():
    assert stored_bits(10, 576, Uniform(8, 64, "offset")) == 35 * 576  # 3 + 32/64 a weight
    assert stored_bits(10, 576, Uniform(8, 32, "absmax")) == 35 * 576
    assert stored_bits(16, 576, Uniform(8, 64, "minmax")) == 16 * (3 * 576 + 9 * 19)
    assert stored_bits(1, 65, Uniform(8, 64, "minmax")) == 200 + 2 * 16 + 8  # whole bytes
    assert stored_bits(8, 100, LloydMax(8)) == 8 * (300 + 16)
    # 11^10 - 1 = 25937424600 takes 35 bits; 3 rows of 35 take 14 bytes
    assert stored_bits(3, 10, LloydMax(11)) == 112 + 3 * 16
    assert stored_bits(576, 576, LloydMax(11)) / 576**2 == pytest.approx(math.log2(11), abs=0.03)
    # five groups of 16, 6 levels in the third and the fifth (8 wide): 5^48 · 6^24 takes 174 bits
    assert LloydMax(5, 16, 0.4).counts(72) == [5, 5, 6, 5, 6]
    assert stored_bits(2, 72, LloydMax(5, 16, 0.4)) == 8 * 44 + 2 * 16
    assert stored_bits(8, 100, LloydMax(5, more=1.0)) == stored_bits(8, 100, LloydMax(6))
    for grid in GRIDS:
        assert quantize(*correlated(), Setting(grid))[1] == stored_bits(24, 72, grid)


def test_bad_input():
    for grid in (Uniform(4, 16, "absmax"), LloydMax(4)):
        for value, said in ((np.nan, "finite"), (1e6, "binary16")):
            w = np.zeros((4, 16))
            w[1, 2] = value
            with pytest.raises(ValueError, match=said):
                quantize(w, None, Setting(grid))
    for make in (
        lambda: Uniform(1, 16, "absmax"),
        lambda: Uniform(4, 0, "absmax"),
        lambda: Uniform(4, 16, "max"),
        lambda: LloydMax(1),
        lambda: LloydMax(5, more=1.1),
    ):
        with pytest.raises(ValueError, match="levels"):
            make()
