"""Models of files and folders, compressed and back again (spec sections 8 and 9.5)."""

import errno
import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pvq_ref import PVQTensor, assembly, compress, decompress, dequantize, load, quantize
from pvq_ref.errors import (
    DomainError,
    HeaderError,
    IntegrityError,
    ModelError,
    NonFiniteError,
    OutputError,
    PVQError,
)
from pvq_ref.model import open_model
from pvq_ref.oracle.tensor import round_all
from pvq_ref.verification import verify
from tests.models import (
    CONFIG,
    DTYPES,
    FIRST,
    INDEX,
    LEFT_OUT,
    MATRICES,
    PARTS,
    SIDE_FILES,
    entries_of,
    files_of,
    make_file,
    make_folder,
    names_in,
    pvq_of,
    raw,
    split,
    stamps,
    write_json,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders and files by name: source, compressed (NAME.pvq) and decompressed (NAME.back)."""
    folder = tmp_path_factory.mktemp("checkpoint")
    for dtype in DTYPES:
        make_folder(folder / dtype, dtype)
        make_file(folder / f"{dtype}.safetensors", dtype, metadata={"format": "pt"})
    make_folder(folder / "sharded", shards=3)
    make_folder(folder / "tied", tied=True, config={**CONFIG, "tie_word_embeddings": True})
    return folder


FORMS = [*DTYPES, *(f"{dtype}.safetensors" for dtype in DTYPES), "sharded", "tied"]


@pytest.fixture
def trip(models):
    """A function that compresses and decompresses a model of `models` once."""

    def run(name):
        there, back = models / f"{name}.pvq", models / f"{name}.back"
        if not back.exists():
            compress(models / name, there, 4)
            decompress(there, back)
        return models / name, there, back

    return run


def weight_files(path):
    return sorted(path.glob("*.safetensors")) if path.is_dir() else [path]


def compressed_names(path):
    return {name for file in weight_files(path) for name in pvq_of(file)["tensors"]}


# Compress, load, decompress


@pytest.mark.parametrize("form", FORMS)
def test_the_matrices_are_compressed_and_nothing_else(trip, form):
    _, there, _ = trip(form)
    ref = {"a.weight", "b.weight"} if form.endswith(".safetensors") else set(MATRICES)
    assert compressed_names(there) == ref


@pytest.mark.parametrize("form", FORMS)
def test_every_tensor_comes_back_in_its_type_and_shape(trip, form):
    source, _, back = trip(form)
    ref = {name: one[:2] for name, one in raw(source).items()}
    assert {name: one[:2] for name, one in raw(back).items()} == ref


@pytest.mark.parametrize("form", FORMS)
def test_decompressed_tensors_are_dequantized_and_rounded_once(trip, form):
    _, there, back = trip(form)
    got = raw(back)
    for name, tensor in load(there).items():
        if isinstance(tensor, PVQTensor):
            wide = dequantize(tensor)
            assert wide.dtype == np.float64
            assert got[name][2] == round_all(wide.reshape(-1).tolist(), tensor.dtype)
            assert got[name][2] == dequantize(tensor, DTYPES[tensor.dtype]).tobytes()


@pytest.mark.parametrize("form", FORMS)
def test_decompressed_tensors_are_near_the_source(trip, form):
    """At 4 bits a weight, an ideal code has 2^-8 of the energy as its squared error."""
    source, there, back = trip(form)
    ref, got = raw(source), raw(back)
    for name in compressed_names(there):
        a, b = (
            np.frombuffer(x[name][2], DTYPES[x[name][0]]).astype(np.float64) for x in (ref, got)
        )
        assert 2**-9 < np.sum((a - b) ** 2) / np.sum(a**2) < 2**-5


@pytest.mark.parametrize("form", FORMS)
def test_other_tensors_keep_their_bytes(trip, form):
    source, there, back = trip(form)
    ref, packed, got = raw(source), raw(there), raw(back)
    untouched = ref.keys() - compressed_names(there)
    assert untouched
    for name in untouched:
        assert packed[name] == got[name] == ref[name]


@pytest.mark.parametrize("form", FORMS)
def test_load_gives_all_tensors(trip, form):
    source, there, _ = trip(form)
    ref = raw(source)
    got = load(there)
    assert got.keys() == ref.keys()
    for name, tensor in got.items():
        dtype, shape, content = ref[name]
        assert tuple(tensor.shape) == shape
        if isinstance(tensor, PVQTensor):
            assert tensor.dtype == dtype
        else:
            assert tensor.tobytes() == content


@pytest.mark.parametrize("form", FORMS)
def test_weight_files_keep_their_names_and_their_tensors(trip, form):
    source, _, back = trip(form)
    if source.is_file():
        return
    ref = {path.name: set(raw(path)) for path in weight_files(source)}
    assert {path.name: set(raw(path)) for path in weight_files(back)} == ref


def test_metadata_of_the_source_come_back(trip, tmp_path):
    for metadata in ({"format": "pt", "a": "ü\n"}, {"format": "tf"}):
        make_file(tmp_path / "m.safetensors", metadata=metadata)
        compress(tmp_path / "m.safetensors", tmp_path / "c.safetensors", 4, force=True)
        decompress(tmp_path / "c.safetensors", tmp_path / "d.safetensors", force=True)
        ref = metadata
        assert split((tmp_path / "d.safetensors").read_bytes())[0]["__metadata__"] == ref


def test_compressing_what_was_decompressed_keeps_the_form(trip, tmp_path):
    _, there, back = trip("F16")
    compress(back, tmp_path / "again", 4)
    assert files_of(tmp_path / "again").keys() == files_of(there).keys()


# Folders: what stands beside the weights


@pytest.mark.parametrize("form", ["F16", "sharded"])
def test_side_files_are_copied_as_they_are(trip, form):
    _, there, back = trip(form)
    for folder in (there, back):
        got = files_of(folder)
        assert {name: got[name] for name in SIDE_FILES} == SIDE_FILES


@pytest.mark.parametrize("form", ["F16", "sharded"])
def test_no_other_files_are_made(trip, form):
    source, there, back = trip(form)
    ref = files_of(source).keys() - LEFT_OUT.keys()
    assert files_of(there).keys() == ref | {"SHA256SUMS"}
    assert files_of(back).keys() == ref


def test_weights_in_other_forms_are_left_out_and_named(models):
    assert set(open_model(models / "F16").left_out) == set(LEFT_OUT)


def test_the_config_names_the_method_and_loses_it_again(trip):
    source, there, back = trip("F16")
    ref = json.loads((source / "config.json").read_text())
    got = json.loads((there / "config.json").read_text())
    added = got.pop("quantization_config")
    assert got == ref
    assert list(got) == list(ref)
    assert (added["quant_method"], added["format_version"], added["bits"]) == ("pvq", 1, 4)
    assert json.loads((back / "config.json").read_text()) == ref


def test_a_folder_without_a_config_comes_back_without_one(tmp_path):
    make_folder(tmp_path / "m")
    (tmp_path / "m" / "config.json").unlink()
    compress(tmp_path / "m", tmp_path / "c", 4)
    decompress(tmp_path / "c", tmp_path / "d")
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "pvq"
    assert not (tmp_path / "d" / "config.json").exists()


@pytest.mark.parametrize("text", ['{"time_step_limit": [0.0, Infinity]}', '{"a": NaN, "b": 1e-06}'])
def test_configs_with_the_constants_of_python_are_taken(tmp_path, text):
    """Infinity isn't strict JSON, but configs of state-space models have it."""
    make_folder(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(text)
    compress(tmp_path / "m", tmp_path / "c", 4)
    decompress(tmp_path / "c", tmp_path / "d")
    ref, got = json.loads(text), json.loads((tmp_path / "d" / "config.json").read_text())
    assert repr(got) == repr(ref)


@pytest.mark.parametrize("which", [1, 2])
def test_the_index_is_right(trip, which):
    folder = trip("sharded")[which]
    index = json.loads((folder / INDEX).read_text())
    ref = {name: path.name for path in weight_files(folder) for name in raw(path)}
    assert index["weight_map"] == ref
    size = sum(len(content) for _, _, content in raw(folder).values())
    assert index["metadata"]["total_size"] == size


def test_the_index_counts_the_parameters_of_the_model(trip):
    source, there, back = trip("sharded")
    ref = sum(int(np.prod(shape)) for _, shape, _ in raw(source).values())
    for folder in (there, back):
        assert json.loads((folder / INDEX).read_text())["metadata"]["total_parameters"] == ref


def test_a_folder_without_an_index_gets_none(trip):
    _, there, back = trip("F16")
    assert not list(there.glob("*.index.json"))
    assert not list(back.glob("*.index.json"))


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="needs the program sha256sum")
@pytest.mark.parametrize("form", ["F16", "sharded"])
def test_sha256sum_accepts_the_sums(trip, form):
    _, there, _ = trip(form)
    done = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=there,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == len(files_of(there)) - 1


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="needs the program sha256sum")
def test_sha256sum_accepts_odd_names(tmp_path):
    make_folder(tmp_path / "m")
    odd = ["a b", "two  spaces", "é", "back\\slash", "new\nline", "a\u2028b", "a\x85b", "\udcff"]
    for name in odd:
        (tmp_path / "m" / name).write_text(ascii(name))
    compress(tmp_path / "m", tmp_path / "c", 4)
    done = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=tmp_path / "c",
                          capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert verify(tmp_path / "c").problems == []


