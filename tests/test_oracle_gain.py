"""The oracle's gains and levels (spec section 5)."""

import math
import random
import struct
from fractions import Fraction
from itertools import combinations, pairwise

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvq_ref.errors import DomainError, ShapeError
from pvq_ref.oracle import gain, law, search

LAW = settings(deadline=None, derandomize=True, max_examples=60)
LAWS = [(4, 16), (8, 1024), (1, 5), (31, 32), (2, 3), (1, 2)]
TINY = mpmath.mpf(10) ** -25


@pytest.fixture(autouse=True)
def many_digits():
    with mpmath.workdps(law.DIGITS):
        yield


# 5.1


def test_optimal_gain_by_hand():
    assert gain.optimal_gain([3.0, -8.0], [0, -2]) == 8.0
    assert gain.optimal_gain([1.0, 1.0], [1, 1]) == 2 / math.sqrt(2)
    assert gain.optimal_gain([1e16, 1.0, -1e16], [1, 1, 1]) == 0.0  # summed in index order


def test_optimal_gain_is_the_best_amplitude():
    generator = random.Random(1)
    w = [generator.gauss(0, 1) for _ in range(6)]
    y = search(w, 5)
    best = gain.optimal_gain(w, y)
    length = math.sqrt(sum(value * value for value in y))

    def error(g):
        return sum((a - g * b / length) ** 2 for a, b in zip(w, y, strict=True))

    assert all(error(best) < error(best + step) for step in (-0.01, 0.01, 0.1))


def test_optimal_gain_of_bad_arguments():
    with pytest.raises(ShapeError, match="w must have 2 elements, got 1"):
        gain.optimal_gain([1.0], [1, 0])
    with pytest.raises(DomainError, match="at least one pulse"):
        gain.optimal_gain([1.0, 2.0], [0, 0])


# 5.2


@pytest.mark.parametrize("a", [0.5, 1, 1.5, 16, 100.5])
@pytest.mark.parametrize("b", [0.5, 1, 7.5, 40])
def test_beta_law_agrees_with_mpmath(a, b):
    a, b = mpmath.mpf(a), mpmath.mpf(b)
    mean = a / (a + b)
    for x in (mean / 7, mean / 2, mean, (1 + mean) / 2, 1 - (1 - mean) / 50):
        ref = mpmath.betainc(a, b, 0, x, regularized=True)
        assert abs(law.beta_cdf(x, a, b) - ref) < mpmath.mpf(10) ** -50


@pytest.mark.parametrize(("n", "cols"), LAWS)
def test_quantile_inverts_the_law(n, cols):
    a, b = law.parameters(n, cols)
    for p in (mpmath.mpf(1) / 512, mpmath.mpf(1) / 3, mpmath.mpf(1) / 2, mpmath.mpf(511) / 512):
        q = law.quantile(p, n, cols)
        assert abs(law.beta_cdf(q * q, a, b) - p) < mpmath.mpf(10) ** -40


def test_law_of_two_coordinates_of_four_is_known():
    # r² is uniform, so Q(p) = sqrt(p); and r of one coordinate of three is uniform itself
    assert abs(law.quantile(mpmath.mpf(1) / 4, 2, 4) - mpmath.mpf(1) / 2) < TINY
    assert abs(law.quantile(mpmath.mpf(1) / 8, 1, 3) - mpmath.mpf(1) / 8) < TINY


@pytest.mark.parametrize(("n", "cols"), LAWS)
def test_centroids_are_integrals(n, cols):
    bounds = [mpmath.mpf(0), law.quantile(0.25, n, cols), law.quantile(0.75, n, cols)]
    with mpmath.workdps(20):
        for i, (s, t) in enumerate(pairwise(bounds)):
            mass = mpmath.quad(lambda r: law.density(r, n, cols), [s, t])
            moment = mpmath.quad(lambda r: r * law.density(r, n, cols), [s, t])
            got = gain.centroids(bounds[1:], n, cols)[i]
            assert abs(got - moment / mass) < 1e-12


# 5.3


def test_mean_cosine_is_a_multiple_of_a_power_of_two():
    c = gain.mean_cosine(4, 3, vectors=50)
    assert 0.8 < c < 1
    assert c * 2**24 == int(c * 2**24)


