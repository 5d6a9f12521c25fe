"""The seeded rotation R = (H ⊗ S) D / sqrt(d), block by block (spec section 6).

H is a Paley matrix or (1), S a Sylvester matrix, D the diagonal of signs, d = h · 2^e the order of
a block. Sources: Paley 1933; Sylvester 1867; Steele, Lea and Flood 2014 (SplitMix64).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from pvq_ref.errors import DomainError, ShapeError
from pvq_ref.oracle.hadamard import Matrix, base, prime_power, sylvester

MASK = 2**64 - 1
LARGEST_BASE = 1024
SMALLEST_DIVISOR = 64


@dataclass(frozen=True)
class Block:
    """`count` neighbouring blocks of one order, and their base (sections 6.3 and 9.3).

    paley is 1 or 2 for Paley's matrix I or II over GF(q), 0 (and q = 0) for the base (1).
    """

    count: int
    order: int
    paley: int
    q: int


# 6.1, 6.2: generator and signs


def splitmix64(state: int) -> Iterator[int]:
    """Yield the outputs of SplitMix64 started at a state (section 6.1).

    >>> hex(next(splitmix64(0)))
    '0xe220a8397b1dcdaf'
    """
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def signs(seed: int, cols: int) -> list[int]:
    """Return the sign, +1 or -1, of every column (section 6.2)."""
    if not 0 <= seed <= MASK:
        raise DomainError(f"seed must be in 0 … 2^64 - 1, got {seed}")
    words = list(islice(splitmix64(next(splitmix64(seed)) ^ cols), -(-cols // 64)))
    return [-1 if words[i // 64] >> (i % 64) & 1 else 1 for i in range(cols)]


# 6.3: plan


def base_order(paley: int, q: int) -> int:
    """Return the order h of a base, without building it; DomainError if there is none."""
    if (paley, q) == (0, 0):
        return 1
    if paley not in (1, 2) or q % 4 != (3, 1)[paley - 1] or prime_power(q) is None:
        raise DomainError(f"(paley, q) must name a matrix of section 6.5, got {(paley, q)}")
    order = (q + 1) * paley
    if order > LARGEST_BASE:
        raise DomainError(f"a base must have an order <= {LARGEST_BASE}, got {order}")
    return order


def sylvester_exponent(block: Block) -> int:
    """Return e of a block's order h · 2^e; DomainError if there is none (section 6.3)."""
    runs, rest = divmod(block.order, base_order(block.paley, block.q))
    if rest or runs < 1 or runs & (runs - 1):
        raise DomainError(f"order must be the base's times a power of two, got {block}")
    return runs.bit_length() - 1


@lru_cache(maxsize=1024)
def _construction(h: int) -> tuple[int, int] | None:
    """Return the preferred (paley, q) of a base order h: primes first, then I before II (6.3)."""
    if h == 1:
        return (0, 0)
    candidates = [(1, h - 1, 3)] + ([(2, h // 2 - 1, 1)] if h % 2 == 0 else [])
    found = [
        (parts[1] > 1, paley, q)
        for paley, q, residue in candidates
        if q % 4 == residue and (parts := prime_power(q)) is not None
    ]
    return min(found)[1:] if found else None


def _available(order: int) -> tuple[int, int] | None:
    """Return (paley, q) of an available order's smallest base; None if not available (6.3)."""
    odd = order // (order & -order)
    h = odd
    while h <= min(order, LARGEST_BASE):
        if (found := _construction(h)) is not None:
            return found
        h *= 2
    return None


def plan(cols: int) -> list[Block]:
    """Return the blocks that the columns are split into (section 6.3).

    >>> plan(11008)
    [Block(count=1, order=11008, paley=1, q=343)]
    """
    if cols < 1:
        raise DomainError(f"cols must be >= 1, got {cols}")
    if (found := _available(cols)) is not None:
        return [Block(1, cols, *found)]
    for d in range(cols // 2, SMALLEST_DIVISOR - 1, -1):
        if cols % d == 0 and (found := _available(d)) is not None:
            return [Block(cols // d, d, *found)]
    powers = [2**e for e in reversed(range(cols.bit_length())) if cols >> e & 1]
    return [Block(1, order, 0, 0) for order in powers]


def block_starts(cols: int, blocks: Sequence[Block]) -> list[tuple[int, Block]]:
    """Return every block's first column, left to right; ShapeError unless they fill the columns."""
    starts = []
    column = 0
    for block in blocks:
        for _ in range(block.count):
            starts.append((column, block))
            column += block.order
    if column != cols:
        raise ShapeError(f"blocks must cover {cols} columns, got {column}")
    return starts


# 6.6, 6.7: the matrix, and both directions


def dense(
    cols: int, seed: int, blocks: Sequence[Block] | None = None
) -> tuple[list[list[int]], list[int]]:
    """Return the rows of (H ⊗ S) D and each row's block order d: row i of R is rows[i]/sqrt(d_i).

    Exact integers, straight from the last line of section 6.6.
    """
    columns = signs(seed, cols)
    rows: list[list[int]] = []
    orders: list[int] = []
    for start, block in block_starts(cols, plan(cols) if blocks is None else blocks):
        H, S = base(block.paley, block.q), sylvester(sylvester_exponent(block))
        for i in range(block.order):
            row = [0] * cols
            for j in range(block.order):
                entry = H[i // len(S)][j // len(S)] * S[i % len(S)][j % len(S)]
                row[start + j] = entry * columns[start + j]
            rows.append(row)
            orders.append(block.order)
    return rows, orders


def _sylvester_steps(z: list[float], run: int) -> None:
    """Apply step 2 of section 6.6 to every run of 2^e consecutive elements."""
    s = 1
    while s < run:
        for i in range(len(z)):
            if i // s % 2 == 0:
                z[i], z[i + s] = z[i] + z[i + s], z[i] - z[i + s]
        s *= 2


def _base_step(z: list[float], H: Matrix, run: int) -> list[float]:
    """Apply step 3 of section 6.6: the base on the rows of the h × 2^e array."""
    if len(H) == 1:
        return z
    result = []
    for i in range(len(H)):
        for column in range(run):
            total = H[i][0] * z[column]
            for j in range(1, len(H)):
                total += H[i][j] * z[j * run + column]
            result.append(total)
    return result


def forward(row: Sequence[float], seed: int, blocks: Sequence[Block]) -> list[float]:
    """Return R times a row of W as a column vector, in binary64 (section 6.6)."""
    columns = signs(seed, len(row))
    result: list[float] = []
    for start, block in block_starts(len(row), blocks):
        H, run = base(block.paley, block.q), 1 << sylvester_exponent(block)
        z = [columns[i] * float(row[i]) for i in range(start, start + block.order)]
        _sylvester_steps(z, run)
        z = _base_step(z, H, run)
        scale = 1.0 / math.sqrt(block.order)
        result += [value * scale for value in z]
    return result


def inverse(row: Sequence[float], seed: int, blocks: Sequence[Block]) -> list[float]:
    """Return Rᵀ times a row of W' as a column vector, in binary64 (section 6.7)."""
    columns = signs(seed, len(row))
    result: list[float] = []
    for start, block in block_starts(len(row), blocks):
        H, run = base(block.paley, block.q), 1 << sylvester_exponent(block)
        transposed = tuple(zip(*H, strict=True))
        z = [float(value) for value in row[start : start + block.order]]
        z = _base_step(z, transposed, run)
        _sylvester_steps(z, run)
        scale = 1.0 / math.sqrt(block.order)
        result += [columns[start + i] * (value * scale) for i, value in enumerate(z)]
    return result
