"""The oracle's rotations (spec section 6)."""

import math
import random
from fractions import Fraction
from itertools import islice

import pytest

from pvq_ref.errors import DomainError, ShapeError
from pvq_ref.oracle.hadamard import (
    add,
    base,
    chi,
    modulus,
    multiply,
    paley_one,
    paley_two,
    prime_power,
    subtract,
    sylvester,
)
from pvq_ref.oracle.rotation import (
    Block,
    base_order,
    dense,
    forward,
    inverse,
    plan,
    signs,
    splitmix64,
    sylvester_exponent,
)


def is_hadamard(rows):
    """H Hᵀ = d I, with rows of ±1 as bit sets: two rows are orthogonal if they differ in d/2."""
    assert all(value in (-1, 1) for row in rows for value in row)
    d = len(rows)
    sets = [sum(1 << j for j, value in enumerate(row) if value > 0) for row in rows]
    return all(len(row) == d for row in rows) and all(
        2 * (sets[i] ^ sets[j]).bit_count() == d for i in range(d) for j in range(i)
    )


# 6.1, 6.2


def test_known_outputs_of_splitmix64():
    assert list(islice(splitmix64(0), 4)) == [
        0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC
    ]  # fmt: skip
    # the example of other implementations, state 1234567
    assert list(islice(splitmix64(1234567), 3)) == [
        6457827717110365317, 3203168211198807973, 9817491932198370423
    ]  # fmt: skip