def test_mean_cosine_of_one_coordinate_is_one():
    assert gain.mean_cosine(1, 5, vectors=10) == 1.0


def test_more_pulses_give_a_greater_cosine():
    values = [gain.mean_cosine(6, k, vectors=60) for k in (1, 2, 4, 8, 16)]
    assert values == sorted(values)
    assert values[0] < 0.8
    assert values[-1] > 0.98


def test_mean_cosine_by_hand():
    # P(2,1): the cosine is max |x_i| / ||x||; the two numbers come from the first two outputs
    outputs = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4)
    p = [(Fraction(value >> 11) + Fraction(1, 2)) / 2**53 for value in outputs]
    x = [mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(q.numerator) / q.denominator - 1) for q in p]
    ref = max(map(abs, x)) / mpmath.norm(x)
    assert gain.mean_cosine(2, 1, vectors=1) == float(mpmath.nint(ref * 2**24)) / 2**24


def test_sample_sizes():
    assert [gain.sample_size(n) for n in (1, 32, 100, 256, 257, 4096)] == [
        65536, 2048, 655, 256, 256, 256
    ]  # fmt: skip


def test_normal_numbers_at_both_ends():
    assert gain._normal(0) == -gain._normal(2**64 - 1) < -8
    assert gain._normal(2**63) == -gain._normal(2**63 - 1) > 0


# 5.4


@pytest.mark.parametrize(("n", "cols"), LAWS)
@pytest.mark.parametrize("bits", [0, 1, 2])
def test_lloyd_max_is_a_fixed_point(n, cols, bits):
    levels = gain.lloyd_max(n, cols, bits)
    moved = gain.lloyd_step(levels, n, cols)
    assert len(levels) == 2**bits
    assert all(0 < a < b < 1 for a, b in pairwise(levels))
    assert max(abs(a - b) for a, b in zip(levels, moved, strict=True)) < TINY


@pytest.mark.parametrize(("n", "cols"), LAWS)
@pytest.mark.parametrize("bits", [1, 2])
def test_designs_in_order_of_their_error(n, cols, bits):
    errors = [
        gain.level_mse(gain.law_levels(design, n, cols, bits), n, cols)
        for design in ("lloyd-max", "panter-dite-centroids", "panter-dite")
    ]
    assert 0 < errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize(("n", "cols"), [(4, 16), (1, 5)])
def test_no_small_move_improves_lloyd_max(n, cols):
    levels = gain.lloyd_max(n, cols, 2)
    best = gain.level_mse(levels, n, cols)
    for i in range(4):
        for step in (-0.001, 0.001):
            moved = [level + step * (i == j) for j, level in enumerate(levels)]
            assert gain.level_mse(moved, n, cols) > best


def test_levels_of_a_uniform_law():
    # one coordinate of three: r is uniform on (0, 1), and all designs are the same
    ref = [mpmath.mpf(2 * i + 1) / 8 for i in range(4)]
    for design in gain.DESIGNS:
        levels = gain.law_levels(design, 1, 3, 2)
        assert max(abs(a - b) for a, b in zip(levels, ref, strict=True)) < TINY
    assert abs(gain.level_mse(ref, 1, 3) - mpmath.mpf(1) / 192) < TINY  # (1/4)² / 12


def test_quantile_levels_have_equal_probability():
    levels = gain.quantile_levels(4, 16, 2)
    a, b = law.parameters(4, 16)
    got = [law.beta_cdf(level * level, a, b) for level in levels]
    assert max(abs(p - mpmath.mpf(2 * i + 1) / 8) for i, p in enumerate(got)) < TINY


def test_panter_dite_points_have_the_cube_root_density():
    # equal integrals of density^(1/3) between the levels
    levels = gain.panter_dite(4, 16, 2)
    with mpmath.workdps(20):
        masses = [
            mpmath.quad(lambda r: mpmath.cbrt(law.density(r, 4, 16)), [a, b])
            for a, b in pairwise(levels)
        ]
    assert max(masses) - min(masses) < 1e-12


