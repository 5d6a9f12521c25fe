"""Integers of several words against Python's (spec section 3.4)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvq_ref import words

pytestmark = pytest.mark.uncompiled

naturals = st.integers(0, 2**256 - 1) | st.sampled_from(
    [0, 1, 2**64 - 1, 2**64, 2**128 - 1, 2**192]
)


def pack(value, size=5):
    return words.from_integers([value], size)[0].copy()


@given(st.lists(naturals, min_size=1, max_size=4))
def test_words_hold_integers(values):
    got = [words.to_integer(row) for row in words.from_integers(values, 4)]
    assert got == values


@given(naturals, naturals)
def test_less(a, b):
    assert words.less(pack(a), pack(b)) == (a < b)


@given(naturals, naturals)
def test_add(a, b):
    total = pack(a)
    words.add(total, pack(b, 4))
    assert words.to_integer(total) == a + b


@given(naturals, naturals)
def test_subtract(a, b):
    a, b = max(a, b), min(a, b)
    total = pack(a)
    words.subtract(total, pack(b))
    assert words.to_integer(total) == a - b


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_multiply(a, b):
    high, low = words.multiply(np.uint64(a), np.uint64(b))
    assert (int(high) << 64) + int(low) == a * b


@given(naturals, naturals, naturals)
def test_add_product(total, a, b):
    got = pack(total, 9)
    words.add_product(got, pack(a, 4), pack(b, 4))
    assert words.to_integer(got) == total + a * b


@pytest.mark.parametrize("size", [1, 2, 4])
@given(a=naturals, divisor=naturals)
def test_divide(a, divisor, size):
    divisor = max(1, divisor % 2 ** (64 * size))
    quotient, rest = pack(a), np.zeros(size, np.uint64)
    words.divide(quotient, pack(divisor, size), rest)
    assert (words.to_integer(quotient), words.to_integer(rest)) == divmod(a, divisor)


@given(naturals, st.integers(1, 2**32 - 1) | st.sampled_from([1, 2, 3, 2**32 - 1, 2**31]))
def test_divide_word(a, divisor):
    rest, word = (a >> 64) % divisor, a % 2**64
    inverse = min(2**64 // divisor, 2**64 - 1)
    remainder = 2**64 - inverse * divisor
    got = words.divide_word(*map(np.uint64, (rest, word, divisor, inverse, remainder)))
    assert tuple(map(int, got)) == divmod((rest << 64) + word, divisor)


def test_divide_word_with_the_greatest_operands():
    """The product of rest and remainder and the word together don't fit into a word."""
    divisor = 3_037_000_501  # its remainder is near it
    inverse, remainder = divmod(2**64, divisor)
    rest, word = divisor - 1, 2**64 - 1
    assert rest * remainder + word >= 2**64
    got = words.divide_word(*map(np.uint64, (rest, word, divisor, inverse, remainder)))
    assert tuple(map(int, got)) == divmod((rest << 64) + word, divisor)


def test_integer_that_does_not_fit_is_an_error():
    with pytest.raises(OverflowError):
        words.from_integers([2**64], 1)
