"""The oracle's counts (spec sections 1 and 2)."""

import math
from itertools import product

import pytest

from pvq_ref.errors import CapacityError, DomainError
from pvq_ref.oracle.counting import bits, count, count_closed_form, enumerate_pyramid, half_count

SMALL = [(n, k) for n in range(9) for k in range(13) if count_closed_form(n, k) <= 20000]
LARGE = [(32, 56), (128, 221), (16, 300), (300, 16), (1, 500), (500, 1), (64, 64)]


@pytest.mark.parametrize(("n", "k"), [(n, k) for n in range(5) for k in range(6)])
def test_enumeration_is_the_whole_pyramid(n, k):
    values = product(range(-k, k + 1), repeat=n)
    ref = {y for y in values if sum(map(abs, y)) == k}
    got = list(enumerate_pyramid(n, k))
    assert len(got) == len(ref)
    assert set(got) == ref


@pytest.mark.parametrize(("n", "k"), SMALL)
def test_count_is_the_number_of_vectors(n, k):
    assert count(n, k) == sum(1 for _ in enumerate_pyramid(n, k))


@pytest.mark.parametrize(("n", "k"), [(n, k) for n, k in SMALL if n >= 1])
def test_half_count_is_the_number_of_vectors_with_positive_first_coordinate(n, k):
    ref = sum(y[0] > 0 for y in enumerate_pyramid(n, k))
    assert half_count(n, k) == ref


@pytest.mark.parametrize(("n", "k"), SMALL + LARGE)
def test_closed_form_agrees_with_the_recurrence(n, k):
    assert count_closed_form(n, k) == count(n, k)


@pytest.mark.parametrize(("n", "k"), SMALL + LARGE)
def test_identities_of_section_2(n, k):
    assert count(n, k) == half_count(n, k) + half_count(n, k + 1)
    if n >= 1:
        assert count(n - 1, k) == half_count(n, k + 1) - half_count(n, k)


@pytest.mark.parametrize(("n", "k"), LARGE)
def test_count_is_symmetric_up_to_n_over_k(n, k):
    # n V(k,n) = k V(n,k): both sides count pairs; a check that shares nothing with the recurrence
    assert k * count(n, k) == n * count(k, n)


def test_known_values():
    assert count(8, 4) == 2816
    assert [count(2, k) for k in range(5)] == [1, 4, 8, 12, 16]
    assert [count(3, k) for k in range(5)] == [1, 6, 18, 38, 66]
    assert [half_count(3, k) for k in range(6)] == [0, 1, 5, 13, 25, 41]
    assert (half_count(0, 0), half_count(0, 1), half_count(1, 0)) == (1, 0, 0)


def test_widths_of_an_index():
    assert bits(32, 56) == 101
    assert bits(128, 221) == 413
    assert bits(8, 4) == 12
    assert bits(5, 0) == bits(0, 0) == 0
    assert bits(1, 7) == 1
    assert bits(2, 1) == 2
    assert bits(2, 2) == 3


@pytest.mark.parametrize(("n", "k"), [(n, k) for n, k in SMALL if count(n, k) > 0])
def test_width_is_the_least_that_holds_every_index(n, k):
    size = count(n, k)
    assert 2 ** bits(n, k) >= size
    assert bits(n, k) == 0 or 2 ** (bits(n, k) - 1) < size


@pytest.mark.parametrize("function", [count, half_count, count_closed_form, bits])
def test_negative_numbers_are_outside_the_domain(function):
    with pytest.raises(DomainError, match="n must be an integer >= 0, got -1"):
        function(-1, 2)
    with pytest.raises(DomainError, match="k must be an integer >= 0, got -2"):
        function(1, -2)


def test_an_empty_pyramid_has_no_width():
    with pytest.raises(DomainError, match="must have an element"):
        bits(0, 3)


def test_a_table_too_large_is_refused_and_the_closed_form_is_not():
    with pytest.raises(CapacityError, match="must fit"):
        count(64, 2**31 - 1)
    leading = 2**64 * math.comb(2**31 - 2, 63)  # the sum's last term, nearly all of it
    assert 0 <= bits(64, 2**31 - 1) - leading.bit_length() <= 1


def test_counts_of_a_huge_pyramid_in_two_dimensions():
    assert count_closed_form(2, 2**31 - 1) == 4 * (2**31 - 1)
