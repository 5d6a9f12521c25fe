"""Finding places among sorted numbers, against bisection."""

from bisect import bisect_right

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvq_ref import finding, words

pytestmark = pytest.mark.uncompiled


@st.composite
def rows(draw, size):
    """Draw edges of several pulses, sorted from 0 on, and numbers below the last, edges too."""
    bits = draw(st.integers(1, 64 * size))
    edges = draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=12))
    edges = [0, *sorted(edges)]
    edges.append(edges[-1] + draw(st.integers(1, 3)))
    if edges[-1] >= 2 ** (64 * size):
        edges = [0, 2 ** (64 * size) - 1]
    between = draw(st.lists(st.integers(0, edges[-1] - 1), max_size=6))
    near = [edge + step for edge in edges for step in (-1, 0, 1)]
    return edges, [left for left in (*between, *near) if 0 <= left < edges[-1]]


def finder_of(edges, size):
    """Return the edges in words, as one level with 0 pulses or 1, and guesses for them."""
    values, start = words.from_integers(edges, size), np.zeros((1, 2), np.uint64)
    guesses = finding.guesses(values, start, len(edges) - 2)  # as many more edges with the pulse
    widths = np.array([size], np.int64)
    return (np.ascontiguousarray(values[:, 0]), values.reshape(-1), start, widths, *guesses)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@given(data=st.data())
def test_take_finds_the_last_edge_not_above_and_subtracts_it(size, data):
    edges, lefts = data.draw(rows(size))
    left = words.from_integers(lefts, size)
    before, found = np.ones(len(lefts), np.uint64), np.zeros(len(lefts), np.uint64)
    finding.take(finder_of(edges, size), 0, left, before, found)
    ref = [bisect_right(edges, number) - 1 for number in lefts]
    assert found.tolist() == ref
    rests = [number - edges[place] for number, place in zip(lefts, ref, strict=True)]
    assert [words.to_integer(row) for row in left] == rests


@pytest.mark.parametrize("size", [2, 3])
@given(data=st.data())
def test_levels_of_fewer_words_than_the_table(size, data):
    """The first kernels look at one word or two, whatever the others hold."""
    width = data.draw(st.integers(1, size))
    edges, lefts = data.draw(rows(width))
    left = words.from_integers(lefts, size)
    before, found = np.ones(len(lefts), np.uint64), np.zeros(len(lefts), np.uint64)
    finder = finder_of(edges, size)
    finder[3][0] = width
    finding.take(finder, 0, left, before, found)
    assert found.tolist() == [bisect_right(edges, number) - 1 for number in lefts]


@pytest.mark.parametrize("size", [1, 2, 4])
@given(data=st.data())
def test_guesses_are_never_too_far(size, data):
    edges, lefts = data.draw(rows(size))
    shift, row, guess = finder_of(edges, size)[4:]
    for left in lefts:
        got = guess[row[0, 1], left >> int(shift[0, 1])]
        assert got <= bisect_right(edges, left) - 1
