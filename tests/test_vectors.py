"""The released vectors: made by the oracle, answered by the fast code."""

import ast
import json
import shutil
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

from pvq_ref import cases, port, vectors
from pvq_ref.cases.__main__ import COMMAND, FOLDER, TOPICS, main, stale, text_of
from pvq_ref.cases.answers import OPERATIONS, answer
from pvq_ref.cases.case import FLAGS
from pvq_ref.errors import OutputError

pytestmark = pytest.mark.vectors

ALL = vectors.cases()
IDS = [case["id"] for case in ALL]


def answered(case):
    return {key: case[key] for key in ("result", "error") if key in case}


# The files


@pytest.mark.parametrize("topic", TOPICS)
def test_files_are_what_the_oracle_says(topic):
    same = (FOLDER / f"{topic}.json").read_bytes() == text_of(topic).encode()
    assert same, f"{topic}.json is stale or was edited; repair: {COMMAND}"


@pytest.mark.parametrize("topic", vectors.TOPICS)
def test_files_obey_their_schema(topic):
    schema = vectors.read_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(vectors.read(topic))


@pytest.mark.parametrize(
    "change",
    [
        {"class": "faulty"},
        {"op": "search"},
        {"section": "two"},
        {"result": 5},
        {"error": "DomainError"},
        {"more": 1},
        {"args": {"n": 1}},
    ],
)
def test_the_schema_is_strict(change):
    whole = vectors.read("counting")
    whole["cases"] = [whole["cases"][0] | change]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(vectors.read_schema()).validate(whole)


def test_ids_are_unique_and_tell_the_operation():
    assert [one for one, times in Counter(IDS).items() if times > 1] == []
    for case in ALL:
        assert case["id"].startswith(f"{case['op']}/")


def test_every_operation_of_the_protocol_is_asked_and_answered_rightly_and_wrongly():
    text = (Path(__file__).parent.parent / "docs" / "conform.md").read_text(encoding="utf-8")
    documented = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    asked = {case["op"] for case in ALL}
    assert asked == set(OPERATIONS) == set(port.OPERATIONS)
    assert asked <= set(documented)
    assert {case["op"] for case in ALL if "result" in case} == asked


def test_every_error_of_a_decoder_is_there():
    counts = Counter(case["error"] for case in ALL if "error" in case)
    for name in ("HeaderError", "MetadataError", "IntegrityError", "PayloadError", "VersionError"):
        assert counts[name] >= 3, name
    assert {"DomainError", "NonFiniteError", "IndexRangeError"} < counts.keys()


def test_flags_are_described_and_used():
    assert vectors.flags() == dict(sorted(FLAGS.items()))
    for topic in vectors.TOPICS:
        whole = vectors.read(topic)
        assert set(whole["flags"]) == {flag for case in whole["cases"] for flag in case["flags"]}


def test_sections_are_those_of_the_specification():
    text = (Path(__file__).parent.parent / "docs" / "spec.md").read_text(encoding="utf-8")
    heads = {line.split()[1] for line in text.splitlines() if line.startswith("##")}
    assert {case["section"] for case in ALL} <= heads


def test_topics_are_the_files():
    assert list(vectors.TOPICS) == list(TOPICS)
    names = {path.name for path in vectors.FOLDER.glob("*.json")}
    assert names == {f"{topic}.json" for topic in TOPICS} | {vectors.SCHEMA}
    assert sum(path.stat().st_size for path in vectors.FOLDER.glob("*.json")) < 700_000


def test_the_generator_knows_the_oracle_only():
    modules = sorted(Path(cases.__file__).parent.glob("*.py"))
    assert len(modules) > 9
    allowed = ("pvq_ref.cases", "pvq_ref.oracle", "pvq_ref.errors")
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [one.name for one in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert name.split(".")[0] != "numpy", path
                assert not name.startswith("pvq_ref") or name.startswith(allowed), (path, name)


def test_check_finds_an_edited_file_and_tells_the_repair(tmp_path, monkeypatch, capsys):
    for topic in ("counting", "search"):
        shutil.copy(FOLDER / f"{topic}.json", tmp_path)
    two = {topic: TOPICS[topic] for topic in ("counting", "search")}
    monkeypatch.setattr("pvq_ref.cases.__main__.FOLDER", tmp_path)
    monkeypatch.setattr("pvq_ref.cases.__main__.TOPICS", two)
    assert main(["--check"]) == 0
    path = tmp_path / "counting.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"2816"', '"2817"'), encoding="utf-8")
    assert stale() == ["counting"]
    assert main(["--check"]) == 1
    assert f"repair: {COMMAND}" in capsys.readouterr().out
    assert main(["--write"]) == 0
    assert main(["--check"]) == 0


# The two implementations


@pytest.mark.parametrize("case", ALL, ids=IDS)
def test_the_oracle_gives_the_stored_answers(case):
    assert answer(case["op"], case["args"]) == answered(case)


def asked(case):
    """Return a case with its marks; what takes a minute uncompiled isn't asked then."""
    marks = [] if "blocked-4/128-221" in case["id"] else [pytest.mark.uncompiled]
    return pytest.param(case, id=case["id"], marks=marks)


@pytest.mark.parametrize("case", [asked(case) for case in ALL])
def test_the_fast_code_gives_the_stored_answers(case):
    assert port.answer(case["op"], case["args"]) == answered(case)


# Copying


def test_copies_are_what_was_stored(tmp_path):
    names = vectors.write(tmp_path / "new" / "folder")
    for name in names:
        copied = tmp_path / "new" / "folder" / name
        assert copied.read_bytes() == (vectors.FOLDER / name).read_bytes()
    assert len(json.loads((tmp_path / "new" / "folder" / "schema.json").read_text())) > 3


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(OutputError, match="the output must be an empty folder, got"):
        vectors.write(tmp_path)
    vectors.write(tmp_path, force=True)
    assert (tmp_path / "mine").exists()
    with pytest.raises(OutputError, match="the output must be a folder that can be written"):
        vectors.write(tmp_path / "mine")
