"""Sizes of pyramids (spec sections 1 and 2).

    V(n,k) = V(n-1,k) + V(n,k-1) + V(n-1,k-1)         (Fischer 1986, equation 3)

with V(n,0) = 1 and V(0,k) = 0 for k > 0. U obeys the same recurrence from other borders
(RFC 6716, section 4.3.4.2). n is a number of coordinates, k a number of pulses.
"""

from collections.abc import Callable, Iterator

from pvq_ref.errors import CapacityError, DomainError

# Bits that one table of counts may take (512 MiB), and those of an integer object and its pointer.
# Larger (n,k) still have a closed form.
TABLE_BITS = 1 << 32
OBJECT_BITS = 320

_V_ROWS: list[list[int]] = []
_U_ROWS: list[list[int]] = []


def check_natural(**numbers: int) -> None:
    """Raise DomainError for a named number that is not an integer >= 0 (section 11)."""
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 0:
            raise DomainError(f"{name} must be an integer >= 0, got {number!r}")


def _look_up(rows: list[list[int]], n: int, k: int, border: Callable[[int, int], int]) -> int:
    """Return entry (n,k) of a table that obeys the recurrence of section 2; grow it if needed."""
    if n < len(rows) and k < len(rows[n]):
        return rows[n][k]
    check_natural(n=n, k=k)
    entry_bits = count_closed_form(n, k).bit_length() + OBJECT_BITS
    if (table_bits := (n + 1) * (k + 1) * entry_bits) > TABLE_BITS:
        raise CapacityError(
            f"a table up to n={n}, k={k} must fit in {TABLE_BITS} bits, got {table_bits}"
        )
    for i in range(n + 1):  # invariant: no row is longer than the row before it
        if i == len(rows):
            rows.append([])
        for j in range(len(rows[i]), k + 1):
            on_border = i == 0 or j == 0
            rows[i].append(
                border(i, j) if on_border else rows[i - 1][j] + rows[i][j - 1] + rows[i - 1][j - 1]
            )
    return rows[n][k]


def count(n: int, k: int) -> int:
    """Return V(n,k) by the recurrence (section 2).

    >>> count(8, 4)
    2816
    """
    if n < 0 or k < 0:  # a list would take a negative subscript
        check_natural(n=n, k=k)
    return _look_up(_V_ROWS, n, k, lambda i, j: int(j == 0))


def half_count(n: int, k: int) -> int:
    """Return U(n,k) by its own recurrence (section 2).

    >>> half_count(8, 4) + half_count(8, 5)
    2816
    """
    if n < 0 or k < 0:
        check_natural(n=n, k=k)
    return _look_up(_U_ROWS, n, k, lambda i, j: int(i == j == 0))


def count_closed_form(n: int, k: int) -> int:
    """Return V(n,k) = sum over j of 2^j C(n,j) C(k-1,j-1) (section 2).

    >>> count_closed_form(8, 4)
    2816
    """
    check_natural(n=n, k=k)
    if n == 0 or k == 0:
        return int(k == 0)
    total = 0
    positions, compositions = n, 1  # C(n,j) and C(k-1,j-1) at j = 1
    for j in range(1, min(n, k) + 1):
        total += (positions * compositions) << j
        positions = positions * (n - j) // (j + 1)
        compositions = compositions * (k - j) // j
    return total


def bits(n: int, k: int) -> int:
    """Return B(n,k), the width of an index (section 1).

    >>> bits(32, 56), bits(128, 221)
    (101, 413)
    """
    size = count_closed_form(n, k)
    if size == 0:
        raise DomainError(f"P(n,k) must have an element, got n={n}, k={k}")
    return 0 if size == 1 else (size - 1).bit_length()


def enumerate_pyramid(n: int, k: int) -> Iterator[tuple[int, ...]]:
    """Yield P(n,k) sorted by y_1 in the order 0, +1, -1, +2, …, then by the rest (section 3.1).

    >>> list(enumerate_pyramid(2, 1))
    [(0, 1), (0, -1), (1, 0), (-1, 0)]
    """
    check_natural(n=n, k=k)
    if n == 0:
        yield from [()] if k == 0 else []
        return
    for magnitude in range(k + 1):
        for first in (magnitude, -magnitude) if magnitude else (0,):
            for rest in enumerate_pyramid(n - 1, k - magnitude):
                yield (first, *rest)