def test_the_sums_are_sorted_and_name_every_file(trip):
    _, there, _ = trip("F16")
    names = [line.split("  ", 1)[1] for line in (there / "SHA256SUMS").read_text().splitlines()]
    assert names == sorted(files_of(there).keys() - {"SHA256SUMS"})


def test_tied_models_stay_tied(trip):
    _, there, back = trip("tied")
    for folder in (there, back):
        assert not any("lm_head" in name for name in raw(folder))
        assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True


def test_links_in_the_source_become_files(models, tmp_path):
    """A hub's cache has links where the files of a model should be."""
    (tmp_path / "m").mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (tmp_path / "m" / name).symlink_to(models / "F16" / name)
    compress(tmp_path / "m", tmp_path / "c", 4)
    assert not any(path.is_symlink() for path in (tmp_path / "c").iterdir())
    assert (tmp_path / "c" / "tokenizer.json").read_bytes() == SIDE_FILES["tokenizer.json"]


def test_linked_folders_in_the_source_are_copied(models, tmp_path):
    """A folder of links has its weights where the rest is."""
    (tmp_path / "m").mkdir()
    for name in ("model.safetensors", "1_Pooling"):
        (tmp_path / "m" / name).symlink_to(models / "F16" / name)
    compress(tmp_path / "m", tmp_path / "c", 4)
    got = files_of(tmp_path / "c")
    assert got["1_Pooling/config.json"] == SIDE_FILES["1_Pooling/config.json"]


# Rates


