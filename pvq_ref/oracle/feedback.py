"""Error feedback by definitions (spec section 7): fractions, elimination, and trying everything.

The fast code works with a triangular factor; here the later columns are solved for directly. If the
errors of the columns P are fixed and those of T are free, tr(E H Eᵀ) is least at E_T = -E_P H_PT
H_TT⁻¹, and what is left is E_P S E_Pᵀ with the Schur complement S = H_PP - H_PT H_TT⁻¹ H_TP.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

from pvq_ref.errors import DomainError
from pvq_ref.oracle.counting import count_closed_form
from pvq_ref.oracle.ranking import unrank
from pvq_ref.oracle.rotation import Block, dense

Matrix = list[list[Fraction]]
Numbers = Sequence[float | Fraction]


def exact(rows: Sequence[Numbers]) -> Matrix:
    """Return a matrix as fractions, without rounding."""
    return [[Fraction(value) for value in row] for row in rows]


def times(a: Matrix, b: Matrix) -> Matrix:
    """Return a b."""
    columns = list(zip(*b, strict=True))
    return [[sum(map(Fraction.__mul__, row, col), Fraction()) for col in columns] for row in a]


def block(a: Matrix, rows: Sequence[int], columns: Sequence[int]) -> Matrix:
    """Return some rows and columns of a matrix."""
    return [[a[i][j] for j in columns] for i in rows]


def solve(a: Matrix, b: Matrix) -> Matrix:
    """Return a⁻¹ b by elimination; DomainError if a is singular.

    >>> solve(exact([[2, 1], [1, 1]]), exact([[3], [2]]))
    [[Fraction(1, 1)], [Fraction(1, 1)]]
    """
    n = len(a)
    rows = [[*left, *right] for left, right in zip(a, b, strict=True)]
    for i in range(n):
        pivot = next((r for r in range(i, n) if rows[r][i]), None)
        if pivot is None:
            raise DomainError("matrix must be regular, got a singular one")
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for r in range(n):
            if r != i and rows[r][i]:
                rows[r] = [u - rows[r][i] * v for u, v in zip(rows[r], rows[i], strict=True)]
    return [row[n:] for row in rows]


# 7.1


def loss(errors: Matrix, h: Matrix) -> Fraction:
    """Return tr(E H Eᵀ) (section 7.1)."""
    return sum(
        (
            sum((u * v for u, v in zip(row, moved, strict=True)), Fraction())
            for row, moved in zip(errors, times(errors, h), strict=True)
        ),
        Fraction(),
    )


def damped(h: Matrix, damping: Fraction) -> Matrix:
    """Return H with its mean diagonal times the damping added to the diagonal (section 7.1)."""
    added = damping * sum((h[i][i] for i in range(len(h))), Fraction()) / len(h)
    return [[value + (added if i == j else 0) for j, value in enumerate(row)]
            for i, row in enumerate(h)]  # fmt: skip


def rotated(h: Matrix, seed: int, blocks: Sequence[Block]) -> list[list[float]]:
    """Return R H Rᵀ, each element rounded at the end alone (sections 6.6 and 7.1)."""
    rows, orders = dense(len(h), seed, blocks)
    r = exact(rows)
    inner = times(times(r, h), [list(column) for column in zip(*r, strict=True)])
    return [
        [float(value) / math.sqrt(orders[i] * orders[j]) for j, value in enumerate(row)]
        for i, row in enumerate(inner)
    ]


# 7.2, 7.4


@dataclass(frozen=True)
class Propagation:
    """A group's metric M, and what carries the errors of earlier columns into its target."""

    metric: Matrix
    carry: Matrix  # the target is w_Q + E_< carry


def propagation(h: Matrix, first: int, stop: int) -> Propagation:
    """Return the metric and the carry of the columns first … stop - 1, later ones being free."""
    fixed, own, later = range(stop), range(first, stop), range(stop, len(h))
    s = block(h, fixed, fixed)
    if later:
        answer = solve(block(h, later, later), block(h, later, fixed))  # -E_T = E_P answerᵀ
        saved = times(block(h, fixed, later), answer)
        s = [[u - v for u, v in zip(*rows, strict=True)] for rows in zip(s, saved, strict=True)]
    metric, before = block(s, own, own), block(s, own, range(first))
    carry = solve(metric, before) if first else [[] for _ in own]  # transposed
    return Propagation(metric, [list(column) for column in zip(*carry, strict=True)])


def sweep_target(w: Numbers, errors: Numbers, h: Matrix, first: int, stop: int) -> list[Fraction]:
    """Return the best value of the columns first … stop - 1, all others fixed (section 7.4)."""
    own = range(first, stop)
    others = [i for i in range(len(h)) if i not in own]
    pull = times(exact([[errors[i] for i in others]]), block(h, others, own))[0]
    answer = solve(block(h, own, own), [[value] for value in pull])
    return [Fraction(w[i]) + a[0] for i, a in zip(own, answer, strict=True)]


# 7.3


def points(n: int, k: int) -> Iterator[tuple[int, ...]]:
    """Yield all points of P(n,k)."""
    for index in range(count_closed_form(n, k)):
        yield tuple(unrank(index, n, k))


def group_error(
    target: Numbers, metric: Matrix, y: Sequence[int], unit: float, level: float
) -> float:
    """Return (t - s y) M (t - s y)ᵀ, s = unit · level/||y||, rounding the root and the result."""
    t = exact([target])
    moved = times(t, metric)[0]
    const = sum((a * b for a, b in zip(moved, t[0], strict=True)), Fraction())
    linear = sum((a * b for a, b in zip(moved, y, strict=True)), Fraction())
    energy = loss(exact([y]), metric)
    square = sum(value * value for value in y)
    amplitude = Fraction(unit) * Fraction(level)
    root = Fraction(math.sqrt(square))
    return float(const - 2 * amplitude * linear / root + amplitude**2 * energy / square)


def brute_force_group(
    target: Numbers, metric: Matrix, k: int, unit: float, levels: Sequence[float]
) -> tuple[float, tuple[int, ...], int]:
    """Return the least error of a group, with a point and a level that have it (section 7.3)."""
    return min(
        (group_error(target, metric, y, unit, level), y, number)
        for y in points(len(target), k)
        for number, level in enumerate(levels)
    )


def brute_force_row(
    w: Numbers, h: Matrix, groups: Sequence[int], k: int, unit: float, levels: Sequence[float]
) -> float:
    """Return the least loss of a whole row over all points and levels of all groups.

    groups holds the coordinates of each group, whose pulses are k.
    """
    choices = [
        [
            [unit * level / math.sqrt(sum(v * v for v in y)) * value for value in y]
            for y in points(n, k)
            for level in levels
        ]
        for n in groups
    ]
    full = [[float(value) for value in row] for row in h]
    least = math.inf
    for chosen in product(*choices):
        decoded = [value for group in chosen for value in group]
        error = [float(a) - b for a, b in zip(w, decoded, strict=True)]
        pulls = (sum(map(float.__mul__, error, row)) for row in full)
        least = min(least, sum(map(float.__mul__, error, pulls)))
    return least
