"""Entropies of stored fields beside their widths."""

import json
from collections import Counter
from dataclasses import replace
from math import log, log2

import numpy as np
import pytest
from safetensors.numpy import save_file

import pvq_ref
from pvq_ref import count, rank, search
from pvq_ref.cli import main
from pvq_ref.counting import bits
from pvq_ref.entropy import (
    NOTHING,
    entropy,
    entropy_of_counts,
    entropy_of_norms,
    log2_points,
    squared_norms,
)
from pvq_ref.errors import PayloadError
from pvq_ref.oracle import packing, ranking
from pvq_ref.oracle.counting import enumerate_pyramid
from tests.models import flip


def correction(values, groups):
    return (values - 1) / (2 * log(2) * groups)


@pytest.mark.parametrize("n", range(1, 6))
@pytest.mark.parametrize("k", range(7))
def test_points_of_each_norm_are_those_of_the_enumeration(n, k):
    ref = Counter(sum(value * value for value in y) for y in enumerate_pyramid(n, k))
    got = log2_points(n, k, k * k)
    assert {b: round(2**x) for b, x in enumerate(got) if x > -np.inf} == ref
    assert np.array_equal(log2_points(n, k, k * k // 2), got[: k * k // 2 + 1])


@pytest.mark.parametrize(("n", "k"), [(32, 56), (128, 40), (7, 100), (600, 20)])
def test_points_of_all_norms_are_those_of_the_pyramid(n, k):
    ref = log2(count(n, k))
    got = log2_points(n, k, k * k)
    assert got.max() + log2(np.sum(2 ** (got - got.max()))) == pytest.approx(ref, rel=1e-12)


@pytest.mark.parametrize(("n", "k"), [(1, 3), (2, 4), (5, 3), (4, 5)])
def test_a_pyramid_whose_points_come_equally_often_has_the_entropy_log2_V(n, k):
    y = np.array(list(enumerate_pyramid(n, k)), np.int32)
    b = squared_norms(np.tile(y, (50, 1)))
    got = entropy_of_norms(n, k, b)
    assert got == pytest.approx(log2(count(n, k)) + correction(len(set(b)), len(b)), abs=1e-9)


def test_frequencies():
    assert entropy_of_counts(np.array([0, 7, 0])) == 0
    got = entropy_of_counts(np.array([[2, 2], [0, 4]]))
    assert got == pytest.approx(1.5 + correction(3, 8))


@pytest.mark.parametrize(("n", "k"), [(2, 4), (3, 6), (4, 5)])
def test_of_a_gaussian_source_it_is_the_entropy_of_the_indices(n, k):
    """Here indices are few enough to be counted; the bound has to be tight."""
    y = search(np.random.default_rng(n).standard_normal((200_000, n)), k)
    ref = entropy_of_counts(np.unique(rank(y), return_counts=True)[1])
    got = entropy_of_norms(n, k, squared_norms(y))
    assert ref - 0.01 < got < ref + 0.01
    assert ref < log2(count(n, k)) - 0.01


def test_never_below_the_entropy_of_the_indices():
    """One vector and its permutations: the bound knows nothing of their places."""
    y = np.array([[3, 1, 0, 0]] * 90 + [[1, 3, 0, 0]] * 10, np.int32)
    ref = entropy_of_counts(np.unique(rank(y), return_counts=True)[1])
    assert entropy_of_norms(4, 4, squared_norms(y)) == pytest.approx(log2(48)) != ref


def reference(t):
    """All figures of a tensor, counted with the oracle's words."""
    a, grid = t.allotment, t.grid
    kinds = [(grid.n, a.k)] * grid.whole + ([(grid.tail, a.tail_k)] if grid.tail else [])
    widths = [bits(n, k) for n, k in kinds] * grid.rows
    indices = packing.unpack_mixed(t.index.tobytes(), widths)
    gains = packing.unpack(t.gain.tobytes(), a.gain_bits, len(indices))
    total = np.zeros(5)
    for n, k in dict.fromkeys(kinds):
        mine = [i for i in range(len(indices)) if kinds[i % len(kinds)] == (n, k)]
        norms = [
            sum(v * v for v in ranking.unrank(indices[i], n, k, t.coding.order, t.coding.block))
            for i in mine
        ]
        of_norm = Counter(sum(v * v for v in y) for y in enumerate_pyramid(n, k))
        index = sum(log2(of_norm[b]) for b in norms)
        for counts, start in ((Counter(norms), index), (Counter(gains[i] for i in mine), 0.0)):
            plain = sum(c * log2(len(mine) / c) for c in counts.values())
            total[2 if start else 4] += start + plain + (len(counts) - 1) / (2 * log(2))
        total[[0, 1, 3]] += len(mine) * np.array([bits(n, k), log2(count(n, k)), a.gain_bits])
    return total


@pytest.mark.parametrize("cols", [12, 14])
def test_of_a_tensor(cols):
    w = np.random.default_rng(cols).standard_normal((9, cols))
    t = pvq_ref.quantize(w, bits=5, group=4, gain_bits=2)
    got = entropy(t)
    assert got.weights == w.size
    assert list(got.per_weight().values()) == pytest.approx(reference(t) / w.size)
    assert got.index_width + got.gain_width == t.rates.coded * w.size
    assert got.index_log2 + got.gain_width == pytest.approx(t.rates.fractional * w.size)


def test_threads_change_nothing():
    t = pvq_ref.quantize(np.random.default_rng(0).standard_normal((700, 576)))
    ref = entropy(t, 1)
    assert entropy(t, 2) == entropy(t, 4) == ref
    assert 0.95 * ref.index_log2 < ref.index_entropy < 0.985 * ref.index_log2


def test_where_n_and_k_are_too_large_nothing_is_said():
    t = pvq_ref.quantize(np.random.default_rng(0).standard_normal((2, 64)), bits=8, gain_bits=0)
    got = entropy(t)
    assert got.index_entropy is None
    assert (got + got).index_entropy is (got + NOTHING).index_entropy is None
    assert got.per_weight()["index_entropy"] is None
    assert got.gain_entropy == got.gain_width == 0


def test_an_index_outside_its_range_is_a_payload_error():
    t = pvq_ref.quantize(np.random.default_rng(0).standard_normal((8, 64)))
    with pytest.raises(PayloadError, match="index must be below V"):
        entropy(replace(t, index=np.full_like(t.index, 255)))


def test_inspect_shows_it(tmp_path, capsys):
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal((64, 96), np.float32) for name in ("a", "b")}
    save_file(tensors, tmp_path / "in")
    pvq_ref.compress(tmp_path / "in", tmp_path / "out", 3.25)
    packed = pvq_ref.load(tmp_path / "out")
    ref = {name: entropy(packed[name]) for name in tensors}
    assert main(["inspect", str(tmp_path / "out"), "--entropy", "--json"]) == 0
    out, err = capsys.readouterr()
    got = json.loads(out)
    assert {one["name"]: one["entropy"] for one in got["tensors"]} == {
        name: one.per_weight() for name, one in ref.items()
    }
    assert got["entropy"] == (ref["a"] + ref["b"]).per_weight()
    assert err.count(" have an entropy of ") == 3


def test_inspect_names_the_tensor_that_is_broken(tmp_path, capsys):
    save_file({"a": np.ones((64, 96), np.float32)}, tmp_path / "in")
    pvq_ref.compress(tmp_path / "in", tmp_path / "out", 3.25)
    flip(tmp_path / "out", -1)
    assert main(["inspect", str(tmp_path / "out"), "--entropy"]) == 1
    assert capsys.readouterr().err.startswith("pvq-ref: tensor 'a': entry 'a_index' must have SHA")
    assert main(["inspect", str(tmp_path / "out")]) == 0
