"""The oracle of error feedback against its definitions (spec section 7)."""

import math
import random
from fractions import Fraction

import pytest

from pvq_ref.errors import DomainError
from pvq_ref.oracle.feedback import (
    block,
    brute_force_group,
    brute_force_row,
    damped,
    exact,
    group_error,
    loss,
    points,
    propagation,
    rotated,
    solve,
    sweep_target,
    times,
)
from pvq_ref.oracle.rotation import plan


def moment(n, seed=0):
    """A positive definite matrix of small integers."""
    generator = random.Random(f"{n} {seed}")
    x = [[generator.randint(-3, 3) for _ in range(n)] for _ in range(n + 2)]
    return exact([[sum(row[i] * row[j] for row in x) + (i == j) for j in range(n)]
                  for i in range(n)])  # fmt: skip


def numbers(n, seed=0):
    generator = random.Random(f"{n} {seed} numbers")
    return [Fraction(generator.randint(-9, 9), 4) for _ in range(n)]


def test_elimination():
    a, b = moment(5), exact([numbers(3, i) for i in range(5)])
    assert times(a, solve(a, b)) == b
    assert solve(exact([[0, 1], [1, 0]]), exact([[2], [3]])) == exact([[3], [2]])
    with pytest.raises(DomainError, match="singular"):
        solve(exact([[1, 2], [2, 4]]), exact([[1], [1]]))


def test_propagation_by_hand():
    # E = (1, e): 2 + 2 e + 4 e² is least at e = -1/4; with e fixed alone its factor is 4
    h = exact([[2, 1], [1, 4]])
    got = propagation(h, 1, 2)
    assert got.metric == [[4]] and got.carry == [[Fraction(1, 4)]]
    got = propagation(h, 0, 1)
    assert got.metric == [[2 - Fraction(1, 4)]] and got.carry == []


@pytest.mark.parametrize(("n", "first", "stop"), [(6, 2, 4), (6, 0, 3), (5, 3, 5), (4, 0, 4)])
def test_propagation_is_least_squares(n, first, stop):
    """With the best later columns the loss is that of target and metric, up to a constant."""
    h, before = moment(n), numbers(first)
    got, later = propagation(h, first, stop), list(range(stop, n))

    def least(own):
        fixed = exact([[*before, *own]])
        if not later:
            return loss(fixed, h)
        pull = times(fixed, block(h, list(range(stop)), later))
        free = solve(block(h, later, later), [[-v] for v in pull[0]])
        best = [*fixed[0], *(v[0] for v in free)]
        for i in later:  # a minimum: no step along a later column is better
            for step in (Fraction(1, 8), Fraction(-1, 8)):
                other = [v + step * (i == j) for j, v in enumerate(best)]
                assert loss([other], h) > loss([best], h)
        return loss([best], h)

    carried = times(exact([before]), got.carry)[0] if first else [Fraction()] * (stop - first)
    zero = least([-value for value in carried])  # the error of the target itself
    for seed in range(3):
        own = numbers(stop - first, seed)
        away = [a + b for a, b in zip(own, carried, strict=True)]
        assert least(own) == zero + loss([away], got.metric)


def test_metrics_add_up_to_the_loss():
    h, error, total = moment(6), numbers(6), Fraction()
    for first, stop in ((0, 2), (2, 5), (5, 6)):
        got = propagation(h, first, stop)
        carried = times(exact([error[:first]]), got.carry)[0] if first else [Fraction()] * stop
        away = [a + b for a, b in zip(error[first:stop], carried, strict=True)]
        total += loss([away], got.metric)
    assert total == loss([error], h)


def test_the_target_of_a_sweep_is_best():
    h, w, error = moment(5), numbers(5), numbers(5, 1)
    best = sweep_target(w, error, h, 1, 3)

    def after(values):
        return loss([[error[0], w[1] - values[0], w[2] - values[1], *error[3:]]], h)

    for i in range(2):
        for step in (Fraction(1, 16), Fraction(-1, 16)):
            assert after([v + step * (i == j) for j, v in enumerate(best)]) > after(best)


def test_damping():
    assert damped(exact([[1, 2], [2, 5]]), Fraction(1, 3)) == exact([[2, 2], [2, 6]])


@pytest.mark.parametrize("cols", [4, 12, 7])
def test_rotation_keeps_the_identity_and_the_loss(cols):
    eye = exact([[i == j for j in range(cols)] for i in range(cols)])
    for i, row in enumerate(rotated(eye, 3, plan(cols))):
        assert row == [float(i == j) for j in range(cols)]
    h = moment(cols)
    trace = sum(row[i] for i, row in enumerate(rotated(h, 3, plan(cols))))
    assert math.isclose(trace, sum(row[i] for i, row in enumerate(h)), rel_tol=1e-14)


def test_points():
    assert len(set(points(3, 2))) == len(list(points(3, 2))) == 18
    assert all(sum(map(abs, y)) == 2 for y in points(3, 2))


def test_groups_by_hand():
    eye = exact([[1, 0], [0, 1]])
    assert group_error([3, 0], eye, (1, 0), 2.0, 1.0) == 1.0
    assert brute_force_group([3, 0], eye, 1, 2.0, [0.5, 1.0, 4.0]) == (1.0, (1, 0), 1)
    # under M the second coordinate is what counts, and its error changes sides
    M = exact([[1, 3], [3, 10]])
    error, y, number = brute_force_group([1, -1], M, 1, 1.0, [1.0])
    assert (error, y, number) == (1.0, (0, -1), 0)


def test_a_row_of_one_group_is_a_group():
    h, w = moment(3), numbers(3)
    error, _, _ = brute_force_group(w, h, 2, 1.5, [0.5, 1.0])
    assert math.isclose(brute_force_row(w, h, [3], 2, 1.5, [0.5, 1.0]), error, rel_tol=1e-12)