def test_level_mse_of_one_level_by_integration():
    level = mpmath.mpf("0.4")
    with mpmath.workdps(20):
        ref = mpmath.quad(lambda r: (r - level) ** 2 * law.density(r, 4, 16), [0, 1])
    assert abs(gain.level_mse([level], 4, 16) - ref) < 1e-12
    # the best single level is the mean, and leaves the variance
    mean = gain.lloyd_max(4, 16, 0)[0]
    assert abs(gain.level_mse([mean], 4, 16) - (mpmath.mpf(1) / 4 - mean**2)) < TINY


@pytest.mark.parametrize("design", list(gain.DESIGNS))
def test_levels_of_whole_rows_are_the_mean_cosine(design):
    assert gain.level_table(design, 8, 8, 2, 0.75) == [0.75] * 4
    assert gain.level_mse([mpmath.mpf(1)], 8, 8) == 0


@pytest.mark.parametrize("design", list(gain.DESIGNS))
def test_level_tables_ascend_and_are_binary32(design):
    c = 0.9375
    table = gain.level_table(design, 8, 1024, 3, c)
    levels = gain.law_levels(design, 8, 1024, 3)
    assert len(table) == 8
    assert table == sorted(set(table))
    for value, level in zip(table, levels, strict=True):
        assert struct.unpack("<f", struct.pack("<f", value))[0] == value
        assert abs(value - level * c) <= level * c / 2**24


def test_binary32_rounds_once():
    half = Fraction(1, 2**24)
    assert gain.binary32(1 + half) == 1.0
    assert gain.binary32(1 + half + Fraction(1, 10**40)) == 1 + 2.0**-23
    assert gain.binary32(mpmath.mpf(1) / 3) == struct.unpack("<f", struct.pack("<f", 1 / 3))[0]


def test_bad_designs():
    with pytest.raises(DomainError, match="design must be one of"):
        gain.law_levels("best", 2, 4, 1)
    with pytest.raises(DomainError, match="n must be"):
        gain.law_levels("lloyd-max", 5, 4, 1)
    with pytest.raises(DomainError, match="bits must be"):
        gain.law_levels("lloyd-max", 2, 4, 9)
    with pytest.raises(DomainError, match="at least one element"):
        gain.fitted_levels([], 1)


def partition_error(values, cuts):
    error = Fraction(0)
    for i, j in pairwise([0, *cuts, len(values)]):
        part = values[i:j]
        mean = sum(part) / len(part)
        error += sum((value - mean) ** 2 for value in part)
    return error


@pytest.mark.parametrize("bits", [0, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_fitted_levels_are_the_best_partition(seed, bits):
    generator = random.Random(seed)
    values = sorted(Fraction(generator.random()) for _ in range(9))
    ref = min(partition_error(values, cuts) for cuts in combinations(range(1, 9), 2**bits - 1))
    levels = [Fraction(level) for level in gain.fitted_levels(map(float, values), bits)]
    got = sum(min((value - level) ** 2 for level in levels) for value in values)
    assert levels == sorted(levels)
    assert ref <= got < ref + Fraction(1, 2**40)  # the levels are rounded to binary32


def test_fitted_levels_with_few_values():
    assert gain.fitted_levels([0.5, 0.25, 0.5], 2) == [0.25, 0.5, 0.5, 0.5]
    assert gain.fitted_levels([0.5], 0) == [0.5]


# 5.5


@LAW
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8), st.floats(-1, 2))
def test_the_nearest_level_is_nearest(levels, g):
    levels = sorted(levels)
    got = gain.nearest_level(g, levels)
    distance = [abs(Fraction(g) - Fraction(level)) for level in levels]
    # the midpoint is rounded to binary64
    assert distance[got] <= min(distance) + Fraction(1, 2**52)


def test_nearest_level_by_hand():
    levels = [0.0, 0.5, 1.0]
    assert [gain.nearest_level(g, levels) for g in (-1, 0.24, 0.25, 0.74, 0.75, 9)] == [
        0, 0, 1, 1, 2, 2
    ]  # fmt: skip
    assert gain.nearest_level(0.5, [0.5, 0.5]) == 1
    assert gain.nearest_level(0.4, [0.5, 0.5]) == 0
    assert gain.nearest_level(7.0, [0.5]) == 0
