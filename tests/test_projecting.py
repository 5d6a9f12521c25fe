"""The paper's search against the oracle (spec section 4.2)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvq_ref import search_project
from pvq_ref.oracle.search import search_project as oracle_search
from tests.strategies import vectors


@pytest.mark.uncompiled
@given(vectors(max_n=12), st.integers(0, 40))
def test_equals_oracle(x, k):
    assert search_project(x[None], k)[0].tolist() == list(oracle_search(x.tolist(), k))


@pytest.mark.parametrize(("n", "k"), [(8, 4), (32, 56), (128, 221), (16, 3)])
def test_equals_oracle_on_normal_vectors(n, k):
    x = np.random.default_rng(n).standard_normal((50, n))
    got = search_project(x, k)
    assert got.tolist() == [list(oracle_search(row, k)) for row in x.tolist()]


def test_sum_is_k_even_for_huge_k():
    x = np.random.default_rng(0).standard_normal((50, 7))
    for k in (10**6, 2**30):
        assert np.all(np.abs(search_project(x, k).astype(np.int64)).sum(axis=1) == k)


def test_zero_row():
    assert search_project(np.zeros((1, 3)), 5).tolist() == [[5, 0, 0]]
