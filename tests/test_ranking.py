"""Ranking against the oracle and against enumeration (spec section 3)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvq_ref import count, oracle, rank, tables, unrank, words
from pvq_ref.counting import word_count
from pvq_ref.errors import (
    CapacityError,
    DomainError,
    DTypeError,
    IndexRangeError,
    PyramidError,
    ShapeError,
)
from pvq_ref.oracle.counting import enumerate_pyramid
from tests.strategies import ORDERS, pyramids_and_indices

CASES = [("fischer", 4), ("opus", 4), *(("blocked", block) for block in (1, 2, 3, 4, 8, 100))]


def integers(index):
    return [words.to_integer(row) for row in index]


def small_pyramids(most):
    return [(n, k) for n in range(1, 13) for k in range(30) if 0 < count(n, k) <= most]


def check_whole_pyramid(n, k, order, block):
    y = np.array(list(enumerate_pyramid(n, k)), np.int32)
    ref = [oracle.rank(row, order, block) for row in y.tolist()]
    got = rank(y, order, block)
    assert integers(got) == ref
    assert sorted(ref) == list(range(count(n, k)))
    assert np.array_equal(unrank(got, n, k, order, block), y)


@pytest.mark.parametrize(("order", "block"), CASES)
def test_every_vector_of_small_pyramids(order, block):
    for n, k in small_pyramids(300):
        check_whole_pyramid(n, k, order, block)


@pytest.mark.uncompiled
@pytest.mark.parametrize(("order", "block"), CASES)
def test_every_vector_of_tiny_pyramids(order, block):
    for n, k in small_pyramids(25):
        check_whole_pyramid(n, k, order, block)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_every_vector_up_to_200000(order):
    for n, k in small_pyramids(200_000):
        y = np.array(list(enumerate_pyramid(n, k)), np.int32)
        got = rank(y, order)[:, 0]
        if order == "fischer":  # the order of the enumeration itself
            assert np.array_equal(got, np.arange(len(y), dtype=np.uint64))
        assert np.array_equal(np.sort(got), np.arange(len(y), dtype=np.uint64))
        assert np.array_equal(unrank(got[:, None], n, k, order), y)
        step = max(1, len(y) // 500)
        ref = [oracle.rank(row, order) for row in y[::step].tolist()]
        assert got[::step].tolist() == ref


@pytest.mark.parametrize(("order", "block"), CASES)
@given(case=pyramids_and_indices())
def test_unrank_equals_oracle_and_rank_is_its_inverse(case, order, block):
    n, k, indices = case
    index = words.from_integers(indices, word_count(n, k))
    got = unrank(index, n, k, order, block)
    ref = [oracle.unrank(i, n, k, order, block) for i in indices]
    assert got.tolist() == [list(y) for y in ref]
    assert np.array_equal(rank(got, order, block), index)


@pytest.mark.parametrize(("order", "block"), CASES)
@pytest.mark.parametrize(
    ("n", "k"), [(32, 56), (64, 111), (128, 221), (16, 27), (8, 36), (4, 4000), (24, 24), (32, 22)]
)
def test_boundary_indices_of_large_pyramids(n, k, order, block):
    last = count(n, k) - 1
    u, u1 = oracle.counting.half_count(n, k), oracle.counting.half_count(n, k + 1)
    places = [0, 1, last // 2, last // 2 + 1, last - 1, last]
    places += [u - 1, u, u + 1, u1 - 1, u1, u1 + 1]
    places += [2**64 - 1, 2**64, 2**64 + 1, 2**128 - 1, 2**128]
    indices = [i for i in places if 0 <= i <= last]
    index = words.from_integers(indices, word_count(n, k))
    got = unrank(index, n, k, order, block)
    assert got.tolist() == [list(oracle.unrank(i, n, k, order, block)) for i in indices]
    assert np.array_equal(rank(got, order, block), index)


@pytest.mark.uncompiled
def test_strided_prefix_sums_change_nothing(monkeypatch):
    n, k = 32, 56
    indices = [0, 1, count(n, k) // 3, count(n, k) - 1]
    index = words.from_integers(indices, 2)
    ref = unrank(index, n, k, "blocked")
    monkeypatch.setattr(tables, "MAX_PREFIX_BYTES", 1 << 14)
    tables.clear()
    table = tables.tables(n, k, "blocked", 4)
    assert table.stride > 4
    got = unrank(index, n, k, "blocked")
    again = rank(got, "blocked")
    tables.clear()
    assert np.array_equal(got, ref)
    assert np.array_equal(again, index)


def test_listings_of_the_spec():
    index = np.arange(8, dtype=np.uint64)[:, None]
    fischer = [(0, 2), (0, -2), (1, 1), (1, -1), (-1, 1), (-1, -1), (2, 0), (-2, 0)]
    opus = [(2, 0), (1, 1), (1, -1), (0, 2), (0, -2), (-2, 0), (-1, 1), (-1, -1)]
    assert unrank(index, 2, 2, "fischer").tolist() == [list(y) for y in fischer]
    assert unrank(index, 2, 2, "opus").tolist() == [list(y) for y in opus]


def test_example_of_the_spec():
    y = np.array([[1, -1, 0, 2, 0, 0, 0, 0]], np.int64)
    assert rank(y, "opus").tolist() == [[514]]
    assert rank(y, "fischer").tolist() == [[2078]]


def test_many_groups_on_any_number_of_threads():
    rng = np.random.default_rng(1)
    index = rng.integers(0, count(16, 12), (50_000, 1)).astype(np.uint64)
    ref = unrank(index, 16, 12, threads=1)
    assert np.array_equal(ref, unrank(index, 16, 12, threads=3))
    assert np.array_equal(index, rank(ref, threads=3))


@pytest.mark.uncompiled
def test_no_groups():
    assert rank(np.zeros((0, 5), np.int32)).shape == (0, 1)
    assert unrank(np.zeros((0, 2), np.uint64), 32, 56).shape == (0, 32)


def test_no_pulses():
    index = rank(np.zeros((3, 5), np.int32))
    assert index.tolist() == [[0]] * 3
    assert not unrank(index, 5, 0).any()


def test_inputs_are_not_changed():
    y = np.array([[1, -1, 0, 2]], np.int32)
    y.flags.writeable = False
    index = rank(y)
    index.flags.writeable = False
    assert unrank(index, 4, 4).tolist() == y.tolist()


def test_any_memory_layout():
    y = np.array([[1, -1, 0], [0, 2, 0]], np.int32)
    assert np.array_equal(rank(y), rank(np.asfortranarray(y)))
    assert np.array_equal(rank(y)[::-1], rank(y[::-1]))


@pytest.mark.uncompiled
@pytest.mark.parametrize("order", ORDERS)
def test_index_above_is_refused(order):
    index = words.from_integers([5, count(32, 56)], 2)
    with pytest.raises(
        IndexRangeError, match=r"index must be below V\(32,56\) = \d+, got \d+ in row 1"
    ):
        unrank(index, 32, 56, order)
    with pytest.raises(IndexRangeError):
        unrank(np.array([[2816]], np.uint64), 8, 4, order)
    with pytest.raises(IndexRangeError):
        unrank(np.array([[2**64 - 1]], np.uint64), 8, 4, order)


@pytest.mark.uncompiled
@pytest.mark.parametrize(
    "y", [[[1, 1], [1, 0]], [[1, 1], [-2, -1]], [[0, 0], [1, 0]], [[-(2**31), 0], [0, 1]]]
)
def test_rows_off_the_pyramid_are_refused(y):
    with pytest.raises(PyramidError, match=r"y must have the l1 norm \d+ of row 0 .* in row 1"):
        rank(np.array(y, np.int32))


@pytest.mark.uncompiled
def test_wide_values_are_refused():
    with pytest.raises(PyramidError, match="32 bits"):
        rank(np.array([[2**40, 0]]))


@pytest.mark.uncompiled
@pytest.mark.parametrize("y", [[1, 2], [[[1]]], np.zeros((3, 0), np.int32)])
def test_shape_of_vectors(y):
    with pytest.raises(ShapeError, match="y must be of shape"):
        rank(np.array(y, np.int32))


@pytest.mark.uncompiled
@pytest.mark.parametrize("dtype", [np.float64, np.uint64, np.int16, bool])
def test_type_of_vectors(dtype):
    with pytest.raises(DTypeError, match="y must be int32 or int64"):
        rank(np.ones((2, 2), dtype))


@pytest.mark.uncompiled
def test_shape_and_type_of_indices():
    with pytest.raises(ShapeError, match=r"index must be of shape \(groups, 2\)"):
        unrank(np.zeros((3, 1), np.uint64), 32, 56)
    with pytest.raises(DTypeError, match="index must be uint64"):
        unrank(np.zeros((3, 1), np.int64), 8, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be from 1"),
        ({"k": -1}, "k must be from 0"),
        ({"order": "lexicographic"}, "order must be one of"),
        ({"block": 0}, "block must be from 1"),
        ({"threads": 0}, "threads must be from 1"),
        ({"threads": 1.5}, "threads must be an integer"),
    ],
)
def test_arguments_of_unrank(arguments, message):
    with pytest.raises(DomainError, match=message):
        unrank(np.zeros((1, 1), np.uint64), **({"n": 4, "k": 3} | arguments))


def test_tables_too_large():
    with pytest.raises(CapacityError):
        unrank(np.zeros((1, 1), np.uint64), 4000, 2**30)


@given(st.data())
def test_rank_orders_vectors(data):
    """Comparing two vectors by rank is comparing them by the definition of the order."""
    n, k, indices = data.draw(pyramids_and_indices(max_n=10, max_k=10))
    y = unrank(words.from_integers(indices, word_count(n, k)), n, k).tolist()
    keys = [[2 * abs(v) - (v > 0) for v in row] for row in y]  # 0, +1, -1, +2, … -> 0, 1, 2, 3, …
    assert sorted(range(len(y)), key=indices.__getitem__) == sorted(
        range(len(y)), key=keys.__getitem__
    )
