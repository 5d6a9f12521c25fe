"""Unsigned integers of several 64-bit words, least significant first (spec section 3.4).

All operands of one call have the same number of words unless a kernel says otherwise. Nothing
checks for overflow: the tables are made wide enough for what is computed with them.
"""

import numpy as np
from numpy.typing import NDArray

from pvq_ref.jit import kernel, wrapping_kernel

Words = NDArray[np.uint64]

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_32 = np.uint64(32)
_63 = np.uint64(63)
_LOW = np.uint64(0xFFFFFFFF)


def from_integers(values: list[int], words: int) -> Words:
    """Return non-negative integers as a (len(values), words) uint64 array."""
    joined = b"".join(value.to_bytes(8 * words, "little") for value in values)
    return np.frombuffer(joined, dtype="<u8").astype(np.uint64).reshape(len(values), words)


def to_integer(words: Words) -> int:
    """Return the integer that an array of words holds."""
    return int.from_bytes(words.astype("<u8").tobytes(), "little")


@kernel
def copy(to: Words, a: Words) -> None:
    """Write the first words of a to `to`. A slice would do, and take seconds to compile."""
    for i in range(to.size):
        to[i] = a[i]


@kernel
def less(a: Words, b: Words) -> bool:
    """Whether a < b."""
    for i in range(a.size - 1, -1, -1):
        if a[i] != b[i]:
            return bool(a[i] < b[i])
    return False


@wrapping_kernel
def add(a: Words, b: Words) -> None:
    """Add b, of no more words than a, to a."""
    carry = _ZERO
    for i in range(a.size):
        if i >= b.size and carry == _ZERO:
            return
        term = b[i] if i < b.size else _ZERO
        partial = a[i] + term
        total = partial + carry
        carry = _ONE if partial < term or total < carry else _ZERO
        a[i] = total


@wrapping_kernel
def subtract(a: Words, b: Words) -> None:
    """Subtract b <= a, of no more words than a, from a."""
    borrow = _ZERO
    for i in range(a.size):
        if i >= b.size and borrow == _ZERO:
            return
        term = b[i] if i < b.size else _ZERO
        partial = a[i] - term
        below = partial > a[i]
        a[i] = partial - borrow
        borrow = _ONE if below or partial < borrow else _ZERO


@wrapping_kernel
def multiply(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return the high and the low word of a product."""
    a_low, a_high, b_low, b_high = a & _LOW, a >> _32, b & _LOW, b >> _32
    middle = a_high * b_low + ((a_low * b_low) >> _32)
    other = a_low * b_high + (middle & _LOW)
    return a_high * b_high + (middle >> _32) + (other >> _32), a * b


@wrapping_kernel
def add_product(total: Words, a: Words, b: Words) -> None:
    """Add a times b, each of any number of words, to total."""
    for i in range(a.size):
        if a[i] == _ZERO:
            continue
        carry = _ZERO
        for j in range(total.size - i):
            if j >= b.size and carry == _ZERO:
                break
            high, low = multiply(a[i], b[j]) if j < b.size else (_ZERO, _ZERO)
            partial = total[i + j] + low
            high += _ONE if partial < low else _ZERO
            total[i + j] = partial + carry
            carry = high + (_ONE if total[i + j] < carry else _ZERO)


@wrapping_kernel
def divide_word(
    rest: np.uint64, word: np.uint64, divisor: np.uint64, inverse: np.uint64, remainder: np.uint64
) -> tuple[np.uint64, np.uint64]:
    """Return quotient and rest of (rest · 2^64 + word) / divisor, rest < divisor < 2^32.

    2^64 = inverse · divisor + remainder, but 2^64 - 1 stands for the inverse of 1. No division is
    needed: rest · 2^64 is rest · inverse divisors and rest · remainder, which is one word, and the
    highest word of a product with inverse is a quotient that is at most 1 too small.
    """
    quotient, part = rest * inverse, rest * remainder
    total = part + word
    if total < part:
        quotient += inverse
        total += remainder
    estimate = multiply(total, inverse)[0]
    left = total - estimate * divisor
    if left >= divisor:
        return quotient + estimate + _ONE, left - divisor
    return quotient + estimate, left


@kernel
def _divide_small(a: Words, divisor: np.uint64) -> np.uint64:
    """Divide a by a divisor below 2^32 in place; return the remainder."""
    rest = _ZERO
    for i in range(a.size - 1, -1, -1):
        high = (rest << _32) | (a[i] >> _32)
        low = ((high % divisor) << _32) | (a[i] & _LOW)
        a[i] = ((high // divisor) << _32) | (low // divisor)
        rest = low % divisor
    return rest


@kernel
def _shift_in(a: Words, bit: np.uint64) -> None:
    """Double a and add a bit."""
    for i in range(a.size):
        out = a[i] >> _63
        a[i] = (a[i] << _ONE) | bit
        bit = out


@kernel
def divide(a: Words, divisor: Words, rest: Words) -> None:
    """Divide a by a divisor > 0 in place; rest and divisor have the same number of words."""
    rest[:] = _ZERO
    wide = divisor[0] > _LOW
    for i in range(1, divisor.size):
        wide |= divisor[i] != _ZERO
    if not wide:
        rest[0] = _divide_small(a, divisor[0])
        return
    # Bit by bit: plain, and reached only with blocks so large that V(b,a) needs 32 bits or more.
    for _ in range(64 * a.size):
        overflow = rest[rest.size - 1] >> _63 != _ZERO
        _shift_in(rest, a[a.size - 1] >> _63)
        _shift_in(a, _ZERO)
        if overflow or not less(rest, divisor):
            subtract(rest, divisor)
            a[0] |= _ONE
