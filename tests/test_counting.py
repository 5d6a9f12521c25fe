"""Counting against the oracle (spec section 2)."""

import numpy as np
import pytest
from hypothesis import given

from pvq_ref import count, words
from pvq_ref.counting import MAX_NUMBER, bits, most_pulses, word_count
from pvq_ref.errors import CapacityError, DomainError
from pvq_ref.oracle import counting as oracle
from pvq_ref.rates import allot
from pvq_ref.tables import check_tables, tables
from tests.strategies import pyramids


def test_count_equals_recurrence_for_small_pyramids():
    for n in range(20):
        for k in range(20):
            assert count(n, k) == oracle.count(n, k)


@pytest.mark.parametrize(("n", "k"), [(32, 56), (128, 221), (8, 5000), (5000, 8), (300, 300)])
def test_count_equals_recurrence_for_large_pyramids(n, k):
    assert count(n, k) == oracle.count(n, k)


def test_known_counts():
    assert count(8, 4) == 2816
    assert bits(32, 56) == 101
    assert bits(128, 221) == 413
    assert count(0, 0) == 1
    assert count(0, 3) == 0


@given(pyramids())
def test_half_counts_add_up(pyramid):
    n, k = pyramid
    assert count(n, k) == oracle.half_count(n, k) + oracle.half_count(n, k + 1)


@given(pyramids())
def test_bits_and_words(pyramid):
    n, k = pyramid
    assert bits(n, k) == oracle.bits(n, k)
    assert word_count(n, k) == max(1, -(-bits(n, k) // 64))


@pytest.mark.parametrize("n", [2, 3, 4, 16, 33])
@pytest.mark.parametrize("width", [1, 2, 5, 16, 64, 65, 100])
def test_most_pulses_is_the_most(n, width):
    k = most_pulses(n, width)
    assert k == MAX_NUMBER or bits(n, k + 1) > width
    assert k == 0 or bits(n, k) <= width


def test_one_coordinate_has_one_pulse_at_most():
    assert most_pulses(1, 0) == 0
    assert most_pulses(1, 50) == 1


@pytest.mark.uncompiled
@pytest.mark.parametrize(("n", "k"), [(1, 1), (6, 5), (9, 12), (12, 40)])
def test_tables_hold_counts(n, k):
    table = tables(n, k, "fischer", 0)
    edges = table.counts
    for m in range(1, n + 1):
        for j in range(k + 1):
            pair = edges.values[int(edges.start[m, k]) + 2 * j :][:2]
            assert words.to_integer(pair[0]) == 2 * oracle.half_count(m, j)
            assert words.to_integer(pair[1]) == oracle.count(m, j)


@pytest.mark.uncompiled
@pytest.mark.parametrize("block", [1, 3, 4])
def test_prefix_sums_count_what_comes_before(block):
    n, k = 9, 14
    table = tables(n, k, "blocked", block)
    sums = table.sums
    for level in range(len(sums.start)):
        left = n - block * (level + 1)
        for pulses in range(k + 1):
            total = 0
            for a in range(pulses + 1):
                got = words.to_integer(sums.values[int(sums.start[level, pulses]) + a])
                assert got == total
                total += oracle.count(block, a) * oracle.count(left, pulses - a)
            last = int(sums.start[level, pulses]) + pulses + 1
            assert words.to_integer(sums.values[last]) == total


@pytest.mark.uncompiled
def test_wide_tables_are_refused():
    with pytest.raises(CapacityError, match="must fit in 128 MiB"):
        tables(10_000, 100_000, "fischer", 0)


@pytest.mark.parametrize("group", [8, 16, 32, 64, 128])
@pytest.mark.parametrize("target", [1, 3.25, 7.5, 8])
def test_every_target_has_tables_that_are_not_refused(group, target):
    a = allot(512, 1024, target, group, 1)
    assert check_tables(group, a.k, "blocked", 4) >= 1


@pytest.mark.uncompiled
def test_tables_that_take_too_long_are_refused():
    with pytest.raises(CapacityError, match="steps"):
        check_tables(128, 6139, "blocked", 1)


@pytest.mark.uncompiled
@pytest.mark.parametrize(
    ("n", "k", "order"),
    [(1, 40_000, "opus"), (2, 100_000, "blocked"), (8, 100_000, "blocked"), (4, 10**6, "fischer"),
     (128, 7000, "opus"), (128, 6139, "fischer")],
)  # fmt: skip
def test_large_tables_are_made_for_rates_of_compression_only(n, k, order):
    """A small file can't ask for what no compression uses."""
    with pytest.raises(CapacityError, match=f"n = {n}, k = {k}"):
        tables(n, k, order, 4 if order == "blocked" else 0)


@pytest.mark.uncompiled
def test_huge_tables_are_refused_at_once():
    with pytest.raises(CapacityError, match="n = 2147483647"):
        tables(2**31 - 1, 2**31 - 1, "fischer", 0)


@pytest.mark.uncompiled
@pytest.mark.parametrize("bad", [-1, 2.0, "3", True, None, 2**31])
def test_count_refuses(bad):
    with pytest.raises(DomainError, match="n must be"):
        count(bad, 3)
    with pytest.raises(DomainError, match="k must be"):
        count(3, bad)


def test_numpy_integers_count():
    assert count(np.int64(8), np.uint8(4)) == 2816


@pytest.mark.uncompiled
def test_unknown_order():
    with pytest.raises(
        DomainError, match="order must be one of fischer, opus, blocked, got 'fisher'"
    ):
        tables(4, 4, "fisher", 0)
