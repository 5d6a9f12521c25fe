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


def level_of(edges, size):
    """Return the edges in words, and guesses for them alone."""
    values = words.from_integers(edges, size)
    steps = len(edges) - 2  # from one pulse to the next; there are 0 and 1
    shift, row, guess = finding.guesses(values, np.zeros((1, 2), np.uint64), steps)
    return values.reshape(-1), (shift[0], row[0], guess)


ONE, ZERO = np.uint64(1), np.uint64(0)


@given(rows(1))
def test_find_word(row):
    edges, lefts = row
    flat, level = level_of(edges, 1)
    for left in lefts:
        got = finding.find_word(np.uint64(left), flat, ZERO, level, ONE)
        assert got == bisect_right(edges, left) - 1


@given(rows(2))
def test_find_two(row):
    edges, lefts = row
    flat, level = level_of(edges, 2)
    for left in lefts:
        low, high = words.from_integers([left], 2)[0]
        got = finding.find_two(low, high, flat, np.uint64(2), ZERO, level, ONE)
        assert got == bisect_right(edges, left) - 1


@pytest.mark.parametrize("size", [2, 3, 5])
@given(data=st.data())
def test_take_words(size, data):
    edges, lefts = data.draw(rows(size))
    flat, level = level_of(edges, size)
    left = words.from_integers(lefts, size)
    for i, number in enumerate(lefts):
        with np.errstate(over="ignore"):
            got = finding.take_words(left, i, flat, ZERO, level, ONE)
        assert got == bisect_right(edges, number) - 1
        assert words.to_integer(left[i]) == number - edges[int(got)]


@pytest.mark.parametrize("size", [1, 2, 4])
@given(data=st.data())
def test_guesses_are_never_too_far(size, data):
    edges, lefts = data.draw(rows(size))
    _, (shift, row, guess) = level_of(edges, size)
    for left in lefts:
        got = guess[row[1], left >> int(shift[1])]
        assert got <= bisect_right(edges, left) - 1
