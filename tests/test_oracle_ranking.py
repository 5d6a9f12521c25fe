"""The oracle's ranks (spec section 3)."""

import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvq_ref.errors import DomainError, DTypeError, IndexRangeError, ShapeError
from pvq_ref.oracle import count, rank, unrank
from pvq_ref.oracle.counting import enumerate_pyramid
from pvq_ref.oracle.ranking import from_words, words

LAW = settings(deadline=None, derandomize=True, max_examples=60)
SMALL = [(n, k) for n in range(1, 9) for k in range(13) if count(n, k) <= 20000]
ORDERS = [("fischer", 4), ("opus", 4), ("blocked", 1), ("blocked", 2), ("blocked", 3),
          ("blocked", 4), ("blocked", 9)]  # fmt: skip
LARGE = [(32, 56), (128, 221), (16, 300), (300, 16), (1, 500), (500, 1), (7, 0)]


def pyramid(n, k):
    """All vectors, in no particular order: independent of the oracle's enumeration."""
    return [y for y in product(range(-k, k + 1), repeat=n) if sum(map(abs, y)) == k]


def sort_key(order, block):
    """A key whose ascending order is the spec's, from the words of section 3."""

    def fischer(y):
        return [(abs(value), value < 0) for value in y]

    def opus(y):  # k … 1, 0 first, then -k … -1
        return [(value < 0, -abs(value)) for value in y]

    def blocked(y):  # a first, then the rest, then the block
        if len(y) <= block:
            return fischer(y)
        u, v = y[:block], y[block:]
        return [sum(map(abs, u)), blocked(v), fischer(u)]

    return {"fischer": fischer, "opus": opus, "blocked": blocked}[order]


@pytest.mark.parametrize(("order", "block"), ORDERS)
@pytest.mark.parametrize(("n", "k"), [(n, k) for n in range(1, 6) for k in range(5)])
def test_rank_is_the_position_in_a_naive_sort(n, k, order, block):
    ref = sorted(pyramid(n, k), key=sort_key(order, block))
    assert [rank(y, order, block) for y in ref] == list(range(len(ref)))
    assert [unrank(i, n, k, order, block) for i in range(len(ref))] == ref


@pytest.mark.parametrize(("n", "k"), SMALL)
def test_fischer_is_the_order_of_the_enumeration(n, k):
    for index, y in enumerate(enumerate_pyramid(n, k)):
        assert rank(y) == index


@pytest.mark.parametrize(("order", "block"), ORDERS)
@pytest.mark.parametrize(("n", "k"), [(8, 4), (6, 5), (3, 12), (7, 3)])
def test_rank_and_unrank_are_inverse_on_whole_pyramids(n, k, order, block):
    got = [unrank(index, n, k, order, block) for index in range(count(n, k))]
    assert all(sum(map(abs, y)) == k and len(y) == n for y in got)
    assert [rank(y, order, block) for y in got] == list(range(count(n, k)))


def test_listings_of_section_3():
    fischer = [(0, 2), (0, -2), (1, 1), (1, -1), (-1, 1), (-1, -1), (2, 0), (-2, 0)]
    opus = [(2, 0), (1, 1), (1, -1), (0, 2), (0, -2), (-2, 0), (-1, 1), (-1, -1)]
    assert [unrank(i, 2, 2) for i in range(8)] == fischer
    assert [unrank(i, 2, 2, "opus") for i in range(8)] == opus
    assert [unrank(i, 2, 2, "blocked", 2) for i in range(8)] == fischer


def test_known_ranks():
    y = (1, -1, 0, 2, 0, 0, 0, 0)
    assert rank(y, "opus") == 514
    assert rank(y) == 2078
    # by hand, b = 4: a = 4 comes last, V(4,4) = 192 vectors with v = 0, u of rank F(u)
    assert rank(y, "blocked") == 2816 - count(4, 4) + rank((1, -1, 0, 2))


def test_a_blocked_rank_by_hand():
    # P(3,2), b = 1: a = 0 has V(1,0) V(2,2) = 8 vectors, a = 1 has 2 · 4, a = 2 has 2 · 1
    assert rank((0, 0, 2), "blocked", 1) == 0 + rank((0, 2), "blocked", 1)
    assert [unrank(i, 3, 2, "blocked", 1) for i in (8, 9, 16, 17)] == [
        (1, 0, 1), (-1, 0, 1), (2, 0, 0), (-2, 0, 0)
    ]  # fmt: skip


