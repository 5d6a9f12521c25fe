"""Verification finds whatever is wrong with a compressed model (spec sections 9.4 and 9.5)."""

import json
import random
import shutil
from math import inf, log10

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pvq_ref import compress, decompress
from pvq_ref.errors import HeaderError, ModelError
from pvq_ref.verification import TensorError, verify
from tests.models import (
    INDEX,
    MATRICES,
    PARTS,
    SIDE_FILES,
    flip,
    forge,
    header_length,
    make_file,
    make_folder,
    names_in,
    pvq_of,
    raw,
    split,
    stamps,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A file, a folder and a sharded folder, with NAME.pvq beside each."""
    folder = tmp_path_factory.mktemp("verification")
    make_file(folder / "file")
    make_folder(folder / "folder")
    make_folder(folder / "sharded", shards=3)
    for name in ("file", "folder", "sharded"):
        compress(folder / name, folder / f"{name}.pvq", 4, gain_bits=2)
    return folder


@pytest.fixture
def copy(models, tmp_path):
    """A function that copies a compressed model to where it may be damaged."""

    def run(name):
        make = shutil.copytree if (models / f"{name}.pvq").is_dir() else shutil.copyfile
        return make(models / f"{name}.pvq", tmp_path / "c")

    return run


# Nothing wrong


@pytest.mark.parametrize(
    ("name", "compressed", "untouched"), [("file", 2, 2), ("folder", 8, 7), ("sharded", 8, 7)]
)
def test_what_was_written_has_no_problems(models, name, compressed, untouched):
    report = verify(models / f"{name}.pvq")
    assert report.problems == []
    assert (report.compressed, report.untouched) == (compressed, untouched)
    assert report.errors == []
    assert report.mean_db is None


@pytest.mark.parametrize("name", ["file", "folder", "sharded"])
def test_what_was_written_has_no_problems_against_its_source(models, name):
    report = verify(models / f"{name}.pvq", models / name)
    assert report.problems == []
    assert len(report.errors) == report.compressed


@pytest.mark.parametrize("name", ["file", "sharded"])
def test_verification_only_reads(models, name):
    before = stamps(models)
    verify(models / f"{name}.pvq", models / name)
    assert stamps(models) == before


def test_the_report_does_not_depend_on_the_number_of_threads(models):
    ref = verify(models / "folder.pvq", models / "folder", threads=1)
    assert verify(models / "folder.pvq", models / "folder", threads=4) == ref


def test_progress_counts_every_weight_once(models):
    done = []
    verify(models / "sharded.pvq", progress=lambda name, weights: done.append((name, weights)))
    ref = {name: int(np.prod(shape)) for name, shape in MATRICES.items()}
    assert {name: sum(w for n, w in done if n == name) for name, _ in done} == ref


# Single bits of a file


def regions(path):
    """{region: range of bytes} of a compressed file, all of it."""
    content = path.read_bytes()
    header, _ = split(content)
    end = header_length(content)
    text = len(content[:end].rstrip(b" "))
    digits = content.index(pvq_of(path)["header_sha256"].encode())
    found = {"length": range(8), "JSON": range(8, text), "padding": range(text, end),
             "digits of the header's hash": range(digits, digits + 64)}  # fmt: skip
    for name in header.keys() - {"__metadata__"}:
        start, stop = header[name]["data_offsets"]
        found[name] = range(end + start, end + stop)
    return found


REGIONS = ["length", "JSON", "padding", "digits of the header's hash", "norm.weight", "step",
           *(f"a.weight_{part}" for part in PARTS)]  # fmt: skip


@pytest.mark.parametrize("region", REGIONS)
def test_every_flipped_bit_is_found(models, copy, region):
    path = copy("file")
    places = regions(path)[region]
    assert places
    chosen = random.Random(region)
    for _ in range(10):
        place, bit = chosen.choice(places), chosen.randrange(8)
        flip(path, place, bit)
        assert verify(path).problems, (place, bit)
        flip(path, place, bit)
    assert verify(path).problems == []


def test_the_regions_cover_the_file(models):
    path = models / "file.pvq"
    covered = {place for places in regions(path).values() for place in places}
    assert covered == set(range(path.stat().st_size))


@pytest.mark.parametrize("part", PARTS)
def test_a_problem_names_the_tensor(copy, part):
    path = copy("file")
    flip(path, regions(path)[f"b.weight_{part}"][3], 0)
    (problem,) = verify(path).problems
    assert "'b.weight'" in problem
    assert f"b.weight_{part}" in problem


def test_every_damaged_tensor_is_a_problem(copy):
    path = copy("file")
    places = regions(path)
    for name in ("a.weight_index", "b.weight_gain", "norm.weight"):
        flip(path, places[name][0], 0)
    assert len(verify(path).problems) == 3


@pytest.mark.parametrize("size", [0, 7, 8, 100, -1, -100])
def test_a_truncated_file_is_found(copy, size):
    path = copy("file")
    path.write_bytes(path.read_bytes()[:size])
    assert verify(path).problems


def test_bytes_behind_the_data_are_found(copy):
    path = copy("file")
    path.write_bytes(path.read_bytes() + b"\0")
    assert verify(path).problems


def test_a_changed_payload_with_right_hashes_is_found(models, tmp_path):
    """Whoever makes all hashes right again is still caught by the ranges."""

    def change(entries):
        entries["a.weight_index"][2] = b"\xff" * len(entries["a.weight_index"][2])

    path = forge(models / "file.pvq", tmp_path / "c", entries=change)
    assert any("'a.weight'" in problem for problem in verify(path).problems)


# Folders

SIDES = ["SHA256SUMS", "config.json", "tokenizer.json", "1_Pooling/config.json"]


@pytest.mark.parametrize("side", [*SIDES, INDEX])
def test_every_flipped_bit_of_a_side_file_is_found(copy, side):
    folder = copy("sharded")
    size = (folder / side).stat().st_size
    chosen = random.Random(side)
    for _ in range(12):
        place, bit = chosen.randrange(size), chosen.randrange(8)
        flip(folder / side, place, bit)
        assert verify(folder).problems, (place, bit)
        flip(folder / side, place, bit)
    assert verify(folder).problems == []


@pytest.mark.parametrize("side", [name for name in SIDE_FILES if "/" not in name])
def test_a_missing_side_file_is_named(copy, side):
    folder = copy("folder")
    (folder / side).unlink()
    assert verify(folder).problems == [f"{side} is missing"]


def test_missing_sums_are_a_problem(copy):
    folder = copy("folder")
    (folder / "SHA256SUMS").unlink()
    assert verify(folder).problems == ["SHA256SUMS is missing"]


@pytest.mark.parametrize("extra", ["more.txt", "1_Pooling/more.json", "pytorch_model.bin"])
def test_an_extra_file_is_named(copy, extra):
    folder = copy("folder")
    (folder / extra).write_text("more")
    assert verify(folder).problems == [f"{extra} isn't in SHA256SUMS"]


def test_an_extra_weight_file_is_a_problem(copy):
    folder = copy("sharded")
    save_file({"more": np.ones(3, np.float32)}, folder / "more.safetensors")
    assert any("more.safetensors" in problem for problem in verify(folder).problems)


@pytest.mark.parametrize("form", ["folder", "sharded"])
def test_a_changed_side_file_is_named(copy, form):
    folder = copy(form)
    (folder / "tokenizer.json").write_text("{}")
    (problem,) = verify(folder).problems
    assert problem.startswith("tokenizer.json")


@pytest.mark.parametrize("index", [True, False])
def test_a_missing_weight_file_is_a_problem(copy, index):
    folder = copy("sharded")
    name = "model-00002-of-00003.safetensors"
    (folder / name).unlink()
    if not index:
        (folder / INDEX).unlink()
    assert any(name in problem for problem in verify(folder).problems)


def test_a_damaged_shard_does_not_hide_another(copy):
    folder = copy("sharded")
    for number in (1, 3):
        path = folder / f"model-0000{number}-of-00003.safetensors"
        flip(path, path.stat().st_size - 1, 0)
    problems = " ".join(verify(folder).problems)
    assert "model-00001" in problems
    assert "model-00003" in problems


def test_a_shard_of_another_compression_is_found(models, copy, tmp_path):
    """Each file is right by itself; the sums know that they don't belong together."""
    folder = copy("sharded")
    compress(models / "sharded", tmp_path / "other", 3)
    name = "model-00002-of-00003.safetensors"
    shutil.copyfile(tmp_path / "other" / name, folder / name)
    assert any(name in problem for problem in verify(folder).problems)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\n", b"not sums\n", b"\0" * 100])
def test_sums_of_another_form_are_a_problem(copy, content):
    folder = copy("folder")
    (folder / "SHA256SUMS").write_bytes(content)
    assert verify(folder).problems


@pytest.mark.parametrize("name", ["/etc/passwd", "../c.secret", "missing"])
def test_sums_of_files_elsewhere_are_a_problem(copy, tmp_path, name):
    folder = copy("folder")
    (tmp_path / "c.secret").write_text("secret")
    with (folder / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  {name}\n")
    assert any(name in problem for problem in verify(folder).problems)


# What isn't a compressed model


def test_a_plain_model_is_a_problem(models):
    assert any("isn't compressed" in problem for problem in verify(models / "file").problems)
    assert any("isn't compressed" in problem for problem in verify(models / "folder").problems)


def test_nothing_to_verify_is_a_model_error(tmp_path):
    with pytest.raises(ModelError):
        verify(tmp_path / "nothing")
    with pytest.raises(ModelError):
        verify(tmp_path)


# Against the original


def relative_db(ref, got):
    ref, got = ref.astype(np.float64), got.astype(np.float64)
    return 10 * log10(np.sum(ref**2) / np.sum((ref - got) ** 2))


@pytest.mark.parametrize("name", ["file", "folder", "sharded"])
def test_the_error_is_that_of_what_decompress_gives(models, tmp_path, name):
    decompress(models / f"{name}.pvq", tmp_path / "d")
    report = verify(models / f"{name}.pvq", models / name)
    paths = {
        path.name: path
        for path in ([models / name] if name == "file" else (models / name).glob("*.safetensors"))
    }
    ref = {}
    for file, path in paths.items():
        source = load_file(path)
        got = load_file(tmp_path / "d" / file if name != "file" else tmp_path / "d")
        for one in source:
            if any(error.name == one for error in report.errors):
                ref[one] = relative_db(source[one], got[one])
    assert {error.name: error.db for error in report.errors} == pytest.approx(ref, rel=1e-9)
    assert report.mean_db == pytest.approx(np.mean(list(ref.values())), rel=1e-9)


def test_another_form_of_the_original_will_do(models, tmp_path):
    """One file or several: tensors are found by their names."""
    ref = verify(models / "folder.pvq", models / "folder").mean_db
    save_file(load_file(models / "folder" / "model.safetensors"), tmp_path / "m")
    report = verify(models / "folder.pvq", tmp_path / "m")
    assert report.problems == []
    assert report.mean_db == ref


def changed(models, tmp_path, change):
    tensors = load_file(models / "file")
    change(tensors)
    save_file(tensors, tmp_path / "m")
    return tmp_path / "m"


def test_a_changed_original_has_more_error(models, tmp_path):
    def change(tensors):
        tensors["a.weight"][5] *= -1

    ref = {e.name: e.db for e in verify(models / "file.pvq", models / "file").errors}
    report = verify(models / "file.pvq", changed(models, tmp_path, change))
    got = {e.name: e.db for e in report.errors}
    assert got["b.weight"] == ref["b.weight"]
    assert got["a.weight"] < ref["a.weight"] - 3


@pytest.mark.parametrize("name", ["norm.weight", "step"])
def test_a_changed_tensor_that_was_not_compressed_is_a_problem(models, tmp_path, name):
    def change(tensors):
        tensors[name] = np.asarray(tensors[name] + tensors[name].dtype.type(1))

    report = verify(models / "file.pvq", changed(models, tmp_path, change))
    assert report.problems == [f"tensor '{name}' differs from the original"]


@pytest.mark.parametrize("name", ["a.weight", "norm.weight"])
def test_a_tensor_of_another_type_or_shape_is_a_problem(models, tmp_path, name):
    changes = [
        lambda tensors: tensors.update({name: tensors[name].astype(np.float16)}),
        lambda tensors: tensors.update({name: tensors[name][:-1].copy()}),
        lambda tensors: tensors.update({name: tensors[name].reshape(-1, 1).copy()}),
    ]
    for change in changes:
        report = verify(models / "file.pvq", changed(models, tmp_path, change))
        (problem,) = report.problems
        assert problem.startswith(f"tensor '{name}' isn't in the original as F32")


@pytest.mark.parametrize("name", ["a.weight", "norm.weight"])
def test_a_tensor_that_the_original_lacks_is_a_problem(models, tmp_path, name):
    report = verify(models / "file.pvq", changed(models, tmp_path, lambda t: t.pop(name)))
    (problem,) = report.problems
    assert f"'{name}'" in problem


def test_a_missing_tensor_is_a_problem(models, tmp_path):
    path = changed(models, tmp_path, lambda tensors: tensors.update(more=np.ones(3, np.float32)))
    report = verify(models / "file.pvq", path)
    assert report.problems == ["tensor 'more' of the original is missing"]


def test_a_damaged_tensor_is_not_a_missing_one(models, copy, tmp_path):
    path = copy("file")
    flip(path, regions(path)["a.weight_index"][0], 0)
    report = verify(path, models / "file")
    assert len(report.problems) == 1
    assert [error.name for error in report.errors] == ["b.weight"]


def test_the_original_must_be_a_model(models, tmp_path):
    with pytest.raises(ModelError):
        verify(models / "file.pvq", tmp_path / "nothing")
    (tmp_path / "broken").write_bytes(b"broken")
    with pytest.raises(HeaderError):
        verify(models / "file.pvq", tmp_path / "broken")
    assert names_in(tmp_path) == ["broken"]


# Numbers of the report


@pytest.mark.parametrize(
    ("error", "norm", "db"),
    [(1.0, 1.0, 0.0), (1.0, 100.0, 20.0), (4.0, 2.0, -3.0103), (0.0, 1.0, inf), (0.0, 0.0, inf),
     (1.0, 0.0, -inf), (inf, 1.0, -inf), (1e300, 1e-300, -inf)],
)  # fmt: skip
def test_decibels(error, norm, db):
    assert TensorError("x", error, norm).db == pytest.approx(db, abs=1e-4)


def test_a_tensor_without_error_does_not_count_in_the_mean(tmp_path):
    w = np.random.default_rng(0).standard_normal((24, 40)).astype(np.float32)
    save_file({"w": w, "zero": np.zeros_like(w)}, tmp_path / "m")
    compress(tmp_path / "m", tmp_path / "c", 4)
    report = verify(tmp_path / "c", tmp_path / "m")
    (ref,) = [error.db for error in report.errors if error.name == "w"]
    assert report.mean_db == ref


def test_the_report_is_strict_json(models, tmp_path):
    """Infinite errors are null, also where a decoded number is beyond its type."""

    def beyond(entries):
        norms = entries["a.weight_row_norm"]
        norms[2] = np.full(24, 65504, np.float16).tobytes()

    def half(pvq):
        pvq["tensors"]["a.weight"].update(dtype="F16", norm_exponent=10)

    path = forge(models / "file.pvq", tmp_path / "c", half, beyond)
    original = changed(
        models, tmp_path, lambda t: t.update({"a.weight": t["a.weight"].astype(np.float16)})
    )
    report = verify(path, original)
    assert report.problems == []
    got = json.loads(json.dumps(report.as_json(), allow_nan=False))
    assert got["ok"] is True
    assert {one["name"]: one["db"] for one in got["tensors"]}["a.weight"] is None
    assert raw(original).keys() == {"a.weight", "b.weight", "norm.weight", "step"}