@pytest.mark.parametrize("bits", [2, 3.25, 4.0, 5.7])
def test_no_tensor_exceeds_the_target_in_the_file(models, tmp_path, bits):
    result = compress(models / "F16", tmp_path / "c", bits)
    entries = entries_of(tmp_path / "c" / "model.safetensors")
    shapes = {t.entry.name: t.entry.shape for t in result.plan.compressed}
    assert shapes
    for name, shape in shapes.items():
        size = sum(len(entries[f"{name}_{part}"][2]) for part in PARTS)
        assert 8 * size / np.prod(shape) <= bits


@pytest.mark.parametrize("bits", [2, 3.25, 8])
def test_the_target_is_used(models, tmp_path, bits):
    """A wide matrix comes near it: one bit more an index would be too much."""
    rng = np.random.default_rng(0)
    save_file({"w": rng.standard_normal((64, 512)).astype(np.float32)}, tmp_path / "m")
    result = compress(tmp_path / "m", tmp_path / "c", bits)
    assert bits - 1 / 32 - 0.05 < result.plan.file_rate <= bits


def test_the_plan_says_what_the_file_has(models, tmp_path):
    result = compress(models / "sharded", tmp_path / "c", 3.25)
    entries = {}
    for path in weight_files(tmp_path / "c"):
        entries |= entries_of(path)
    for t in result.plan.tensors:
        name = t.entry.name
        names = [f"{name}_{part}" for part in PARTS] if t.coding else [name]
        assert t.size == sum(len(entries[one][2]) for one in names)
    ref = sum(path.stat().st_size for path in weight_files(tmp_path / "c"))
    assert result.file_size == ref
    headers = sum(len(one.raw) for one in open_model(tmp_path / "c").headers.values())
    assert result.header_size == headers


def test_a_higher_rate_has_less_error(models, tmp_path):
    ref = raw(models / "F32")[FIRST]
    source = np.frombuffer(ref[2], np.float32)
    errors = []
    for bits in (2, 3, 4, 6, 8):
        compress(models / "F32", tmp_path / f"{bits}", bits, include=[FIRST])
        got = dequantize(load(tmp_path / f"{bits}")[FIRST]).reshape(-1)
        errors.append(float(np.sum((got - source) ** 2)))
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("shape", [(500, 1), (1, 1), (1, 5), (2, 2), (3, 1, 1), (0, 8), (8, 0)])
def test_tiny_and_narrow_matrices_stay_as_they_are_for_a_reason(tmp_path, shape):
    rng = np.random.default_rng(0)
    tensors = {"w": rng.standard_normal((32, 64)).astype(np.float16),
               "tiny": rng.standard_normal(shape).astype(np.float16)}  # fmt: skip
    save_file(tensors, tmp_path / "m")
    result = compress(tmp_path / "m", tmp_path / "c", 3.25)
    plans = {t.entry.name: t for t in result.plan.tensors}
    assert plans["tiny"].coding is None
    assert plans["tiny"].reason in ("nothing fits the rate", "would not become smaller")
    assert plans["w"].reason is None
    assert raw(tmp_path / "c")["tiny"] == raw(tmp_path / "m")["tiny"]


@pytest.mark.parametrize("shape", [(1, 4096), (2, 3, 64), (4096, 3), (7, 65), (1, 33, 40)])
def test_odd_shapes_come_back(tmp_path, shape):
    w = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    save_file({"w": w}, tmp_path / "m")
    compress(tmp_path / "m", tmp_path / "c", 8)
    decompress(tmp_path / "c", tmp_path / "d")
    got = load_file(tmp_path / "d")["w"]
    assert got.shape == shape
    assert np.sum((got - w) ** 2) < 0.1 * np.sum(w**2)


def test_a_model_without_a_matrix_is_refused(tmp_path):
    save_file({"norm.weight": np.ones(8, np.float32)}, tmp_path / "m")
    with pytest.raises(ModelError, match="must have a tensor to compress"):
        compress(tmp_path / "m", tmp_path / "c")
    assert names_in(tmp_path) == ["m"]


# Special values


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_zero_rows_and_zero_matrices_come_back_as_zeros(tmp_path, dtype):
    w = np.random.default_rng(0).standard_normal((24, 40)).astype(DTYPES[dtype])
    w[3], w[7] = 0, -0.0
    save_file({"w": w, "z": np.zeros_like(w)}, tmp_path / "m")
    compress(tmp_path / "m", tmp_path / "c", 4)
    decompress(tmp_path / "c", tmp_path / "d")
    got = load_file(tmp_path / "d")
    assert not got["z"].astype(np.float32).any()
    assert not got["w"][[3, 7]].astype(np.float32).any()
    assert got["w"][0].astype(np.float32).all()


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
@pytest.mark.parametrize("exponent", [-10, 10])
def test_scaling_by_a_power_of_two_moves_only_the_norm(tmp_path, dtype, exponent):
    w = np.random.default_rng(0).standard_normal((24, 40)).astype(DTYPES[dtype])
    w = np.where(np.abs(w.astype(np.float32)) < 2**-3, np.zeros_like(w), w)  # none turns subnormal
    scaled = np.ldexp(w.astype(np.float64), exponent).astype(w.dtype)
    save_file({"w": w}, tmp_path / "m")
    save_file({"w": scaled}, tmp_path / "s")
    for name in ("m", "s"):
        compress(tmp_path / name, tmp_path / f"{name}.c", 4)
    assert entries_of(tmp_path / "m.c") == entries_of(tmp_path / "s.c")
    exponents = [pvq_of(tmp_path / f"{n}.c")["tensors"]["w"]["norm_exponent"] for n in "ms"]
    assert exponents[1] - exponents[0] == exponent


