"""The decoders of bench/orders.py as plain Python, and the tree's order on whole pyramids."""

from itertools import pairwise

import numpy as np
import pytest

from orders import extremes
from orders_decoding import decoder
from orders_tables import ORDERS, plan, tree_ranks
from pvq_ref import count, rank, unrank, words

LOW = (1 << 64) - 1


def plain(function):
    return function


def high_product(a, b):
    return np.uint64(int(a) * int(b) >> 64)


def decoded(n, k, order, indices):
    """Vectors (groups, n) of indices, Python integers."""
    made = plan(n, k, order)
    decode, t8 = decoder(plain, high_product, made), made.buffer
    views = t8, t8.view(np.uint32), t8.view(np.uint64), made.leaves
    with np.errstate(over="ignore"):  # numbers wrap
        found = [decode(*views, np.uint64(i >> 64), np.uint64(i & LOW)) for i in indices]
    return np.array(found, np.uint32).view(np.int8)


def everything(n, k):
    return unrank(np.arange(count(n, k), dtype=np.uint64)[:, None], n, k, "blocked")


@pytest.mark.parametrize(("n", "k"), [(8, 4), (16, 2), (32, 2)])
def test_the_tree_numbers_all_vectors_by_the_pulses_of_the_first_half(n, k):
    y = everything(n, k)
    ranks = tree_ranks(y)
    assert sorted(ranks) == list(range(len(y)))
    first = np.abs(y[np.argsort(ranks), : n // 2]).sum(axis=1).tolist()
    assert all(a <= b for a, b in pairwise(first))


@pytest.mark.parametrize(("n", "k"), [(16, 2), (32, 2)])
def test_whole_pyramids_come_back(n, k):
    ref = everything(n, k)
    assert np.array_equal(decoded(n, k, "blocked", range(len(ref))), ref)
    assert np.array_equal(decoded(n, k, "tree", tree_ranks(ref)), ref)


@pytest.mark.parametrize(("n", "k"), [(16, 27), (32, 56)])
@pytest.mark.parametrize("order", ORDERS)
def test_extreme_vectors_come_back(n, k, order):
    ref = extremes(n, k, np.random.default_rng(1))[::5]
    blocked = [words.to_integer(row) for row in rank(ref, "blocked")]
    got = decoded(n, k, order, blocked if order == "blocked" else tree_ranks(ref))
    assert np.array_equal(got, ref)
