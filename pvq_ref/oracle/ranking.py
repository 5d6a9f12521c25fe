"""Ranks of pyramid vectors and the words that hold them (spec section 3).

The closed formulas of sections 3.1 and 3.2 are not used. Each order is defined by the order in
which the first coordinate takes its values, so the rank is the number of vectors passed on the way:
the sum of the sizes of the sub-pyramids behind every value that comes before y_j, for each j.
"""

import operator
from collections.abc import Iterator, Sequence

from pvq_ref.errors import DomainError, DTypeError, IndexRangeError, ShapeError
from pvq_ref.oracle.counting import bits, check_natural, count, count_closed_form

ORDERS = ("fischer", "opus", "blocked")
WORD_BITS = 64


def _first_values(total: int, order: str) -> Iterator[int]:
    """Yield the values of y_1 in P(n,total), in order (sections 3.1 and 3.2)."""
    if order == "fischer":  # 0, +1, -1, +2, -2, …
        yield 0
        for magnitude in range(1, total + 1):
            yield magnitude
            yield -magnitude
    else:  # opus: total, …, 1, 0, -total, …, -1
        yield from range(total, -1, -1)
        yield from range(-total, 0)


def _l1(y: Sequence[int]) -> int:
    """Return the l1 norm (section 1)."""
    return sum(abs(value) for value in y)


def _rank_sorted(y: Sequence[int], order: str) -> int:
    """Return the rank in an order that sorts by coordinates (sections 3.1 and 3.2)."""
    index, remaining = 0, _l1(y)
    for j, value in enumerate(y):
        for earlier in _first_values(remaining, order):
            if earlier == value:
                break
            index += count(len(y) - j - 1, remaining - abs(earlier))
        remaining -= abs(value)
    return index


def _unrank_sorted(index: int, n: int, k: int, order: str) -> tuple[int, ...]:
    """Return the vector of a rank, the inverse of _rank_sorted."""
    y: list[int] = []
    for j in range(n):
        for value in _first_values(k, order):
            size = count(n - j - 1, k - abs(value))
            if index < size:
                break
            index -= size
        y.append(value)
        k -= abs(value)
    return tuple(y)


def _rank_blocked(y: Sequence[int], block: int) -> int:
    """Return the rank of section 3.3: the blocks' l1 norm first, then the rest, then the block."""
    if len(y) <= block:
        return _rank_sorted(y, "fischer")
    u, v = y[:block], y[block:]
    a, k = _l1(u), _l1(y)
    before = sum(count(block, j) * count(len(v), k - j) for j in range(a))
    return before + _rank_blocked(v, block) * count(block, a) + _rank_sorted(u, "fischer")


def _unrank_blocked(index: int, n: int, k: int, block: int) -> tuple[int, ...]:
    """Return the vector of a rank, the inverse of _rank_blocked."""
    if n <= block:
        return _unrank_sorted(index, n, k, "fischer")
    a = 0
    while index >= (size := count(block, a) * count(n - block, k - a)):
        index -= size
        a += 1
    rest, first = divmod(index, count(block, a))
    u = _unrank_sorted(first, block, a, "fischer")
    return u + _unrank_blocked(rest, n - block, k - a, block)


def _check_order(order: str, block: int) -> None:
    """Raise DomainError for an unknown order or a block size below 1 (section 11)."""
    if order not in ORDERS:
        raise DomainError(f"order must be one of {ORDERS}, got {order!r}")
    if not isinstance(block, int) or block < 1:
        raise DomainError(f"block must be an integer >= 1, got {block!r}")


def check_index(index: int, n: int, k: int) -> None:
    """Raise IndexRangeError unless 0 <= index < V(n,k) (sections 3 and 11)."""
    check_natural(n=n, k=k)
    if not isinstance(index, int):
        raise DomainError(f"index must be an integer, got {index!r}")
    size = count_closed_form(n, k)
    if not 0 <= index < size:
        raise IndexRangeError(f"index must be in 0 … V({n},{k}) - 1 = {size - 1}, got {index}")


def rank(y: Sequence[int], order: str = "fischer", block: int = 4) -> int:
    """Return the rank of y in P(n,k), n its length and k its l1 norm (section 3).

    Any integer vector is in one pyramid. Raises DTypeError for a value that isn't an integer,
    DomainError for an unknown order or a block below 1.

    >>> rank((1, -1, 0, 2, 0, 0, 0, 0)), rank((1, -1, 0, 2, 0, 0, 0, 0), "opus")
    (2078, 514)
    """
    _check_order(order, block)
    try:
        values = tuple(operator.index(value) for value in y)
    except TypeError as error:
        raise DTypeError(f"y must be a vector of integers, got {y!r}") from error
    return _rank_blocked(values, block) if order == "blocked" else _rank_sorted(values, order)


def unrank(index: int, n: int, k: int, order: str = "fischer", block: int = 4) -> tuple[int, ...]:
    """Return the vector of P(n,k) that has this rank, the inverse of `rank` (section 3).

    Raises IndexRangeError unless 0 <= index < V(n,k), DomainError for other bad arguments.

    >>> unrank(514, 8, 4, "opus")
    (1, -1, 0, 2, 0, 0, 0, 0)
    """
    _check_order(order, block)
    check_index(index, n, k)
    if order == "blocked":
        return _unrank_blocked(index, n, k, block)
    return _unrank_sorted(index, n, k, order)


def words(index: int, n: int, k: int) -> list[int]:
    """Return the max(1, ceil(B/64)) words of an index, least significant first (section 3.4).

    >>> words(2**64 + 5, 32, 56)
    [5, 1]
    """
    check_index(index, n, k)
    length = max(1, -(-bits(n, k) // WORD_BITS))
    return [(index >> (WORD_BITS * i)) % 2**WORD_BITS for i in range(length)]


def from_words(values: Sequence[int], n: int, k: int) -> int:
    """Return the index that the words hold, the inverse of `words` (section 3.4).

    Raises ShapeError for another number of words, DomainError for a word that isn't one,
    IndexRangeError for an index >= V(n,k).

    >>> from_words([5, 1], 32, 56) == 2**64 + 5
    True
    """
    length = max(1, -(-bits(n, k) // WORD_BITS))
    if len(values) != length:
        raise ShapeError(f"words must have {length} elements, got {len(values)}")
    for word in values:
        if not isinstance(word, int) or not 0 <= word < 2**WORD_BITS:
            raise DomainError(f"words must be integers in 0 … 2^64 - 1, got {word!r}")
    index = sum(word << (WORD_BITS * i) for i, word in enumerate(values))
    check_index(index, n, k)
    return index