def test_the_largest_numbers_of_half_precision_come_back_finite(tmp_path):
    """What is decoded may lie above the largest number; it mustn't break anything."""
    w = np.full((24, 40), 65504, np.float16) * np.sign(np.arange(40) % 3 - 0.5).astype(np.float16)
    save_file({"w": w}, tmp_path / "m")
    compress(tmp_path / "m", tmp_path / "c", 2, rotate=False)
    decompress(tmp_path / "c", tmp_path / "d")
    report = verify(tmp_path / "c", tmp_path / "m")
    assert report.problems == []
    report.as_json()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
def test_a_weight_that_is_not_finite_is_named_with_its_place(tmp_path, dtype, value):
    make_file(tmp_path / "m.safetensors", dtype)
    tensors = load_file(tmp_path / "m.safetensors")
    tensors["b.weight"][29, 7] = value
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(NonFiniteError, match=r"^tensor 'b\.weight': .*row 29, column 7$"):
        compress(tmp_path / "m.safetensors", tmp_path / "c.safetensors", 4)
    assert names_in(tmp_path) == ["m.safetensors"]


def test_the_first_weight_that_is_not_finite_is_named(tmp_path):
    w = np.ones((9000, 40), np.float32)
    w[5000, 3] = w[5000, 30] = w[8000, 0] = np.nan
    save_file({"w": w}, tmp_path / "m")
    for threads in (1, 2):
        with pytest.raises(NonFiniteError, match=r"row 5000, column 3$"):
            compress(tmp_path / "m", tmp_path / "c", 4, threads=threads)
    assert names_in(tmp_path) == ["m"]


def test_other_tensors_may_hold_anything(tmp_path):
    w = np.ones((24, 40), np.float32)
    odd = np.array([np.nan, np.inf, -0.0], np.float32)
    odd.view(np.uint32)[0] = 0xFFC0DEAD
    save_file({"w": w, "norm.weight": odd}, tmp_path / "m")
    compress(tmp_path / "m", tmp_path / "c", 4)
    decompress(tmp_path / "c", tmp_path / "d")
    assert raw(tmp_path / "d")["norm.weight"][2] == odd.tobytes()


# The same bytes


@pytest.fixture(scope="module")
def tall(tmp_path_factory):
    """A file whose matrix is cut into several ranges of rows."""
    path = tmp_path_factory.mktemp("tall") / "m.safetensors"
    w = np.random.default_rng(0).standard_normal((10_001, 40)).astype(np.float32)
    save_file({"w": w, "norm.weight": w[0]}, path)
    return path


def test_bytes_do_not_depend_on_the_number_of_threads(tall, tmp_path):
    for threads in (1, 2, 4):
        compress(tall, tmp_path / f"c{threads}", 3.25, threads=threads)
        decompress(tmp_path / f"c{threads}", tmp_path / f"d{threads}", threads=threads)
    assert len({(tmp_path / f"c{threads}").read_bytes() for threads in (1, 2, 4)}) == 1
    assert len({(tmp_path / f"d{threads}").read_bytes() for threads in (1, 2, 4)}) == 1


@pytest.mark.parametrize("form", ["F16", "sharded"])
def test_the_same_model_gives_the_same_bytes(trip, tmp_path, form):
    source, there, back = trip(form)
    compress(source, tmp_path / "c", 4)
    decompress(tmp_path / "c", tmp_path / "d")
    assert files_of(tmp_path / "c") == files_of(there)
    assert files_of(tmp_path / "d") == files_of(back)