def test_signs_are_the_bits_of_the_second_generator():
    state = 0xE220A8397B1DCDAF ^ 130
    words = list(islice(splitmix64(state), 3))
    got = signs(0, 130)
    assert len(got) == 130
    for i, sign in enumerate(got):
        assert sign == (-1) ** (words[i // 64] >> (i % 64) & 1)


def test_signs_depend_on_the_seed_and_the_width():
    assert signs(1, 64) == signs(1, 64)
    assert signs(1, 64) != signs(2, 64)
    assert signs(1, 128)[:64] != signs(1, 64)
    assert abs(sum(signs(3, 10000))) < 400
    assert len(signs(2**64 - 1, 5)) == 5


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_outside_its_domain(seed):
    with pytest.raises(DomainError, match="seed must be"):
        signs(seed, 4)


# 6.4


def test_prime_powers():
    got = [q for q in range(30) if prime_power(q)]
    assert got == [2, 3, 4, 5, 7, 8, 9, 11, 13, 16, 17, 19, 23, 25, 27, 29]
    assert prime_power(343) == (7, 3)
    assert prime_power(1019) == (1019, 1)


def test_smallest_irreducible_polynomials():
    assert modulus(9) == (1, 0, 1)  # x² + 1; x², the number 0, is not irreducible
    assert modulus(25) == (2, 0, 1)  # x² + 2, since -1 is a square modulo 5
    assert modulus(27) == (1, 2, 0, 1)  # x³ + 2x + 1
    assert modulus(4) == (1, 1, 1)
    assert modulus(8) == (1, 1, 0, 1)
    assert modulus(16) == (1, 1, 0, 0, 1)
    assert modulus(7) == (0, 1)


@pytest.mark.parametrize("q", [27, 125, 343])
def test_a_polynomial_of_degree_three_is_the_first_without_a_root(q):
    """An independent rule: up to degree 3, irreducible means without a root."""
    p, _ = prime_power(q)

    def has_root(number):
        c = [number // p**i % p for i in range(3)]
        return any((c[0] + c[1] * x + c[2] * x * x + x**3) % p == 0 for x in range(p))

    ref = next(number for number in range(q) if not has_root(number))
    assert sum(c * p**i for i, c in enumerate(modulus(q)[:-1])) == ref


@pytest.mark.parametrize("q", [5, 7, 9, 25, 27])
def test_laws_of_a_field(q):
    elements = range(q)
    for a in elements:
        assert add(a, 0, q) == multiply(a, 1, q) == a
        assert multiply(a, 0, q) == 0
        assert sorted(add(a, b, q) for b in elements) == list(elements)
        assert all(subtract(add(a, b, q), b, q) == a for b in elements)
        if a:
            assert sorted(multiply(a, b, q) for b in elements) == list(elements)
    generator = random.Random(q)
    for _ in range(200):
        a, b, c = (generator.randrange(q) for _ in range(3))
        assert multiply(a, b, q) == multiply(b, a, q)
        assert multiply(a, multiply(b, c, q), q) == multiply(multiply(a, b, q), c, q)
        ref = add(multiply(a, b, q), multiply(a, c, q), q)
        assert multiply(a, add(b, c, q), q) == ref


@pytest.mark.parametrize("q", [7, 9, 13, 25, 27, 49])
def test_chi_is_the_power_of_eulers_criterion(q):
    def power(e, exponent):
        result = 1
        for _ in range(exponent):
            result = multiply(result, e, q)
        return result

    minus_one = subtract(0, 1, q)
    assert chi(0, q) == 0
    for e in range(1, q):
        assert power(e, (q - 1) // 2) == (1 if chi(e, q) == 1 else minus_one)


def test_chi_modulo_seven():
    assert [chi(e, 7) for e in range(7)] == [0, 1, 1, -1, 1, -1, -1]


# 6.5


@pytest.mark.parametrize("q", [3, 7, 11, 19, 23, 27, 31, 43, 343])
def test_paley_one_is_hadamard(q):
    H = paley_one(q)
    assert len(H) == q + 1
    assert is_hadamard(H)
    assert set(H[0]) == {1}
    assert {row[0] for row in H[1:]} == {-1}


@pytest.mark.parametrize("q", [5, 9, 13, 17, 25, 29, 125])
def test_paley_two_is_hadamard(q):
    H = paley_two(q)
    assert len(H) == 2 * (q + 1)
    assert is_hadamard(H)
    assert tuple(zip(*H, strict=True)) == H  # symmetric
    assert [row[:2] for row in H[:2]] == [(1, -1), (-1, -1)]
    assert [row[2:4] for row in H[:2]] == [(1, 1), (1, -1)]


def test_paley_one_of_order_four_and_eight():
    assert paley_one(3) == ((1, 1, 1, 1), (-1, 1, -1, 1), (-1, 1, 1, -1), (-1, -1, 1, 1))
    assert paley_one(7)[1] == (-1, 1, -1, -1, 1, -1, 1, 1)


def test_sylvester():
    assert sylvester(0) == ((1,),)
    assert sylvester(1) == ((1, 1), (1, -1))
    S = sylvester(5)
    assert is_hadamard(S)
    assert all(S[i][j] == (-1) ** (i & j).bit_count() for i in range(32) for j in range(32))


@pytest.mark.parametrize("q", [5, 15, 4, 1])
def test_paley_one_of_another_field(q):
    with pytest.raises(DomainError, match="q must be"):
        paley_one(q)


@pytest.mark.parametrize("q", [7, 21, 4, 1])
def test_paley_two_of_another_field(q):
    with pytest.raises(DomainError, match="q must be"):
        paley_two(q)


# 6.3


@pytest.mark.parametrize(
    ("cols", "paley", "q"),
    [
        (1, 0, 0), (2, 0, 0), (4, 0, 0), (8, 0, 0), (4096, 0, 0), (12, 1, 11), (20, 1, 19),
        (24, 1, 11), (28, 2, 13), (36, 2, 17), (44, 1, 43), (52, 2, 25), (60, 1, 59), (76, 2, 37),
        (100, 2, 49), (344, 1, 343), (576, 2, 17), (1536, 1, 11), (14336, 2, 13), (11008, 1, 343),
        (244, 1, 243), (1020, 1, 1019),
    ],
)  # fmt: skip
def test_one_block(cols, paley, q):
    assert plan(cols) == [Block(1, cols, paley, q)]


def test_the_base_may_be_larger_than_the_least_multiple_of_four():
    # 1472 = 23 · 64: neither 92 nor 184 is a Paley order, but 368 = 367 + 1 is
    assert plan(1472) == [Block(1, 1472, 1, 367)]


def test_several_blocks():
    assert plan(13696) == [Block(107, 128, 0, 0)]
    assert plan(577) == [Block(1, 512, 0, 0), Block(1, 64, 0, 0), Block(1, 1, 0, 0)]
    assert plan(3) == [Block(1, 2, 0, 0), Block(1, 1, 0, 0)]


@pytest.mark.parametrize("cols", [*range(1, 200), 768, 3072, 5120, 13824, 18944, 27648])
def test_plans_fill_the_columns_with_available_orders(cols):
    blocks = plan(cols)
    assert sum(block.count * block.order for block in blocks) == cols
    for block in blocks:
        h = base_order(block.paley, block.q)
        assert h << sylvester_exponent(block) == block.order
        assert h <= 1024


def test_available_orders_below_200():
    """By another route: mark h · 2^e for every base, and compare with the plans of one block."""
    orders = {1}
    for q in range(3, 1024, 2):
        if prime_power(q):
            orders.add(q + 1 if q % 4 == 3 else 2 * q + 2)
    available = {h << e for h in orders if h <= 1024 for e in range(9)}
    assert {d for d in range(1, 200) if len(plan(d)) == 1 and plan(d)[0].count == 1} == {
        d for d in available if d < 200
    }


def test_plans_outside_the_domain():
    with pytest.raises(DomainError, match="cols must be"):
        plan(0)
    with pytest.raises(DomainError, match="order must be"):
        sylvester_exponent(Block(1, 36, 1, 11))
    with pytest.raises(DomainError, match="order must be"):
        sylvester_exponent(Block(1, 3, 0, 0))
    with pytest.raises(DomainError, match="paley, q"):
        base_order(0, 3)
    with pytest.raises(DomainError, match="paley, q"):
        base_order(1, 13)
    with pytest.raises(DomainError, match="a base must have an order"):
        base_order(2, 577)


# 6.6, 6.7


@pytest.mark.parametrize("cols", [1, 2, 3, 8, 12, 20, 24, 28, 36, 40, 65, 144, 344, 576])
def test_dense_rows_are_orthogonal(cols):
    rows, orders = dense(cols, 5)
    assert len(rows) == len(orders) == cols
    if len(plan(cols)) == 1:
        assert is_hadamard(rows)
    start = 0
    while start < cols:
        end = start + orders[start]
        assert is_hadamard([row[start:end] for row in rows[start:end]])
        assert not any(any(row[:start]) or any(row[end:]) for row in rows[start:end])
        start = end


@pytest.mark.parametrize("cols", [1, 3, 8, 12, 24, 28, 36, 65, 576])
def test_forward_is_the_dense_matrix(cols):
    generator = random.Random(cols)
    row = [float(generator.randint(-50, 50)) for _ in range(cols)]  # sums are exact
    rows, orders = dense(cols, 9)
    got = forward(row, 9, plan(cols))
    for i, value in enumerate(got):
        total = sum(a * int(b) for a, b in zip(rows[i], row, strict=True))
        assert value == total * (1.0 / math.sqrt(orders[i]))


@pytest.mark.parametrize("cols", [1, 3, 8, 12, 24, 28, 36, 65, 576])
def test_inverse_is_the_transposed_matrix(cols):
    generator = random.Random(cols)
    row = [float(generator.randint(-50, 50)) for _ in range(cols)]
    rows, orders = dense(cols, 9)
    got = inverse(row, 9, plan(cols))
    for j, value in enumerate(got):
        total = sum(rows[i][j] * int(row[i]) for i in range(cols))
        assert value == total * (1.0 / math.sqrt(orders[j]))


@pytest.mark.parametrize("cols", [2, 5, 12, 28, 64, 344, 577])
def test_forward_and_inverse_undo_each_other(cols):
    generator = random.Random(cols)
    row = [generator.gauss(0, 1) for _ in range(cols)]
    blocks = plan(cols)
    for back in (
        inverse(forward(row, 7, blocks), 7, blocks),
        forward(inverse(row, 7, blocks), 7, blocks),
    ):
        assert max(abs(a - b) for a, b in zip(row, back, strict=True)) < 1e-13


def test_forward_by_hand():
    s = signs(4, 4)
    z = [s[0] * 1.0, s[1] * 0.1, s[2] * 0.01, s[3] * 7.0]
    a, b, c, d = z[0] + z[1], z[0] - z[1], z[2] + z[3], z[2] - z[3]
    assert forward([1.0, 0.1, 0.01, 7.0], 4, plan(4)) == [
        (a + c) * 0.5, (b + d) * 0.5, (a - c) * 0.5, (b - d) * 0.5
    ]  # fmt: skip


def test_base_step_sums_from_the_left():
    # order 12: each output is a chain of twelve additions, rounded one by one
    generator = random.Random(0)
    row = [generator.gauss(0, 1) * 10 ** generator.randint(-8, 8) for _ in range(12)]
    columns, H = signs(2, 12), base(1, 11)
    ref = []
    for i in range(12):
        total = H[i][0] * (columns[0] * row[0])
        for j in range(1, 12):
            total = total + H[i][j] * (columns[j] * row[j])
        ref.append(total * (1.0 / math.sqrt(12)))
    assert forward(row, 2, plan(12)) == ref


def test_steps_come_in_the_stated_order():
    """Order 24 = 12 · 2: the results of the two orders of steps differ in their rounding."""
    generator = random.Random(24)
    row = [generator.gauss(0, 1) for _ in range(24)]
    columns, H = signs(1, 24), base(1, 11)

    def pairs(z):
        return [z[i] + z[i + 1] if i % 2 == 0 else z[i - 1] - z[i] for i in range(24)]

    def twelve(z, transpose):
        result = []
        for i in range(24):
            total = 0.0
            for j in range(12):
                total += (H[j][i // 2] if transpose else H[i // 2][j]) * z[2 * j + i % 2]
            result.append(total)
        return result

    def close(z):
        return [value * (1.0 / math.sqrt(24)) for value in z]

    z = [a * b for a, b in zip(columns, row, strict=True)]
    assert forward(row, 1, plan(24)) == close(twelve(pairs(z), False))
    assert forward(row, 1, plan(24)) != close(pairs(twelve(z, False)))
    ref = close(pairs(twelve(row, True)))
    assert inverse(row, 1, plan(24)) == [a * b for a, b in zip(columns, ref, strict=True)]
    assert close(twelve(pairs(row), True)) != ref


@pytest.mark.parametrize("cols", [24, 56])
def test_forward_is_close_to_exact_sums(cols):
    generator = random.Random(cols)
    row = [generator.gauss(0, 1) for _ in range(cols)]
    rows, orders = dense(cols, 1)
    got = forward(row, 1, plan(cols))
    for i in range(cols):
        exact = sum(Fraction(a) * Fraction(b) for a, b in zip(rows[i], row, strict=True))
        assert abs(got[i] - float(exact) / math.sqrt(orders[i])) < 1e-14


def test_blocks_that_do_not_fill_the_row():
    with pytest.raises(ShapeError, match="blocks must cover 5 columns, got 4"):
        forward([1.0] * 5, 0, [Block(1, 4, 0, 0)])
