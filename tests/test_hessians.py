"""Hessians as files (spec section 7.6)."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pvq_ref.errors import (
    DomainError,
    DTypeError,
    HeaderError,
    MetadataError,
    NonFiniteError,
    OutputError,
    PayloadError,
    ShapeError,
    VersionError,
)
from pvq_ref.hessian_writer import hessian_writer
from pvq_ref.hessians import KEY, Hessians, Text, layer_of

TEXT = Text("0123456789abcdef" * 4, 512, (1 << 64) - 1)


def moment(cols, seed=0, tokens=50):
    x = np.random.default_rng([seed, cols]).standard_normal((tokens, cols))
    return (x.T @ x / tokens).astype(np.float32)


def described(hessians, text=None, **changes):
    return {KEY: json.dumps({"format_version": 1, "writer": "any", "text": text,
                             "hessians": hessians} | changes)}  # fmt: skip


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "h.safetensors"
    cols = {"a.up": 6, "a.down": 9, "a.q": 6, "a.k": 6, "never run": 4}
    with hessian_writer(path, cols, TEXT) as writer:
        writer.write(["a.q", "a.k"], moment(6).astype(np.float64), 100)
        writer.write(["a.down"], moment(9), 7)
        writer.write(["a.up"], moment(6, 1), 100)
    got = Hessians(path)
    assert got.text == TEXT
    assert sorted(got) == ["a.down", "a.k", "a.q", "a.up"] and len(got) == 4
    assert "a.k" in got and "never run" not in got
    assert [got.home(layer) for layer in ("a.q", "a.k", "a.up")] == ["a.q", "a.q", "a.up"]
    assert [got.tokens(layer) for layer in ("a.k", "a.down")] == [100, 7]
    assert got.read("a.k", 6).dtype == np.float32
    assert np.array_equal(got.read("a.k", 6), moment(6))
    assert np.array_equal(got.read("a.down"), moment(9))
    assert np.array_equal(got.read("a.up", 6), moment(6, 1))


def test_other_programs_read_it(tmp_path):
    path = tmp_path / "h.safetensors"
    with hessian_writer(path, {"b": 3, "a": 5}) as writer:
        writer.write(["b"], moment(3), 1)
        writer.write(["a"], moment(5), 2)
    got = load_file(path)
    assert sorted(got) == ["a.hessian", "b.hessian"]
    assert np.array_equal(got["b.hessian"], moment(3))
    assert Hessians(path).text is None


def test_files_of_other_programs(tmp_path):
    path = tmp_path / "h.safetensors"
    save_file({"x.hessian": moment(4), "y.hessian": moment(3)}, path)
    got = Hessians(path)
    assert sorted(got) == ["x", "y"] and got.text is None and got.tokens("x") is None
    assert np.array_equal(got.read("y", 3), moment(3))
    hessians = {"x": {"layers": ["z", "x"], "tokens": 5}, "y": {"layers": ["y"], "tokens": 6}}
    text = {"sha256": TEXT.sha256, "window": 512, "seed": str(TEXT.seed)}
    save_file({"x.hessian": moment(4), "y.hessian": moment(3)}, path,
              described(hessians, text) | {"format": "pt"})  # fmt: skip
    got = Hessians(path)
    assert got.text == TEXT and got.tokens("z") == 5 and got.home("z") == "x"
    assert np.array_equal(got.read("z"), moment(4))


def test_metadata_is_canonical_whatever_the_order_of_layers(tmp_path):
    one, other = tmp_path / "1", tmp_path / "2"
    for path, layers in ((one, ["a", "c", "b"]), (other, ["a", "b", "c"])):
        with hessian_writer(path, dict.fromkeys("abc", 4), TEXT) as writer:
            writer.write(layers, moment(4), 9)
    assert one.read_bytes() == other.read_bytes()


def test_layers_of_weights():
    assert layer_of("model.layers.0.mlp.up_proj.weight") == "model.layers.0.mlp.up_proj"
    assert layer_of("experts.gate_up_proj") == "experts.gate_up_proj"


@pytest.mark.parametrize(
    ("layers", "hessian", "tokens", "error", "match"),
    [
        ([], moment(4), 1, DomainError, "layers must name at least one"),
        (["x"], moment(4), 1, DomainError, "layers must be of those of the file, got 'x'"),
        (["done"], moment(4), 1, DomainError, "layers must be written once, got 'done' again"),
        (["a", "a"], moment(4), 1, DomainError, "layers must be written once, got 'a' again"),
        (["a", "wide"], moment(4), 1, ShapeError, "as many columns"),
        (["a"], moment(4), 0, DomainError, "tokens must be from 1"),
        (["a"], moment(4), 1.5, DomainError, "tokens must be an integer"),
        (["a"], moment(3), 1, ShapeError, r"hessian must be of shape \(4, 4\), got \(3, 3\)"),
        (["a"], moment(4) * 1j, 1, DTypeError, "hessian must be of real numbers, got complex"),
        (["a"], moment(4) * np.nan, 1, NonFiniteError, r"got nan at \(0, 0\)"),
        (["a"], -moment(4), 1, DomainError, "no negative diagonal"),
        (["a"], np.triu(moment(4)), 1, DomainError, "hessian must be symmetric, got"),
        (["a"], np.eye(4) * 1e40, 1, DomainError, "hessian must fit binary32"),
    ],
)  # fmt: skip
def test_what_is_not_written(tmp_path, layers, hessian, tokens, error, match):
    path = tmp_path / "h"
    with (
        pytest.raises(error, match=match),
        hessian_writer(path, {"a": 4, "done": 4, "wide": 5}) as writer,
    ):
        writer.write(["done"], moment(4), 1)
        writer.write(layers, hessian, tokens)
    assert not list(tmp_path.iterdir())


def test_an_output_that_exists_is_kept(tmp_path):
    path = tmp_path / "h"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="must not exist"), hessian_writer(path, {"a": 4}):
        pass
    assert path.read_bytes() == b"old"
    with hessian_writer(path, {"a": 4}, force=True) as writer:
        writer.write(["a"], moment(4), 1)
    assert list(Hessians(path)) == ["a"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (lambda: Text("ab", 1, 0), "64 hexadecimal digits"),
        (lambda: Text("A" * 64, 1, 0), "64 hexadecimal digits"),
        (lambda: Text(TEXT.sha256, 0, 0), "window must be from 1"),
        (lambda: Text(TEXT.sha256, 1, 1 << 64), "seed must be from 0"),
    ],
)
def test_texts_outside_the_domain(text, match):
    with pytest.raises(DomainError, match=match):
        text()


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16, np.int32])
def test_entries_of_another_type(tmp_path, dtype):
    path = tmp_path / "h"
    save_file({"x.hessian": moment(4).astype(dtype)}, path)
    with pytest.raises(MetadataError, match="must be F32 and square"):
        Hessians(path)


@pytest.mark.parametrize("shape", [(16,), (4, 5), (0, 0), (2, 2, 4), ()])
def test_entries_of_another_shape(tmp_path, shape):
    path = tmp_path / "h"
    save_file({"x.hessian": np.zeros(shape, np.float32)}, path)
    with pytest.raises(MetadataError, match="must be F32 and square"):
        Hessians(path)


def test_a_file_of_weights(tmp_path):
    path = tmp_path / "h"
    save_file({"x.hessian": moment(4), "x.weight": moment(4)}, path)
    with pytest.raises(MetadataError, match=r"called LAYER.hessian, got 'x.weight'"):
        Hessians(path)


def test_a_file_that_is_not_safetensors(tmp_path):
    path = tmp_path / "h"
    path.write_bytes(b"text of some length")
    with pytest.raises(HeaderError, match="must be a safetensors file"):
        Hessians(path)


X = {"x": {"layers": ["x"], "tokens": 5}}


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({KEY: "{"}, "must be JSON"),
        ({KEY: "[]"}, "must have the keys"),
        ({KEY: '{"writer":1,"writer":2}'}, "no key twice"),
        (described(X, more=1), "must have the keys"),
        (described(X, format_version=True), "format_version of pvq_hessians must be an integer"),
        (described(X, format_version="1"), "format_version of pvq_hessians must be an integer"),
        (described(X, writer=1), "a string as writer"),
        (described([]), "an object as hessians"),
        (described({}), "must name the Hessians of the file, 'x' differs"),
        (described(X | {"y": {"layers": ["y"], "tokens": 5}}), "'y' differs"),
        (described({"x": 5}), "must have the keys"),
        (described({"x": {"layers": ["x"]}}), "must have the keys"),
        (described({"x": {"layers": "x", "tokens": 5}}), "layers must be a list of names"),
        (described({"x": {"layers": ["x", 1], "tokens": 5}}), "layers must be a list of names"),
        (described({"x": {"layers": ["y"], "tokens": 5}}), "layers must name it too"),
        (described({"x": {"layers": ["x", "x"], "tokens": 5}}), "each layer once, got 'x' again"),
        (described({"x": {"layers": ["x"], "tokens": 0}}), "tokens must be a positive integer"),
        (described({"x": {"layers": ["x"], "tokens": 1.0}}), "tokens must be a positive integer"),
        (described({"x": {"layers": ["x"], "tokens": 1 << 63}}), "tokens must be a positive"),
        (described(X, "text"), "text of pvq_hessians must have the keys"),
        (described(X, {"sha256": "", "window": 1, "seed": "0"}), "64 hexadecimal digits"),
        (described(X, {"sha256": TEXT.sha256, "window": "1", "seed": "0"}), "window must be"),
        (described(X, {"sha256": TEXT.sha256, "window": 1, "seed": 0}), "a string of digits"),
        (described(X, {"sha256": TEXT.sha256, "window": 1, "seed": "٣"}), "a string of digits"),
        (described(X, {"sha256": TEXT.sha256, "window": 1, "seed": "01"}), "without zeros"),
        (described(X, {"sha256": TEXT.sha256, "window": 1, "seed": "9" * 21}), "below 2.64"),
        (described(X, {"sha256": TEXT.sha256, "window": 1, "seed": str(1 << 64)}), "seed must be"),
    ],
)  # fmt: skip
def test_broken_metadata(tmp_path, metadata, match):
    path = tmp_path / "h"
    save_file({"x.hessian": moment(4)}, path, metadata)
    with pytest.raises(MetadataError, match=match):
        Hessians(path)


@pytest.mark.parametrize("version", [0, 2, -1, 2**70])
def test_another_version(tmp_path, version):
    path = tmp_path / "h"
    save_file({"x.hessian": moment(4)}, path, described(None, format_version=version))
    with pytest.raises(VersionError, match=f"version of pvq_hessians must be 1, got {version}"):
        Hessians(path)


def changed(i, j, value):
    h = moment(4)
    h[i, j] = value
    return h


@pytest.mark.parametrize(
    ("hessian", "match"),
    [
        (changed(1, 2, np.nan), r"h, layer 'x': hessian must be finite, got nan at \(1, 2\)"),
        (changed(3, 0, np.inf), r"hessian must be finite, got inf at \(3, 0\)"),
        (changed(2, 2, -1.0), r"no negative diagonal, got -1.0 at \(2, 2\)"),
        (changed(0, 3, 0.5), r"hessian must be symmetric, got 0.5 at \(0, 3\) and"),
    ],
)
def test_broken_elements(tmp_path, hessian, match):
    path = tmp_path / "h"
    save_file({"x.hessian": hessian, "y.hessian": moment(3)}, path)
    got = Hessians(path)
    assert got.read("y").shape == (3, 3)
    with pytest.raises(PayloadError, match=match):
        got.read("x")


def test_what_the_file_lacks(tmp_path):
    path = tmp_path / "h"
    save_file({"x.hessian": moment(4)}, path)
    got = Hessians(path)
    for ask in (got.read, got.home, got.tokens):
        with pytest.raises(DomainError, match="layer must be one of the 1 in h, got 'y'"):
            ask("y")
    with pytest.raises(ShapeError, match=r"layer 'x' must be of shape \(5, 5\), got \(4, 4\)"):
        got.read("x", 5)