@pytest.mark.parametrize("order", ["fischer", "opus"])
@pytest.mark.parametrize(("n", "k"), LARGE)
def test_closed_formulas_of_the_spec_agree(n, k, order):
    """Sections 3.1 and 3.2 give F and O in closed form; the oracle doesn't use them."""
    generator = random.Random(f"{n} {k} {order}")
    for _ in range(3):
        index = generator.randrange(count(n, k))
        y = unrank(index, n, k, order)
        assert (opus_formula if order == "opus" else fischer_formula)(y) == index


def half(n, k):
    """U(n,k) from the first identity of section 2, not by the oracle's table of U."""
    return sum((-1) ** (k - 1 - j) * count(n, j) for j in range(k)) if n else int(k == 0)


def fischer_formula(y):
    n, rest = len(y), sum(map(abs, y))
    index = count(n, rest) - 1
    for j, value in enumerate(y):
        rest -= abs(value)
        index -= count(n - j, rest) if value > 0 else 2 * half(n - j, rest)
    return index


def opus_formula(y):
    n, rest = len(y), sum(map(abs, y))
    index = 0
    for j, value in enumerate(y):
        index += half(n - j, rest + 1) if value < 0 else 0
        rest -= abs(value)
        index += half(n - j, rest)
    return index


@pytest.mark.parametrize(("order", "block"), ORDERS)
@pytest.mark.parametrize(("n", "k"), LARGE)
def test_large_ranks_round_trip(n, k, order, block):
    size = count(n, k)
    generator = random.Random(size)
    for index in {0, size - 1, size // 2, *(generator.randrange(size) for _ in range(3))}:
        y = unrank(index, n, k, order, block)
        assert rank(y, order, block) == index


@LAW
@given(st.lists(st.integers(-30, 30), min_size=1, max_size=12), st.sampled_from(ORDERS))
def test_unrank_inverts_rank(y, how):
    index = rank(y, *how)
    assert unrank(index, len(y), sum(map(abs, y)), *how) == tuple(y)


@LAW
@given(st.integers(1, 20), st.integers(0, 30), st.data())
def test_words_round_trip(n, k, data):
    index = data.draw(st.integers(0, count(n, k) - 1))
    assert from_words(words(index, n, k), n, k) == index


def test_words_are_least_significant_first():
    assert words(3 * 2**64 + 7, 32, 56) == [7, 3]
    assert words(0, 1, 0) == [0]
    assert len(words(0, 128, 221)) == 7
    assert words(1, 1, 5) == [1]


@pytest.mark.parametrize("index", [-1, 8, 10**9])
def test_an_index_outside_the_pyramid(index):
    with pytest.raises(IndexRangeError, match=r"index must be in 0 … V\(2,2\) - 1 = 7"):
        unrank(index, 2, 2)
    with pytest.raises(IndexRangeError, match="index must be"):
        words(index, 2, 2)


def test_bad_values():
    with pytest.raises(DomainError, match="order must be one of"):
        rank((1, 2), "lexicographic")
    with pytest.raises(DomainError, match="block must be"):
        rank((1, 2), "blocked", 0)
    with pytest.raises(DomainError, match="n must be"):
        unrank(0, -1, 2)
    with pytest.raises(DomainError, match="index must be"):
        unrank(0.5, 2, 2)
    with pytest.raises(DTypeError, match="y must be"):
        rank((1, 0.5))
    with pytest.raises(ShapeError, match="words must have 2 elements, got 1"):
        from_words([1], 32, 56)
    with pytest.raises(DomainError, match="words must be"):
        from_words([2**64, 0], 32, 56)
    with pytest.raises(IndexRangeError, match="index must be"):
        from_words([0, 2**64 - 1], 32, 56)


def test_the_empty_vector_has_rank_zero():
    assert rank(()) == 0
    assert unrank(0, 0, 0) == ()
    with pytest.raises(IndexRangeError, match="index must be"):
        unrank(0, 0, 1)