def test_the_order_of_the_source_does_not_matter(tmp_path):
    """The package may lay the same tensors out in another order."""
    make_file(tmp_path / "m.safetensors")
    ref = raw(tmp_path / "m.safetensors")
    header, data = {}, b""
    for name in sorted(ref, reverse=True):
        dtype, shape, content = ref[name]
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        data += content
    text = json.dumps(header, indent=2).encode()
    (tmp_path / "n.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    for name in "mn":
        compress(tmp_path / f"{name}.safetensors", tmp_path / f"{name}.pvq", 4)
    assert (tmp_path / "m.pvq").read_bytes() == (tmp_path / "n.pvq").read_bytes()


# The source


def test_the_source_is_only_read(models, tmp_path):
    shutil.copytree(models / "sharded", tmp_path / "m")
    before = stamps(tmp_path / "m")
    compress(tmp_path / "m", tmp_path / "c", 4)
    assert stamps(tmp_path / "m") == before
    before = stamps(tmp_path / "c")
    decompress(tmp_path / "c", tmp_path / "d")
    load(tmp_path / "c")
    assert stamps(tmp_path / "c") == before


@pytest.mark.parametrize("where", ["out", "1_Pooling/out", "."])
def test_an_output_inside_the_source_is_refused(models, tmp_path, where):
    shutil.copytree(models / "F16", tmp_path / "m")
    before = stamps(tmp_path / "m")
    for force in (False, True):
        with pytest.raises((ModelError, OutputError)):
            compress(tmp_path / "m", tmp_path / "m" / where, 4, force=force)
    assert stamps(tmp_path / "m") == before


@pytest.mark.parametrize("form", ["F16", "F16.safetensors"])
def test_an_output_that_is_the_source_is_refused(models, tmp_path, form):
    source = tmp_path / form
    (shutil.copytree if (models / form).is_dir() else shutil.copyfile)(models / form, source)
    (tmp_path / "link").symlink_to(source)
    before = stamps(tmp_path)
    for target in (source, tmp_path / "link"):
        with pytest.raises((ModelError, OutputError)):
            compress(source, target, 4, force=True)
    assert stamps(tmp_path) == before


@pytest.mark.parametrize("form", ["F16", "F16.safetensors"])
def test_force_never_replaces_a_folder_around_the_source(models, tmp_path, form):
    (tmp_path / "models").mkdir()
    source = tmp_path / "models" / form
    (shutil.copytree if (models / form).is_dir() else shutil.copyfile)(models / form, source)
    shutil.copyfile(models / "F16.safetensors", tmp_path / "models" / "other.safetensors")
    before = stamps(tmp_path)
    with pytest.raises((ModelError, OutputError)):
        compress(source, tmp_path / "models", 4, force=True)
    assert stamps(tmp_path) == before


# Outputs


def old_output(path):
    """An output of another time."""
    if path.suffix:
        save_file({"old": np.ones(3, np.float32)}, path)
    else:
        path.mkdir()
        save_file({"old": np.ones(3, np.float32)}, path / "model.safetensors")
        (path / "old.txt").write_text("old")


@pytest.mark.parametrize(("form", "out"), [("F16", "c"), ("F16.safetensors", "c.safetensors")])
def test_an_existing_output_is_refused(trip, models, tmp_path, form, out):
    old_output(tmp_path / out)
    before = stamps(tmp_path)
    with pytest.raises(OutputError, match="must not exist yet"):
        compress(models / form, tmp_path / out, 4)
    with pytest.raises(OutputError, match="must not exist yet"):
        decompress(trip(form)[1], tmp_path / out)
    assert stamps(tmp_path) == before


@pytest.mark.parametrize(("form", "out"), [("F16", "c"), ("F16.safetensors", "c.safetensors")])
def test_force_replaces_an_existing_output(trip, tmp_path, form, out):
    source, there, back = trip(form)
    old_output(tmp_path / out)
    for ref, run in (
        (there, lambda: compress(source, tmp_path / out, 4, force=True)),
        (back, lambda: decompress(there, tmp_path / out, force=True)),
    ):
        run()
        assert raw(tmp_path / out) == raw(ref)
        if ref.is_dir():
            assert files_of(tmp_path / out) == files_of(ref)
        assert names_in(tmp_path) == [out]


@pytest.mark.parametrize(("form", "out"), [("F16", "c"), ("F16.safetensors", "c.safetensors")])
def test_force_without_an_old_output_is_no_error(models, tmp_path, form, out):
    compress(models / form, tmp_path / out, 4, force=True)
    assert names_in(tmp_path) == [out]


@pytest.mark.parametrize(("form", "out"), [("F16", "c"), ("F16.safetensors", "c.safetensors")])
def test_a_link_that_leads_nowhere_is_an_existing_output(models, tmp_path, form, out):
    (tmp_path / out).symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="must not exist yet"):
        compress(models / form, tmp_path / out, 4)
    compress(models / form, tmp_path / out, 4, force=True)
    assert not (tmp_path / out).is_symlink()


def test_force_replaces_a_link_and_not_what_it_leads_to(models, tmp_path):
    old_output(tmp_path / "old")
    (tmp_path / "c").symlink_to(tmp_path / "old")
    before = stamps(tmp_path / "old")
    compress(models / "F16", tmp_path / "c", 4, force=True)
    assert stamps(tmp_path / "old") == before
    assert not (tmp_path / "c").is_symlink()


@pytest.mark.parametrize(("source", "old"), [("F16.safetensors", "c"), ("F16", "c.safetensors")])
def test_force_replaces_no_folder_by_a_file_and_no_file_by_a_folder(models, tmp_path, source, old):
    old_output(tmp_path / old)
    before = stamps(tmp_path)
    with pytest.raises(OutputError):
        compress(models / source, tmp_path / old, 4, force=True)
    assert stamps(tmp_path) == before


