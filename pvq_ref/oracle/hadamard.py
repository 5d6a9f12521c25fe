"""Finite fields and Paley's Hadamard matrices (spec sections 6.4 and 6.5).

Elements of GF(q), q = p^m, are numbers whose base-p digits are the coefficients of a polynomial,
the least significant one first. Source: Paley 1933, On orthogonal matrices.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

from pvq_ref.errors import DomainError

Matrix = tuple[tuple[int, ...], ...]


# 6.4: the field


def prime_power(q: int) -> tuple[int, int] | None:
    """Return (p, m) with q = p^m, p prime, m >= 1; None if there are none (section 6.4)."""
    if q < 2:
        return None
    p = next((d for d in range(2, math.isqrt(q) + 1) if q % d == 0), q)
    m = 0
    while q % p == 0:
        q, m = q // p, m + 1
    return (p, m) if q == 1 else None


def _digits(number: int, p: int, length: int) -> list[int]:
    """Return the base-p digits of a number, least significant first."""
    return [number // p**i % p for i in range(length)]


def _number(digits: Sequence[int], p: int) -> int:
    """Return the number of an element, the inverse of _digits (section 6.4)."""
    return sum(digit * p**i for i, digit in enumerate(digits))


def _remainder(dividend: Sequence[int], monic: Sequence[int], p: int) -> list[int]:
    """Return a polynomial modulo a monic one, over GF(p), lowest coefficients first."""
    rest = list(dividend)
    degree = len(monic) - 1
    while len(rest) > degree:
        lead = rest.pop()
        for i in range(degree):
            j = len(rest) - degree + i
            rest[j] = (rest[j] - lead * monic[i]) % p
    return rest


def _irreducible(polynomial: Sequence[int], p: int) -> bool:
    """Return whether no monic polynomial of degree 1 … m/2 divides a monic one of degree m."""
    m = len(polynomial) - 1
    divisors = (
        [*_digits(number, p, degree), 1]
        for degree in range(1, m // 2 + 1)
        for number in range(p**degree)
    )
    return all(any(_remainder(polynomial, divisor, p)) for divisor in divisors)


@lru_cache(maxsize=64)
def modulus(q: int) -> tuple[int, ...]:
    """Return the monic irreducible polynomial of GF(q) whose number is smallest (section 6.4).

    The coefficients, lowest first, include the leading 1.
    """
    if (parts := prime_power(q)) is None:
        raise DomainError(f"q must be a power of a prime, got {q}")
    p, m = parts
    candidates = ((*_digits(number, p, m), 1) for number in range(q))
    return next(polynomial for polynomial in candidates if _irreducible(polynomial, p))


def add(a: int, b: int, q: int) -> int:
    """Return the element a + b of GF(q) (section 6.4)."""
    p, m = _parts(q)
    pairs = zip(_digits(a, p, m), _digits(b, p, m), strict=True)
    return _number([(c + d) % p for c, d in pairs], p)


def subtract(a: int, b: int, q: int) -> int:
    """Return the element a - b of GF(q) (section 6.4)."""
    p, m = _parts(q)
    pairs = zip(_digits(a, p, m), _digits(b, p, m), strict=True)
    return _number([(c - d) % p for c, d in pairs], p)


def multiply(a: int, b: int, q: int) -> int:
    """Return the element a · b of GF(q) (section 6.4)."""
    p, m = _parts(q)
    product = [0] * (2 * m - 1)
    for i, c in enumerate(_digits(a, p, m)):
        for j, d in enumerate(_digits(b, p, m)):
            product[i + j] = (product[i + j] + c * d) % p
    return _number(_remainder(product, modulus(q), p), p)


@lru_cache(maxsize=64)
def _parts(q: int) -> tuple[int, int]:
    """Return (p, m) of a q that has them; modulus(q) checks it."""
    m = len(modulus(q)) - 1
    return round(q ** (1 / m)), m


@lru_cache(maxsize=64)
def _squares(q: int) -> frozenset[int]:
    """Return the nonzero squares of GF(q)."""
    return frozenset(multiply(e, e, q) for e in range(1, q))


def chi(e: int, q: int) -> int:
    """Return the quadratic character of an element: 0, +1 or -1 (section 6.4)."""
    if e == 0:
        return 0
    return 1 if e in _squares(q) else -1


# 6.5: Hadamard matrices


def _residues(q: int) -> Matrix:
    """Return Q, the matrix of χ(e_i - e_j) (section 6.5)."""
    return tuple(tuple(chi(subtract(i, j, q), q) for j in range(q)) for i in range(q))


@lru_cache(maxsize=16)
def paley_one(q: int) -> Matrix:
    """Return Paley's matrix I, of order q + 1, for q ≡ 3 (mod 4) (section 6.5)."""
    if q % 4 != 3 or prime_power(q) is None:
        raise DomainError(f"q must be a power of a prime, 3 modulo 4, got {q}")
    Q = _residues(q)
    below = ((-1, *(Q[i][j] + (i == j) for j in range(q))) for i in range(q))
    return ((1,) * (q + 1), *below)


@lru_cache(maxsize=16)
def paley_two(q: int) -> Matrix:
    """Return Paley's matrix II, of order 2(q + 1), for q ≡ 1 (mod 4) (section 6.5)."""
    if q % 4 != 1 or prime_power(q) is None:
        raise DomainError(f"q must be a power of a prime, 1 modulo 4, got {q}")
    C = ((0,) + (1,) * q, *((1, *row) for row in _residues(q)))

    def entry(i: int, j: int) -> int:
        a, b = i % 2, j % 2
        if i // 2 == j // 2:
            return ((1, -1), (-1, -1))[a][b]
        return C[i // 2][j // 2] * ((1, 1), (1, -1))[a][b]

    return tuple(tuple(entry(i, j) for j in range(2 * q + 2)) for i in range(2 * q + 2))


def sylvester(e: int) -> Matrix:
    """Return Sylvester's matrix of order 2^e in natural order (section 6.6)."""
    rows: Matrix = ((1,),)
    for _ in range(e):
        rows = tuple(row + row for row in rows) + tuple(
            row + tuple(-value for value in row) for row in rows
        )
    return rows


def base(paley: int, q: int) -> Matrix:
    """Return the base H of a block (sections 6.3 and 6.5)."""
    if paley == 0:
        return ((1,),)
    return paley_one(q) if paley == 1 else paley_two(q)
