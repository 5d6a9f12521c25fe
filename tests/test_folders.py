"""Folders, links and side files from strangers (docs/hostile.md)."""

import json
import os
import shutil
import threading
import time
import tracemalloc

import pytest

from pvq_ref import compress, decompress
from pvq_ref.allocation import read_rates
from pvq_ref.errors import HeaderError, MetadataError, ModelError
from pvq_ref.folders import MAX_DEPTH, MAX_JSON, MAX_TOKENS, model_files, read_json
from pvq_ref.hessians import Hessians
from pvq_ref.model import open_model
from pvq_ref.output import read_sums
from pvq_ref.tasks import MAX_LINE, read_task
from pvq_ref.verification import verify
from tests.models import INDEX, SIDE_FILES, files_of, make_folder, names_in

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model in a folder, and what it becomes."""
    folder = tmp_path_factory.mktemp("folders")
    make_folder(folder / "m")
    make_folder(folder / "sharded", shards=2)
    compress(folder / "m", folder / "c", 4)
    return folder


@pytest.fixture
def model(made, tmp_path):
    return shutil.copytree(made / "m", tmp_path / "m")


@pytest.fixture
def compressed(made, tmp_path):
    return shutil.copytree(made / "c", tmp_path / "c")


def refused(folder, match, error=ModelError):
    """No way of reading takes a folder, or leaves anything behind."""
    before = names_in(folder.parent)
    for call in (
        lambda: open_model(folder),
        lambda: compress(folder, folder.parent / "out", 4),
        lambda: decompress(folder, folder.parent / "out"),
    ):
        with pytest.raises(error, match=match):
            call()
    assert names_in(folder.parent) == before


# Links


def hub_cache(source, cache):
    """The folder of a snapshot, in the form of a hub's cache: links to blobs beside it."""
    (cache / "blobs").mkdir(parents=True)
    snapshot = cache / "snapshots" / "0123"
    for number, (name, content) in enumerate(files_of(source).items()):
        (cache / "blobs" / f"{number:040}").write_bytes(content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (2 + name.count("/"))
        (snapshot / name).symlink_to(f"{up}blobs/{number:040}")
    return snapshot


@pytest.mark.parametrize("form", ["m", "sharded"])
def test_the_cache_of_a_hub_is_a_model(made, tmp_path, form):
    compress(hub_cache(made / form, tmp_path / "cache"), tmp_path / "c", 4)
    compress(made / form, tmp_path / "ref", 4)
    assert files_of(tmp_path / "c") == files_of(tmp_path / "ref")
    assert verify(tmp_path / "c").problems == []


def test_a_compressed_model_in_the_cache_of_a_hub_is_read(made, tmp_path):
    snapshot = hub_cache(made / "c", tmp_path / "cache")
    assert verify(snapshot).problems == []
    decompress(snapshot, tmp_path / "d")
    decompress(made / "c", tmp_path / "ref")
    assert files_of(tmp_path / "d") == files_of(tmp_path / "ref")


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("what", ["file", "folder", "everything"])
def test_links_to_what_is_not_the_model_are_refused(model, tmp_path, what, absolute):
    """Side files are copied: nothing of the rest of the disk may get into an output."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("secret")
    target = {"file": tmp_path / "private" / "key", "folder": tmp_path / "private",
              "everything": tmp_path.parents[-1]}[what]  # fmt: skip
    (model / "notes").symlink_to(target if absolute else os.path.relpath(target, model))
    began = time.perf_counter()
    refused(model, "links in a model's folder must lead to where its weights are, got 'notes'")
    assert time.perf_counter() - began < 2


def test_a_linked_secret_is_a_problem_of_a_compressed_folder(compressed, tmp_path):
    (tmp_path / "key").write_text("secret")
    (compressed / "tokenizer.json").unlink()
    (compressed / "tokenizer.json").symlink_to(tmp_path / "key")
    assert any("'tokenizer.json'" in problem for problem in verify(compressed).problems)
    with pytest.raises(ModelError):
        decompress(compressed, tmp_path / "d")


def test_links_inside_a_model_are_followed_once(model):
    (model / "again").symlink_to(".")
    (model / "1_Pooling" / "up").symlink_to("..")
    (model / "copy.json").symlink_to("tokenizer.json")
    ref = {*SIDE_FILES, "copy.json"}
    assert set(open_model(model).side_files) == ref


def test_links_that_lead_nowhere_are_refused(model):
    (model / "gone.json").symlink_to(model / "missing")
    refused(model, r"regular files, got 'gone\.json'")


def test_a_weight_file_may_be_a_link_to_anywhere(model, tmp_path):
    (tmp_path / "disk").mkdir()
    shutil.move(model / WEIGHTS, tmp_path / "disk" / "w")
    (model / WEIGHTS).symlink_to(tmp_path / "disk" / "w")
    compress(model, tmp_path / "c", 4)
    assert verify(tmp_path / "c", model).problems == []


def test_folders_are_listed_as_they_are(model):
    assert model_files(model, [WEIGHTS]) == sorted(files_of(model))


# What isn't a file


def without_hanging(call):
    """Run a call that could wait for ever; what it raises is raised here."""
    raised = []

    def run():
        try:
            call()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    if raised:
        raise raised[0]


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", INDEX, "side"])
def test_pipes_are_refused_at_once(model, name):
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    with pytest.raises(ModelError):
        without_hanging(lambda: open_model(model))


def test_files_that_are_read_by_themselves_are_no_pipes(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for call, error in (
        (lambda: Hessians(tmp_path / "pipe"), HeaderError),
        (lambda: read_rates(tmp_path / "pipe"), ModelError),
        (lambda: read_task(tmp_path / "pipe"), ModelError),
        (lambda: open_model(tmp_path / "pipe"), ModelError),
    ):
        with pytest.raises(error):
            without_hanging(call)


def test_a_folder_in_the_place_of_weights_is_refused(model):
    (model / "more.safetensors").mkdir()
    refused(model, r"weight files must be there and be files, got 'more\.safetensors'")


# Indices

NAMES = [
    "../m/model.safetensors", "/etc/x.safetensors", "./model.safetensors", "a/b.safetensors",
    "a\\b.safetensors", "..", ".", "", "config.json", "\0.safetensors", "\n.safetensors", 1, None,
    ["model.safetensors"], {}, True,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_indices_name_files_of_their_folder(model, name):
    (model / INDEX).write_text(json.dumps({"weight_map": {"a": WEIGHTS, "b": name}}))
    refused(model, "must name safetensors files of its folder")


@pytest.mark.parametrize("name", ["missing.safetensors", "x" * 300 + ".safetensors"])
def test_indices_name_files_that_are_there(model, name):
    (model / INDEX).write_text(json.dumps({"weight_map": {"a": WEIGHTS, "b": name}}))
    refused(model, "weight files must be there")


# JSON

BAD_JSON = {
    "half a pair": rb'{"a": "\ud800"}',
    "deep": b'{"a":' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}",
    "very deep": b"[" * 200_000,
    "many": b"[" + b"[]," * (MAX_TOKENS // 2) + b"1]",
    "long": b" " * (MAX_JSON + 1),
    "a long number": b'{"a":' + b"1" * 5000 + b"}",
    "not UTF-8": b'{"a":"\xff"}',
    "empty": b"",
    "zeros": b"\0" * 100,
    "two": b"{}{}",
}


@pytest.mark.parametrize("name", BAD_JSON)
@pytest.mark.parametrize("file", ["config.json", INDEX])
def test_broken_json_is_a_model_error(model, file, name):
    (model / file).write_bytes(BAD_JSON[name])
    began = time.perf_counter()
    with pytest.raises(ModelError, match=file):
        open_model(model)
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("name", BAD_JSON)
def test_broken_plans_are_model_errors(tmp_path, name):
    (tmp_path / "plan").write_bytes(BAD_JSON[name])
    with pytest.raises(ModelError):
        read_rates(tmp_path / "plan")


@pytest.mark.parametrize("rate", ["1e999", "NaN", "1" + "0" * 400, "true", '"3"', "null", "[3]"])
def test_rates_are_numbers(tmp_path, rate):
    (tmp_path / "plan").write_text(f'{{"rates": {{"a": {rate}}}}}')
    with pytest.raises(ModelError, match="names and numbers"):
        read_rates(tmp_path / "plan")


LARGE = {
    "lists": b"[" + b"[]," * (MAX_TOKENS // 2 - 9) + b"1]",
    "objects": b"{" + b",".join(b'"%x":{}' % i for i in range(300_000)) + b"}",
}


@pytest.mark.parametrize("name", LARGE)
def test_json_takes_no_more_memory_than_promised(tmp_path, name):
    (tmp_path / "a").write_bytes(LARGE[name])
    tracemalloc.start()
    try:
        read_json(tmp_path / "a")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 << 20


BAD_LINES = {
    **{name: content.decode("utf-8", "replace") for name, content in BAD_JSON.items()
       if name not in ("not UTF-8", "long", "many")},
    "a list": "[]",
    "half a pair in a context": '{"context": "\\ud800", "target": "b"}',
    "a long line": '{"context": "' + "a" * MAX_LINE + '", "target": "b"}',
    "deep in a context": '{"context": ' + "[" * 500 + "]" * 500 + ', "target": "b"}',
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_LINES)
def test_broken_tasks_are_model_errors(tmp_path, name):
    (tmp_path / "t").write_text('{"context": "a", "target": "b"}\n' + BAD_LINES[name] + "\n1")
    with pytest.raises(ModelError, match="line 2"):
        read_task(tmp_path / "t")


# Sums


def test_sums_name_each_file_once(compressed):
    sums = (compressed / "SHA256SUMS").read_bytes()
    (compressed / "SHA256SUMS").write_bytes(sums + sums.splitlines(keepends=True)[0])
    with pytest.raises(MetadataError, match="must name each file once"):
        read_sums(compressed)
    assert verify(compressed).problems


@pytest.mark.parametrize("absolute", [True, False])
def test_no_file_elsewhere_is_hashed(compressed, tmp_path, monkeypatch, absolute):
    """A sum must not tell what is in a file outside of the folder, or wait for it."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "secret").write_text("secret")
    hashed = []
    monkeypatch.setattr(
        "pvq_ref.verification.file_hash", lambda path: hashed.append(path) or "0" * 64
    )
    with (compressed / "SHA256SUMS").open("a") as file:
        for name in ("pipe", "secret"):
            file.write(f"{'0' * 64}  {tmp_path / name if absolute else f'../{name}'}\n")
    without_hanging(lambda: verify(compressed))
    assert {path.parent for path in hashed} == {compressed, compressed / "1_Pooling"}
