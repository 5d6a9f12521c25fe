"""Rotation against the oracle and against dense matrices (spec section 6)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvq_ref.errors import DomainError
from pvq_ref.hadamard import Construction, available, constructions, matrix, plan, prime_power
from pvq_ref.oracle import rotation as oracle
from pvq_ref.oracle.hadamard import base
from pvq_ref.rotation import MAX_SEED, Rotation, signs, splitmix64

WIDTHS = [1, 2, 3, 12, 13, 24, 28, 36, 40, 64, 77, 100, 144, 192, 384, 576, 577, 688, 1536]
FIELDS = [Construction(1, 27), Construction(1, 343), Construction(2, 9), Construction(2, 25),
          Construction(2, 49), Construction(2, 81), Construction(2, 125)]  # fmt: skip


@pytest.mark.parametrize("construction", [*constructions().values(), *FIELDS], ids=str)
def test_matrices_are_hadamard(construction):
    h = matrix(construction)
    assert set(np.unique(h)) <= {-1.0, 1.0}
    assert np.array_equal(h @ h.T, construction.order * np.eye(construction.order))


@pytest.mark.parametrize(
    "construction",
    [c for c in [*constructions().values(), *FIELDS] if c.order <= 130 and c.q] + FIELDS[1:2],
    ids=str,
)
def test_matrices_equal_oracle(construction):
    assert np.array_equal(matrix(construction), base(construction.paley, construction.q))


def test_constructions_prefer_primes_then_the_first_kind():
    found = constructions()
    assert found[28] == Construction(2, 13)  # not I over GF(27)
    assert found[12] == Construction(1, 11)  # not II over GF(5)
    assert found[344] == Construction(1, 343)
    assert found[36] == Construction(2, 17)
    assert 92 not in found
    assert max(found) <= 1024


@pytest.mark.parametrize("cols", [*WIDTHS, 2880, 11008, 13696, 14336, 18944, 29568, 4099])
def test_plan_equals_oracle(cols):
    got = [(b.count, b.order, b.base.paley, b.base.q) for b in plan(cols)]
    assert got == [(b.count, b.order, b.paley, b.q) for b in oracle.plan(cols)]
    assert sum(count * order for count, order, _, _ in got) == cols


def test_plans_of_the_spec():
    def parts(cols):
        return [(b.count, b.order, b.base.order) for b in plan(cols)]

    assert parts(576) == [(1, 576, 36)]
    assert parts(1536) == [(1, 1536, 12)]
    assert parts(14336) == [(1, 14336, 28)]
    assert parts(11008) == [(1, 11008, 344)]
    assert parts(13696) == [(107, 128, 1)]
    assert parts(577) == [(1, 512, 1), (1, 64, 1), (1, 1, 1)]


def test_splitmix64_equals_oracle():
    for state in (0, 1, 2**63, MAX_SEED):
        stream = oracle.splitmix64(state)
        assert splitmix64(state, 20).tolist() == [next(stream) for _ in range(20)]


@given(st.integers(0, MAX_SEED), st.integers(1, 200))
def test_signs_equal_oracle(seed, cols):
    assert signs(seed, cols).tolist() == oracle.signs(seed, cols)


@pytest.mark.uncompiled
@pytest.mark.parametrize("cols", [1, 3, 12, 13, 24, 72, 77])
def test_forward_and_inverse_equal_oracle_bit_for_bit_on_small_widths(cols):
    check_equals_oracle(cols)


@pytest.mark.parametrize("cols", WIDTHS)
def test_forward_and_inverse_equal_oracle_bit_for_bit(cols):
    check_equals_oracle(cols)


def check_equals_oracle(cols):
    rotation = Rotation.of(cols, 7)
    row = np.random.default_rng(cols).standard_normal(cols)
    blocks = oracle.plan(cols)
    got = row[None].copy()
    rotation.forward(got)
    assert got[0].tolist() == oracle.forward(row.tolist(), 7, blocks)
    back = row[None].copy()
    rotation.inverse(back)
    assert back[0].tolist() == oracle.inverse(row.tolist(), 7, blocks)


@pytest.mark.parametrize("cols", [*WIDTHS, 11008, 13696, 14336, 997])
def test_inverse_undoes_forward_and_lengths_stay(cols):
    x = np.random.default_rng(cols).standard_normal((3, cols))
    z = x.copy()
    rotation = Rotation.of(cols, 1)
    rotation.forward(z)
    assert np.allclose(np.sum(z * z, axis=1), np.sum(x * x, axis=1), rtol=1e-12)
    rotation.inverse(z)
    assert np.allclose(z, x, atol=1e-12)


@pytest.mark.parametrize("cols", [12, 24, 72, 144])
def test_forward_is_the_dense_product(cols):
    """(base ⊗ Sylvester) D / sqrt(cols), made of dense matrices."""
    (block,) = plan(cols)
    e = (cols // block.base.order).bit_length() - 1
    sylvester = np.ones((1, 1))
    for _ in range(e):
        sylvester = np.kron(sylvester, [[1, 1], [1, -1]])
    dense = np.kron(matrix(block.base), sylvester) * signs(3, cols) / np.sqrt(cols)
    x = np.random.default_rng(0).standard_normal((4, cols))
    got = x.copy()
    Rotation.of(cols, 3).forward(got)
    assert np.allclose(got, x @ dense.T, atol=1e-13)


def test_seeds_differ_and_layers_of_one_width_share_signs():
    assert not np.array_equal(signs(0, 576), signs(1, 576))
    assert np.array_equal(signs(5, 576), signs(5, 576))
    assert abs(signs(0, 100_000).mean()) < 0.02


@pytest.mark.parametrize("q", [1, 2, 3, 4, 6, 8, 9, 12, 27, 343, 1000, 1009])
def test_prime_powers(q):
    known = {2: (2, 1), 3: (3, 1), 4: (2, 2), 8: (2, 3), 9: (3, 2), 27: (3, 3), 343: (7, 3)}
    assert prime_power(q) == (known | {1009: (1009, 1)}).get(q)


def test_available_orders():
    assert available(576) == Construction(2, 17)
    assert available(4096) == Construction(0, 0)
    assert available(13696) is None
    assert available(3) is None


@pytest.mark.parametrize("seed", [-1, 2**64, 0.5])
def test_seed(seed):
    with pytest.raises(DomainError, match="seed must be"):
        Rotation.of(8, seed)