def test_force_replaces_no_folder_that_is_not_a_model(models, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("precious")
    before = stamps(tmp_path)
    with pytest.raises(OutputError):
        compress(models / "F16", tmp_path / "home", 4, force=True)
    assert stamps(tmp_path) == before


def test_neighbours_of_the_output_are_left_alone(models, tmp_path):
    old_output(tmp_path / "c")
    for name in ("c.old", "c.bak", "c.tmp"):  # c.partial is ours
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_text(name)
    ref = {name: one for name, one in files_of(tmp_path).items() if "precious" in name}
    compress(models / "F16", tmp_path / "c", 4, force=True)
    got = {name: one for name, one in files_of(tmp_path).items() if "precious" in name}
    assert got == ref


def test_an_output_may_be_named_relatively(models, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    old_output(tmp_path / "here" / "c")
    monkeypatch.chdir(tmp_path / "here" / "c")
    compress(models / "F16", ".", 4, force=True)
    assert compressed_names(tmp_path / "here" / "c") == set(MATRICES)
    monkeypatch.chdir(tmp_path)
    compress(models / "F16", "c/", 4)
    compress(models / "F16", Path("here/../d"), 4)
    assert names_in(tmp_path) == ["c", "d", "here"]


def test_the_folder_of_the_output_must_exist(models, tmp_path):
    with pytest.raises(OutputError, match="the folder of the output must exist"):
        compress(models / "F16", tmp_path / "a" / "b", 4)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="the folder of the output must exist"):
        compress(models / "F16", tmp_path / "file" / "b", 4)
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
def test_modes_obey_the_umask(models, tmp_path, umask):
    old = os.umask(umask)
    try:
        compress(models / "F16", tmp_path / "c", 4)
        compress(models / "F16.safetensors", tmp_path / "c.safetensors", 4)
        decompress(tmp_path / "c", tmp_path / "d")
    finally:
        os.umask(old)
    for path in tmp_path.rglob("*"):
        ref = (0o777 if path.is_dir() else 0o666) & ~umask
        assert path.stat().st_mode & 0o7777 == ref, path


# Failures in the middle


class Failure(Exception):
    """Something that nobody expects."""


def fail_in_progress(monkeypatch, error):
    calls = []

    def progress(name, weights):
        calls.append(name)
        if len(set(calls)) == 3:
            raise error

    return {"progress": progress}


def fail_at_the_sums(monkeypatch, error):
    def write_sums(folder, threads):
        raise error

    monkeypatch.setattr(assembly, "write_sums", write_sums)
    return {}


def fail_at_the_rename(monkeypatch, error):
    """The first rename onto the output fails, after the old one has gone out of the way."""
    left = [error]

    def failing(rename):
        def run(source, target, **more):
            if left and Path(target).name == "c":
                raise left.pop()
            return rename(source, target, **more)

        return run

    monkeypatch.setattr(os, "rename", failing(os.rename))
    monkeypatch.setattr(os, "replace", failing(os.replace))
    return {}


FAILURES = {
    "progress": fail_in_progress, "sums": fail_at_the_sums, "rename": fail_at_the_rename
}  # fmt: skip
ERRORS = [
    (OSError(errno.ENOSPC, "No space left on device"), OutputError),
    (KeyboardInterrupt(), KeyboardInterrupt),
    (Failure(), Failure),
]


@pytest.mark.parametrize("where", FAILURES)
@pytest.mark.parametrize(("error", "raised"), ERRORS, ids=lambda one: str(one)[:20])
@pytest.mark.parametrize("old", [True, False], ids=["old output", "no output"])
def test_a_failure_leaves_everything_as_it_was_and_can_be_mended(
    models, tmp_path, monkeypatch, where, error, raised, old
):
    """Besides what was there, c.partial stays; with it the same bytes come out at last."""
    options = {"bits": 4, "include": ["re:self_attn"], "force": True}
    compress(models / "sharded", tmp_path / "ref", **options)
    if old:
        old_output(tmp_path / "c")
    before = {path: one[1] for path, one in stamps(tmp_path).items()}
    with monkeypatch.context() as patch:
        failing = FAILURES[where](patch, error)
        with pytest.raises(raised) as caught:
            compress(models / "sharded", tmp_path / "c", **options, **failing)
    assert any("--resume" in line for line in caught.value.__notes__)
    partial = tmp_path / "c.partial"
    after = {
        path: one[1]
        for path, one in stamps(tmp_path).items()
        if path != partial and partial not in path.parents
    }
    assert after == before
    compress(models / "sharded", tmp_path / "c", **options, resume=True)
    assert names_in(tmp_path) == ["c", "ref"]
    assert files_of(tmp_path / "c") == files_of(tmp_path / "ref")


@pytest.mark.parametrize(("error", "raised"), ERRORS, ids=lambda one: str(one)[:20])
def test_a_failing_decompression_leaves_everything_as_it_was(trip, tmp_path, error, raised):
    _, there, _ = trip("sharded")
    old_output(tmp_path / "c")
    before = {path: one[1] for path, one in stamps(tmp_path).items()}
    options = fail_in_progress(None, error)
    with pytest.raises(raised):
        decompress(there, tmp_path / "c", force=True, **options)
    assert {path: one[1] for path, one in stamps(tmp_path).items()} == before


def test_the_old_output_stands_until_the_new_one_is_complete(models, tmp_path):
    old_output(tmp_path / "c")
    ref = files_of(tmp_path / "c")
    seen = []

    def progress(name, weights):
        seen.append(files_of(tmp_path / "c") == ref)

    compress(models / "F16", tmp_path / "c", 4, force=True, progress=progress)
    assert len(seen) >= len(MATRICES)
    assert all(seen)


def test_a_failure_after_an_interrupt_can_be_repeated(models, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        compress(models / "F16", tmp_path / "c", 4, **fail_in_progress(None, KeyboardInterrupt()))
    compress(models / "F16", tmp_path / "c", 4)
    assert names_in(tmp_path) == ["c"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "header"])
def test_a_damaged_shard_leaves_nothing_behind(trip, tmp_path, damage):
    _, there, _ = trip("sharded")
    shutil.copytree(there, tmp_path / "c")
    last = weight_files(tmp_path / "c")[-1]
    content = bytearray(last.read_bytes())
    if damage == "truncated":
        content = content[:-1]
    else:
        content[-1 if damage == "flipped" else 20] ^= 1
    last.write_bytes(content)
    with pytest.raises((HeaderError, IntegrityError)):
        decompress(tmp_path / "c", tmp_path / "d")
    assert names_in(tmp_path) == ["c"]


# Progress


@pytest.mark.parametrize("form", ["F16", "sharded"])
def test_progress_counts_every_weight_once(trip, tmp_path, form):
    source, there, _ = trip(form)
    for run in (compress, decompress):
        done = Counter()

        def progress(name, weights, done=done):
            done[name] += weights

        path = source if run is compress else there
        run(path, tmp_path / run.__name__, progress=progress)
        assert done == {name: int(np.prod(shape)) for name, shape in MATRICES.items()}


# Options


def test_embed_bits_compresses_embeddings_and_heads_at_their_own_rate(models, tmp_path):
    result = compress(models / "F16", tmp_path / "c", 3, embed_bits=5)
    names = {"model.embed_tokens.weight", "lm_head.weight"}
    assert compressed_names(tmp_path / "c") == set(MATRICES) | names
    for t in result.plan.compressed:
        rate = t.coding.allotment.file_rate
        assert (3 < rate <= 5) if t.entry.name in names else rate <= 3
    decompress(tmp_path / "c", tmp_path / "d")
    assert raw(tmp_path / "d").keys() == raw(models / "F16").keys()
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    assert config["quantization_config"]["embed_bits"] == 5


def test_exclude_is_stronger_than_embed_bits(models, tmp_path):
    compress(models / "F16", tmp_path / "c", 4, embed_bits=4, exclude=["lm_head"])
    names = compressed_names(tmp_path / "c")
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names


def test_include_compresses_exactly_what_it_names(models, tmp_path):
    compress(models / "F16", tmp_path / "c", 4, include=["re:self_attn", "lm_head"])
    ref = {name for name in MATRICES if "self_attn" in name} | {"lm_head.weight"}
    assert compressed_names(tmp_path / "c") == ref


def test_include_keeps_embed_bits_from_what_it_does_not_name(models, tmp_path):
    compress(models / "F16", tmp_path / "c", 4, include=["re:self_attn"], embed_bits=5)
    assert compressed_names(tmp_path / "c") == {name for name in MATRICES if "self_attn" in name}


@pytest.mark.parametrize(
    ("option", "key", "value"),
    [
        ({"group": 16}, "n", 16),
        ({"group": 40}, "n", 40),
        ({"group": 4096}, "n", 40),
        ({"gain_bits": 0}, "gain_bits", 0),
        ({"gain_bits": 4}, "gain_bits", 4),
        ({"order": "fischer"}, "order", "fischer"),
        ({"order": "fischer"}, "block", 0),
        ({"order": "opus"}, "order", "opus"),
        ({"order": "blocked"}, "block", 4),
        ({"block": 7}, "block", 7),
        ({"rotate": False}, "rotation", None),
        ({"design": "quantile"}, "levels", "quantile"),
        ({"design": "panter-dite"}, "levels", "panter-dite"),
        ({"design": "panter-dite-centroids"}, "levels", "panter-dite-centroids"),
        ({"design": "lloyd-max"}, "levels", "lloyd-max"),
        ({"design": "fitted"}, "levels", "fitted"),
    ],
)
def test_options_arrive_in_the_metadata(models, tmp_path, option, key, value):
    compress(models / "F16.safetensors", tmp_path / "c", 6, **option)
    assert pvq_of(tmp_path / "c")["tensors"]["a.weight"][key] == value
    decompress(tmp_path / "c", tmp_path / "d")


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_the_seed_arrives_in_the_metadata(models, tmp_path, seed):
    compress(models / "F16.safetensors", tmp_path / "c", 4, seed=seed)
    assert pvq_of(tmp_path / "c")["tensors"]["a.weight"]["rotation"]["seed"] == str(seed)
    decompress(tmp_path / "c", tmp_path / "d")


def test_another_seed_gives_another_rotation(models, tmp_path):
    for seed in (0, 1):
        compress(models / "F16.safetensors", tmp_path / f"{seed}", 4, seed=seed)
    a, b = (entries_of(tmp_path / f"{seed}")["a.weight_index"] for seed in (0, 1))
    assert a != b


@pytest.mark.parametrize(
    "option",
    [{"bits": 0.99}, {"bits": 8.01}, {"bits": float("nan")}, {"bits": float("inf")}, {"bits": "4"},
     {"bits": True}, {"embed_bits": 0.5}, {"embed_bits": 9}, {"group": 0}, {"group": -1},
     {"group": 4097}, {"group": 32.0}, {"gain_bits": -1}, {"gain_bits": 9}, {"order": "other"},
     {"block": 0}, {"seed": -1}, {"seed": 2**64}, {"seed": "0"}, {"design": "other"},
     {"threads": 0}, {"threads": -1}, {"threads": 1.5}, {"include": ["nothing"]},
     {"exclude": ["nothing"]}, {"include": ["re:("]}],
    ids=str,
)  # fmt: skip
def test_options_outside_their_domain_leave_nothing_behind(models, tmp_path, option):
    with pytest.raises(DomainError):
        compress(models / "F16.safetensors", tmp_path / "c", **option)
    assert names_in(tmp_path) == []


# Models that can't be taken


def test_a_compressed_folder_is_refused(trip, tmp_path):
    _, there, _ = trip("F16")
    with pytest.raises(ModelError, match="'pvq'; decompress it first"):
        compress(there, tmp_path / "c")


@pytest.mark.parametrize("form", ["F16.safetensors", "F16"])
def test_a_compressed_file_is_refused_without_a_config_too(trip, tmp_path, form):
    _, there, _ = trip(form)
    path = there / "model.safetensors" if there.is_dir() else there
    with pytest.raises(ModelError, match="pvq"):
        compress(path, tmp_path / "c", include=["*"])
    assert names_in(tmp_path) == []


def test_a_plain_model_can_be_neither_loaded_nor_decompressed(models, tmp_path):
    for form in ("F16", "F16.safetensors"):
        with pytest.raises(PVQError, match="isn't compressed"):
            load(models / form)
        with pytest.raises(PVQError, match="isn't compressed"):
            decompress(models / form, tmp_path / "d")
    assert names_in(tmp_path) == []


def without(name):
    return lambda folder: (folder / name).unlink()


def config(text):
    return lambda folder: (folder / "config.json").write_text(text)


def index(value):
    return lambda folder: write_json(folder / INDEX, value)


def twice(folder):
    shutil.copyfile(weight_files(folder)[0], folder / "again.safetensors")
    (folder / INDEX).unlink()


BAD_FOLDERS = {
    "a missing shard": (without("model-00002-of-00003.safetensors"), "must be there"),
    "a tensor in two files": (twice, "must be in one file"),
    "a broken config": (config("{"), r"config\.json must be JSON"),
    "a config that is a list": (config("[]"), r"config\.json must be a JSON object"),
    "an index without a map": (index({"metadata": {}}), "must have a weight_map"),
    "an index with an empty map": (index({"weight_map": {}}), "must have a weight_map"),
    "an index with a list": (index({"weight_map": ["a"]}), "must have a weight_map"),
    "an index that leads outside": (
        index({"weight_map": {"a": "../F16.safetensors"}}), "files of its folder"
    ),
    "an index of other files": (index({"weight_map": {"a": "pytorch_model.bin"}}), "files of its"),
    "a broken index": (lambda folder: (folder / INDEX).write_text("{"), "must be JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_broken_folders_are_model_errors(models, tmp_path, name):
    change, message = BAD_FOLDERS[name]
    shutil.copytree(models / "sharded", tmp_path / "m")
    change(tmp_path / "m")
    with pytest.raises(ModelError, match=message):
        compress(tmp_path / "m", tmp_path / "c")
    assert names_in(tmp_path) == ["m"]


def test_what_is_no_model_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match="must be a safetensors file or a folder"):
        compress(tmp_path / "nothing", tmp_path / "c")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="must hold safetensors files"):
        compress(tmp_path / "empty", tmp_path / "c")
    (tmp_path / "text.safetensors").write_text("not a model")
    with pytest.raises(HeaderError, match=r"text\.safetensors"):
        compress(tmp_path / "text.safetensors", tmp_path / "c")


@pytest.mark.parametrize("files", [1, 2])
def test_names_like_those_of_packed_fields_are_refused(tmp_path, files):
    """x becomes x_index and others: a tensor of that name would be there twice."""
    w = np.random.default_rng(0).standard_normal((24, 40)).astype(np.float32)
    (tmp_path / "m").mkdir()
    if files == 1:
        save_file({"x": w, "x_index": w[0]}, tmp_path / "m" / "model.safetensors")
    else:
        save_file({"x": w}, tmp_path / "m" / "a.safetensors")
        save_file({"x_index": w[0]}, tmp_path / "m" / "b.safetensors")
    with pytest.raises(ModelError, match="names"):
        compress(tmp_path / "m", tmp_path / "c", 4)
    assert names_in(tmp_path) == ["m"]


def test_names_of_any_characters_come_back(tmp_path):
    w = np.random.default_rng(0).standard_normal((24, 40)).astype(np.float32)
    names = ['"quoted"', "new\nline", "é", "😀", "a/b", "\x00", "", " ", "\\",
             "__metadata", "header_sha256"]  # fmt: skip
    save_file(dict.fromkeys(names, w), tmp_path / "m")
    compress(tmp_path / "m", tmp_path / "c", 4)
    decompress(tmp_path / "c", tmp_path / "d")
    assert raw(tmp_path / "d").keys() == set(names)


# One tensor in memory


@pytest.mark.parametrize("shape", [(24, 40), (2, 3, 64)])
def test_a_tensor_is_saved_and_loaded(tmp_path, shape):
    ref = quantize(np.random.default_rng(0).standard_normal(shape).astype(np.float32), 6)
    ref.save(tmp_path / "t.safetensors", "name")
    (got,) = load(tmp_path / "t.safetensors").values()
    assert set(load(tmp_path / "t.safetensors")) == {"name"}
    assert (got.shape, got.dtype, got.coding, got.design, got.norm_exponent) == (
        ref.shape, ref.dtype, ref.coding, ref.design, ref.norm_exponent
    )  # fmt: skip
    for part in PARTS:
        a, b = getattr(ref, part), getattr(got, part)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()
    assert np.array_equal(dequantize(got), dequantize(ref))


def test_a_saved_tensor_is_a_compressed_file(tmp_path):
    ref = quantize(np.random.default_rng(0).standard_normal((24, 40)).astype(np.float32), 4)
    ref.save(tmp_path / "t.safetensors")
    decompress(tmp_path / "t.safetensors", tmp_path / "d.safetensors")
    got = load_file(tmp_path / "d.safetensors")["weight"]
    assert np.array_equal(got, dequantize(ref, np.float32))


def test_saving_never_replaces_a_file(tmp_path):
    (tmp_path / "t").write_text("precious")
    with pytest.raises(OutputError, match="must not exist yet"):
        quantize(np.ones((8, 64), np.float32), 4).save(tmp_path / "t")
    assert files_of(tmp_path) == {"t": b"precious"}


def test_compress_is_quantize_tensor_by_tensor(models, tmp_path):
    compress(models / "F32.safetensors", tmp_path / "c", 3.25)
    source = load_file(models / "F32.safetensors")
    for name, got in load(tmp_path / "c").items():
        if isinstance(got, PVQTensor):
            ref = quantize(source[name], 3.25)
            for part in PARTS:
                assert getattr(ref, part).tobytes() == getattr(got, part).tobytes()
