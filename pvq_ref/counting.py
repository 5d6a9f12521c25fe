"""Counting the points of the pyramid (spec section 2).

    V(n,k) = V(n-1,k) + V(n,k-1) + V(n-1,k-1),    V(n,k) = U(n,k) + U(n,k+1)

Fischer, "A pyramid vector quantizer", IEEE Trans. Inf. Theory 32(4), 1986; U is RFC 6716's.
Everything that depends on the constraint sum |y_i| = k is here and in `pvq_ref.tables`: another
constraint brings other counts.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate

import numpy as np

from pvq_ref.errors import DomainError

MAX_NUMBER = (1 << 31) - 1  # of n and k (spec section 12)
ORDERS = ("fischer", "opus", "blocked")


def checked_integer(name: str, value: object, least: int, most: int = MAX_NUMBER) -> int:
    """Return an integer argument, or raise DomainError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise DomainError(f"{name} must be an integer, got {value!r}")
    if not least <= value <= most:
        raise DomainError(f"{name} must be from {least} to {most}, got {value}")
    return int(value)


def count(n: int, k: int) -> int:
    """Count the points of the pyramid: V(n,k), exactly.

    Parameters: n >= 0, the dimension; k >= 0, the pulses. Raises DomainError outside that.
    Closed form of spec section 2 (Fischer 1986).

    >>> count(8, 4)
    2816
    >>> count(32, 56).bit_length()
    101
    """
    return _count(checked_integer("n", n, 0), checked_integer("k", k, 0))


@lru_cache(4096)
def _count(n: int, k: int) -> int:
    if k == 0:
        return 1
    total, term = 0, 2 * n  # term j is 2^j C(n,j) C(k-1,j-1)
    for j in range(1, min(n, k) + 1):
        total += term
        term = term * 2 * (n - j) * (k - j) // ((j + 1) * j)
    return total


def bits(n: int, k: int) -> int:
    """Return B(n,k), the width in bits of an index (spec section 1)."""
    return (count(n, k) - 1).bit_length()


def word_count(n: int, k: int) -> int:
    """Return the number of 64-bit words of an index (spec section 3.4)."""
    return max(1, -(-bits(n, k) // 64))


@lru_cache(4096)
def most_pulses(n: int, width: int) -> int:
    """Return the greatest k >= 1 with B(n,k) <= width, or 0 if there is none.

    One coordinate has two points whatever k is: there it is 1.
    """
    if bits(n, 1) > width:
        return 0
    if n == 1:
        return 1
    low, high = 1, 2  # low fits; high doesn't, or is beyond what can be stored
    while high <= MAX_NUMBER and bits(n, high) <= width:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bits(n, middle) <= width else (low, middle)
    return low


def half_counts(n: int, k: int) -> Iterator[list[int]]:
    """Yield U(l,j) for j = 0 … k+1, for l = 0 … n."""
    row = [1] + [0] * (k + 1)
    yield row
    for _ in range(n):
        above = row
        row = list(accumulate((above[j] + above[j + 1] for j in range(k + 1)), initial=0))
        yield row
