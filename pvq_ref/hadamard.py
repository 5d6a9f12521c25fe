"""Hadamard matrices by Paley's constructions over GF(q) (spec sections 6.3 to 6.5).

Paley, "On orthogonal matrices", J. Math. Phys. 12, 1933. With Q[i,j] = χ(e_i - e_j), χ the
quadratic character of GF(q): order q + 1 for q ≡ 3 (mod 4), order 2(q+1) for q ≡ 1 (mod 4). No
tables: fields and matrices are made when they are needed.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

MAX_BASE = 1024  # a base is applied as a dense matrix, so its order is the cost of one element
MIN_BLOCK = 64  # equal blocks smaller than this mix too few columns


@dataclass(frozen=True)
class Construction:
    """One Hadamard matrix: Paley's I or II over GF(q), or the 1 × 1 matrix (paley 0, q 0)."""

    paley: int
    q: int

    @property
    def order(self) -> int:
        """Rows of the matrix."""
        return {0: 1, 1: self.q + 1, 2: 2 * (self.q + 1)}[self.paley]


@dataclass(frozen=True)
class Block:
    """`count` consecutive blocks of columns, each rotated by base ⊗ Sylvester of one order."""

    count: int
    order: int
    base: Construction


def prime_power(q: int) -> tuple[int, int] | None:
    """Return (p, m) with q = p^m, p prime, or None."""
    p = next((d for d in range(2, q + 1) if q % d == 0), 0)
    m = 0
    while p and q % p == 0:
        q, m = q // p, m + 1
    return (p, m) if p and q == 1 else None


@lru_cache(1)
def constructions() -> dict[int, Construction]:
    """Return the construction of each base order, in ascending order."""
    found: dict[int, tuple[tuple[int, int], Construction]] = {1: ((0, 0), Construction(0, 0))}
    for q in range(3, MAX_BASE, 2):
        power = prime_power(q)
        if power is None:
            continue
        choice = Construction(1 if q % 4 == 3 else 2, q)
        preference = (int(power[1] > 1), choice.paley)  # prime fields first, then I before II
        if choice.order <= MAX_BASE and preference < found.get(choice.order, ((9, 9), choice))[0]:
            found[choice.order] = (preference, choice)
    return {order: found[order][1] for order in sorted(found)}


def available(order: int) -> Construction | None:
    """Return the base of an order h · 2^e with the smallest h, or None."""
    for h, construction in constructions().items():
        rest, remainder = divmod(order, h)
        if remainder == 0 and rest > 0 and rest & (rest - 1) == 0:
            return construction
    return None


def plan(cols: int) -> tuple[Block, ...]:
    """Return the blocks that a rotation of `cols` columns is made of (spec section 6.3)."""
    base = available(cols)
    if base is not None:
        return (Block(1, cols, base),)
    for order in range(cols // 2, MIN_BLOCK - 1, -1):
        base = available(order) if cols % order == 0 else None
        if base is not None:
            return (Block(cols // order, order, base),)
    powers = [1 << bit for bit in range(cols.bit_length() - 1, -1, -1) if cols >> bit & 1]
    return tuple(Block(1, power, Construction(0, 0)) for power in powers)


Polynomial = tuple[int, ...]  # coefficients modulo p, constant first


def _digits(number: int, p: int, m: int) -> Polynomial:
    return tuple(number // p**i % p for i in range(m))


def _times(a: Polynomial, b: Polynomial, p: int, modulus: Polynomial) -> Polynomial:
    """Multiply modulo p and modulo x^m + modulus."""
    m = len(modulus)
    result = [0] * (2 * m - 1)
    for (i, u), (j, v) in product(enumerate(a), enumerate(b)):
        result[i + j] = (result[i + j] + u * v) % p
    for top in range(2 * m - 2, m - 1, -1):
        for i, c in enumerate(modulus):
            result[top - m + i] = (result[top - m + i] - result[top] * c) % p
    return tuple(result[:m])


def _is_irreducible(modulus: Polynomial, p: int) -> bool:
    """Whether x^m + modulus has no monic factor of degree 1 … m/2 modulo p."""
    m = len(modulus)
    for degree in range(1, m // 2 + 1):
        for number in range(p**degree):
            divisor = (*_digits(number, p, degree), 1)
            rest = [*modulus, 1]
            for top in range(m, degree - 1, -1):
                for i, c in enumerate(divisor):
                    rest[top - degree + i] = (rest[top - degree + i] - rest[top] * c) % p
            if not any(rest[:degree]):
                return False
    return True


def _characters(q: int) -> NDArray[np.int8]:
    """Return χ(e_i - e_j) for all elements of GF(q) in their numbering."""
    power = prime_power(q)
    assert power is not None
    p, m = power
    moduli = (_digits(number, p, m) for number in range(q))
    modulus = next(c for c in moduli if m == 1 or _is_irreducible(c, p))
    elements = [_digits(e, p, m) for e in range(q)]
    if m == 1:
        squares = {e * e % q for e in range(1, q)}
    else:
        products = (_times(e, e, p, modulus) for e in elements[1:])
        squares = {sum(c * p**i for i, c in enumerate(square)) for square in products}
    chi = np.array([0] + [1 if e in squares else -1 for e in range(1, q)], np.int8)
    digits = np.array(elements)
    difference = (digits[:, None] - digits[None, :]) % p
    characters: NDArray[np.int8] = chi[difference @ p ** np.arange(m)]
    return characters


@lru_cache(16)
def matrix(construction: Construction) -> NDArray[np.float64]:
    """Return the matrix, +1 and -1 (order, order) float64, read-only."""
    q, paley = construction.q, construction.paley
    core = np.ones((q + 1, q + 1), np.int8)
    if paley == 1:
        core[1:, 0] = -1
        core[1:, 1:] = _characters(q) + np.eye(q, dtype=np.int8)
    elif paley == 2:
        core[0, 0] = 0
        core[1:, 1:] = _characters(q)
        core = np.kron(core, np.array([[1, 1], [1, -1]], np.int8))
        core += np.kron(np.eye(q + 1, dtype=np.int8), np.array([[1, -1], [-1, -1]], np.int8))
    result = core.astype(np.float64)
    result.flags.writeable = False
    return result


@lru_cache(16)
def transposed(construction: Construction) -> NDArray[np.float64]:
    """Return the transpose of the matrix, contiguous and read-only."""
    result = np.ascontiguousarray(matrix(construction).T)
    result.flags.writeable = False  # kernels are compiled for read-only bases alone
    return result
