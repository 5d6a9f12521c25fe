"""Gains and level designs against the oracle, and against their definitions (spec section 5)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvq_ref import search
from pvq_ref.errors import DomainError, ShapeError
from pvq_ref.gain import (
    DESIGNS,
    BetaLaw,
    cosines,
    design_levels,
    fitted_levels,
    law_levels,
    nearest_levels,
    optimal_gains,
)
from pvq_ref.oracle import gain as oracle

LAWS = [(8, 64), (32, 576), (32, 33), (1, 5), (2, 3), (64, 1536), (17, 4096)]


@pytest.mark.uncompiled
@given(st.lists(st.tuples(st.floats(-9, 9), st.integers(-5, 5)), min_size=1, max_size=9))
def test_optimal_gain_equals_oracle(pairs):
    w, y = [p[0] for p in pairs], [p[1] for p in pairs]
    y[0] = y[0] or 1
    got = optimal_gains(np.array([w]), np.array([y], np.int32))
    assert got.tolist() == [oracle.optimal_gain(w, y)]


@given(st.floats(-0.5, 0.5))
def test_no_other_gain_is_better(change):
    rng = np.random.default_rng(1)
    w = rng.standard_normal((20, 8))
    y = search(w, 5)
    unit = y / np.sqrt(np.sum(y.astype(float) ** 2, axis=1, keepdims=True))
    g = optimal_gains(w, y)[:, None]
    best = np.sum((w - g * unit) ** 2, axis=1)
    assert np.all(np.sum((w - (g + change) * unit) ** 2, axis=1) >= best - 1e-12)


@pytest.mark.uncompiled
def test_optimal_gain_refuses():
    with pytest.raises(ShapeError, match="w and y must have one shape"):
        optimal_gains(np.ones((2, 3)), np.ones((2, 4), np.int32))
    with pytest.raises(DomainError, match="y must not be zero"):
        optimal_gains(np.ones((2, 3)), np.zeros((2, 3), np.int32))


@pytest.mark.parametrize(("n", "cols"), LAWS)
def test_law_has_the_moments_of_sphere_points(n, cols):
    law = BetaLaw(n, cols)
    x = np.random.default_rng(2).standard_normal((20_000, cols)) if cols < 100 else None
    if x is not None:
        r = np.sqrt(np.sum(x[:, :n] ** 2, axis=1) / np.sum(x**2, axis=1))
        places = np.quantile(r, [0.1, 0.5, 0.9])
        assert np.allclose(law.cdf(places), [0.1, 0.5, 0.9], atol=0.01)
    p = np.linspace(0.01, 0.99, 9)
    assert np.allclose(law.cdf(law.quantile(p)), p, atol=1e-10)
    mass, moment = law.masses_and_moments(np.linspace(0, 1, 50))
    assert np.isclose(mass.sum(), 1)
    assert law.quantile(0.001) < moment.sum() < law.quantile(0.999)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("gain_bits", [0, 1, 3, 4])
@pytest.mark.parametrize(("n", "cols"), LAWS)
def test_levels_equal_oracle(design, gain_bits, n, cols):
    ref = [float(level) for level in oracle.law_levels(design, n, cols, gain_bits)]
    got = law_levels(design, BetaLaw(n, cols), gain_bits)
    assert np.allclose(got, ref, rtol=1e-9, atol=0)


@pytest.mark.parametrize("design", DESIGNS)
def test_stored_levels_equal_oracle_bit_for_bit(design):
    c = cosines(16, 12).mean
    ref = oracle.level_table(design, 16, 576, 3, c)
    assert design_levels(design, 16, 12, 576, 3).tolist() == ref


@pytest.mark.parametrize(("n", "k"), [(8, 5), (256, 3)])
def test_mean_cosine_equals_oracle_on_its_first_vectors(n, k, monkeypatch):
    from pvq_ref import gain

    monkeypatch.setattr(gain, "SAMPLE", 0)  # 256 vectors
    cosines.cache_clear()
    got = cosines(n, k).mean
    cosines.cache_clear()
    assert got == oracle.mean_cosine(n, k, vectors=256)


def test_mean_cosine_is_near_that_of_other_samples():
    x = np.random.default_rng(3).standard_normal((4000, 32))
    y = search(x, 21)
    ref = np.mean(optimal_gains(x, y) / np.sqrt(np.sum(x * x, axis=1)))
    assert abs(cosines(32, 21).mean - ref) < 1e-3


@pytest.mark.parametrize("gain_bits", [1, 2, 3, 4, 6])
@pytest.mark.parametrize(("n", "cols"), LAWS)
def test_designs_stand_in_their_order(n, cols, gain_bits):
    law = BetaLaw(n, cols)
    error = {name: law.distortion(law_levels(name, law, gain_bits)) for name in DESIGNS}
    assert error["lloyd-max"] <= error["panter-dite-centroids"] <= error["panter-dite"]
    assert error["lloyd-max"] <= error["quantile"]


@pytest.mark.parametrize("gain_bits", [1, 3, 8])
@pytest.mark.parametrize(("n", "cols"), [*LAWS, (4096, 5000), (500, 576), (3, 4096)])
def test_lloyd_max_is_a_fixed_point(n, cols, gain_bits):
    law = BetaLaw(n, cols)
    levels = law_levels("lloyd-max", law, gain_bits)
    borders = np.concatenate(([0.0], (levels[:-1] + levels[1:]) / 2, [1.0]))
    mass, moment = law.masses_and_moments(borders)
    assert np.all(np.diff(levels) > 0)
    assert np.allclose(moment / mass, levels, atol=1e-9)


def test_distortion_equals_oracle():
    levels = law_levels("quantile", BetaLaw(8, 64), 2)
    ref = float(oracle.level_mse(levels.tolist(), 8, 64))
    assert np.isclose(BetaLaw(8, 64).distortion(levels), ref, rtol=1e-10)


@pytest.mark.parametrize("design", DESIGNS)
def test_point_law_has_equal_levels(design):
    assert design_levels(design, 8, 5, 8, 2).tolist() == [np.float32(cosines(8, 5).mean)] * 4


@given(st.integers(1, 12), st.integers(0, 2), st.integers(0, 99))
def test_fitted_levels_are_centroids_of_their_gains(size, gain_bits, seed):
    gains = np.random.default_rng(seed).random(
        size
    )  # no gain is as near to one level as to another
    levels = fitted_levels(gains, gain_bits)
    assert np.all(np.diff(levels) >= 0)
    number = nearest_levels(gains, levels)
    for level in set(number.tolist()):
        assert np.isclose(levels[level], gains[number == level].mean(), rtol=1e-6, atol=1e-7)


def test_fitted_levels_are_near_the_best_ones():
    gains = np.random.default_rng(4).beta(5, 20, 40)
    got = fitted_levels(gains, 2)
    ref = np.array(oracle.fitted_levels(gains.tolist(), 2))

    def error(levels):
        return np.sum(np.min((gains[:, None] - levels) ** 2, axis=1))

    assert error(ref) <= error(got) * (1 + 1e-6)
    assert error(got) < 1.5 * error(ref)


@pytest.mark.parametrize("gain_bits", range(9))
def test_fitted_levels_are_as_good_as_those_of_the_law_on_its_own_gains(gain_bits):
    law = BetaLaw(32, 576)
    gains = law.quantile(np.random.default_rng(5).random(30_000))

    def error(levels):
        return np.sum((gains - levels[nearest_levels(gains, levels)]) ** 2)

    lloyd_max = law_levels("lloyd-max", law, gain_bits).astype(np.float32)
    assert error(fitted_levels(gains, gain_bits)) <= 1.01 * error(lloyd_max)


@given(st.lists(st.floats(0, 2, width=32), min_size=4, max_size=4), st.floats(-1, 3))
def test_nearest_level_equals_oracle(levels, g):
    levels = sorted(levels)
    got = nearest_levels(np.array([g]), np.array(levels, np.float32))
    assert got.tolist() == [oracle.nearest_level(g, levels)]


@pytest.mark.uncompiled
def test_unknown_design():
    with pytest.raises(DomainError, match="design must be one of quantile"):
        design_levels("best", 8, 5, 64, 2)


@pytest.mark.uncompiled
@pytest.mark.parametrize("gain_bits", [-1, 9, 1.5])
def test_gain_bits(gain_bits):
    with pytest.raises(DomainError, match="gain_bits must be"):
        design_levels("lloyd-max", 8, 5, 64, gain_bits)


@pytest.mark.uncompiled
@pytest.mark.parametrize(("n", "cols"), [(0, 5), (6, 5)])
def test_law_needs_a_group_in_a_row(n, cols):
    with pytest.raises(DomainError):
        BetaLaw(n, cols)
