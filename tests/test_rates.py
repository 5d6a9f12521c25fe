"""Rates and the choice of pulses and gain bits (spec sections 1 and 8.6)."""

from math import log2

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pvq_ref import count
from pvq_ref.counting import bits
from pvq_ref.errors import DomainError
from pvq_ref.rates import Allotment, Grid, allot


@given(
    st.integers(1, 300),
    st.integers(8, 300),
    st.floats(2, 8),
    st.sampled_from([1, 2, 5, 8, 16, 32, 64]),
)
def test_file_rate_is_never_above_the_target(rows, cols, target, group):
    a = allot(rows, cols, target, group)
    assume(a is not None)
    assert a.file_rate <= target
    assert 8 * a.size / (rows * cols) == a.file_rate
    assert a.fractional_rate <= a.coded_rate <= a.file_rate
    assert a.k >= 1
    assert (a.tail_k >= 1) == (cols % a.grid.n > 0)


@given(st.integers(16, 200), st.integers(4, 25), st.floats(4, 8), st.integers(0, 8))
def test_one_more_bit_would_not_fit(rows, groups, target, gain_bits):
    a = allot(rows, 8 * groups, target, 8, gain_bits)
    assume(a is not None)
    width = bits(8, a.k)
    more = a.k
    while bits(8, more) == width:
        more += 1
    assert Allotment(a.grid, more, 0, gain_bits).file_rate > target


@pytest.mark.uncompiled
def test_sizes_add_up():
    a = Allotment(Grid(10, 70, 32), k=50, tail_k=7, gain_bits=3)
    index_bits = 10 * (2 * bits(32, 50) + bits(6, 7))
    assert a.index_size == -(-index_bits // 8)
    assert a.gain_size == -(-10 * 3 * 3 // 8)
    assert a.size == a.index_size + a.gain_size + 2 * 10 + 4 * 2 * 8
    assert a.coded_rate == (index_bits + 90) / 700
    fractional = 10 * (2 * log2(count(32, 50)) + log2(count(6, 7))) + 90
    assert a.fractional_rate == pytest.approx(fractional / 700)


def test_gain_bits_are_those_of_least_predicted_error():
    best = allot(512, 4096, 3.25, 32)
    errors = [allot(512, 4096, 3.25, 32, b).predicted_error() for b in range(9)]
    assert best.gain_bits == errors.index(min(errors)) == 3
    assert best.predicted_error() == min(errors)


def test_large_groups_are_cut_to_the_columns():
    a = allot(100, 24, 4, 32)
    assert (a.grid.n, a.grid.whole, a.grid.tail) == (24, 1, 0)


@pytest.mark.uncompiled
@pytest.mark.parametrize(("rows", "cols"), [(100, 1), (1, 1), (1000, 2), (0, 5), (5, 0)])
def test_nothing_fits(rows, cols):
    assert allot(rows, cols, 3.25, 32) is None


@pytest.mark.uncompiled
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": 0.9}, "bits must be from 1 to 8, got 0.9"),
        ({"target": 8.5}, "bits must be from 1 to 8"),
        ({"target": float("nan")}, "bits must be from 1 to 8"),
        ({"target": "3"}, "bits must be a number"),
        ({"target": True}, "bits must be a number"),
        ({"group": 0}, "group must be from 1"),
        ({"group": 5000}, "group must be from 1 to 4096"),
        ({"gain_bits": 9}, "gain_bits must be from 0 to 8"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(DomainError, match=message):
        allot(**({"rows": 10, "cols": 64, "target": 3.25, "group": 32} | arguments))
