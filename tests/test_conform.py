"""The checker of other implementations: right, wrong and troubled ports."""

import json
import os
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from pvq_ref import vectors
from pvq_ref.cli import main
from pvq_ref.comparing import difference, shortened
from pvq_ref.conform import STARTS, check, chosen
from pvq_ref.errors import DomainError

pytestmark = pytest.mark.conform

ROOT = Path(__file__).parent.parent
FAST = [sys.executable, "-m", "pvq_ref.port"]
FIRST = "count/0-0"  # of section 2
NEXT = "count/0-3"


@pytest.fixture(autouse=True)
def tests_can_be_imported(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def wrong(name):
    return [sys.executable, "-m", f"tests.ports.{name}"]


def troubled(*words):
    return [sys.executable, "-m", "tests.ports.troubled", *words]


def sections(report):
    return {verdict.section for verdict in report.failures}


def ids(report):
    return {verdict.id for verdict in report.failures}


# Right and wrong


def test_this_package_conforms():
    report = check(FAST, timeout=300)  # the first answers may have to wait for a compiler
    assert not ids(report)
    assert report.problems == []
    assert len(report.verdicts) == len(vectors.cases())
    assert report.totals()["unsupported"] == 0


@pytest.mark.parametrize(
    ("name", "planted"),
    [
        ("fischer_sign", {"3.1"}),
        ("search_tie", {"4.1"}),
        ("bit_order", {"8.4"}),
        ("base_transposed", {"6.6", "6.7"}),
        ("plain_unhashed", {"9.4"}),
    ],
)
def test_a_planted_defect_is_reported_where_it_is(name, planted):
    report = check(wrong(name), timeout=60)
    assert sections(report) == planted
    assert report.problems == []
    assert 0 < report.totals()["unsupported"] < 30
    assert all(verdict.difference and verdict.got for verdict in report.failures)


def test_without_any_hash_the_order_of_errors_is_wrong_too():
    """Where several defects meet, the hash's error has to come first (spec section 11)."""
    report = check(wrong("no_hashes"), 60, ["decode_file/*"])
    assert sections(report) == {"9.4", "11"}
    flags = {verdict.section: verdict.flags for verdict in report.failures}
    assert "unchecked" in flags["9.4"] and "error-order" in flags["11"]


def test_a_tie_is_told_by_its_flag():
    flags = check(wrong("search_tie"), 60, ["4.1"]).by_flag()
    assert flags["tie-rule"]["failed"] > 5
    assert flags["overflow"]["failed"] == 0


# Troubled


def test_a_port_that_knows_everything_conforms():
    report = check(troubled("right"))
    assert report.conforms
    assert report.totals() == {"passed": len(vectors.cases()), "failed": 0, "unsupported": 0}


@pytest.mark.parametrize(
    ("way", "what"),
    [
        ("hang", "no answer in time"),
        ("crash", "no answer: the port has ended with code 7"),
        ("close", "no answer: the port has ended, or closed its output"),
    ],
)
def test_a_port_that_stops_loses_the_rest_of_its_section(way, what):
    report = check(troubled(way, NEXT), 5.0, ["2", "3.4"])
    assert sections(report) == {"2"}
    differences = [verdict.difference for verdict in report.failures]
    assert differences[0] == what
    assert set(differences[1:]) == {"no answer: the port hung or ended before"}
    passed = [verdict.id for verdict in report.verdicts if verdict.outcome == "passed"]
    assert passed[0] == FIRST
    assert report.by_section()["3.4"]["failed"] == 0
    assert report.problems == []


def test_a_port_that_always_hangs_is_given_up():
    began = time.monotonic()
    report = check(troubled("hang"), 0.5)
    assert report.totals()["failed"] == len(vectors.cases())
    waited = [v for v in report.failures if v.difference == "no answer in time"]
    assert len(waited) == STARTS
    assert time.monotonic() - began < 30


def test_a_port_that_prints_without_end():
    report = check(troubled("flood"), 5.0, ["2"])
    assert report.totals()["passed"] == 0
    assert {v.difference for v in report.failures} == {
        "an answer must be a JSON object in one line"
    }
    report = check(troubled("flood", NEXT), 5.0, ["2"])  # the answer before, again and again
    assert report.failures[0].difference == "answered twice"
    assert report.failures[1].difference == "no answer in time"


@pytest.mark.parametrize(
    ("way", "what"),
    [
        ("debug", "an answer must be a JSON object in one line"),
        ("number", "an answer must be a JSON object in one line"),
        ("deep", "an answer must be a JSON object in one line"),
        ("binary", "an answer must be a JSON object in one line"),
        ("both", "an answer must have a result, an error or unsupported, got ['result', 'error']"),
        ("maybe", "unsupported must be true"),
        ("twice", "answered twice"),
    ],
)
def test_rubbish_fails_one_case_and_no_other(way, what):
    report = check(troubled(way, NEXT), 10.0, ["2"])
    assert [(v.id, v.difference) for v in report.failures] == [(NEXT, what)]
    assert report.problems == []


def test_answers_of_other_requests():
    report = check(troubled("late"), 5.0, ["2"])
    assert report.failures[0].difference == "answered twice"
    assert report.totals()["passed"] == 0


def test_answers_out_of_order():
    report = check(troubled("swap"), 1.0, ["2"])
    assert report.failures[0].difference == "no answer in time"
    assert report.totals()["passed"] == 0


def test_what_is_unsupported_is_no_failure():
    report = check(troubled("none"), 10.0, ["2"])
    assert report.conforms
    assert report.totals()["unsupported"] == len(report.verdicts)


@pytest.mark.parametrize(
    ("way", "what"),
    [
        ("code", "the port must end with code 0, got 5"),
        ("epilogue", "after the last answer must come nothing, got bye"),
        ("stay", "the port must end when its input is closed"),
    ],
)
def test_the_end_of_a_port(way, what):
    report = check(troubled(way), 5.0, ["3.4"])
    assert report.failures == []
    assert report.problems == [what]
    assert not report.conforms


def test_the_last_answer_twice():
    last = chosen(["2"])[-1]["id"]
    report = check(troubled("twice", last), 10.0, ["2"])
    assert [(v.id, v.difference) for v in report.failures] == [(last, "answered twice")]


# Comparison


@pytest.mark.parametrize(
    ("op", "result", "got", "same"),
    [
        ("optimal_gain", "0x1.0000000000000p+0", "0x1p+0", True),
        ("optimal_gain", "0x1.0000000000000p+0", "0x8P-3", True),
        ("optimal_gain", "0x0.0p+0", "-0x0.0p+0", False),
        ("optimal_gain", "-0x0.0p+0", "-0x0p+0", True),
        ("optimal_gain", "inf", "inf", True),
        ("optimal_gain", "inf", "-inf", False),
        ("optimal_gain", "nan", "nan", True),
        ("optimal_gain", "0x1.0000000000000p+0", "1.0", False),
        ("optimal_gain", "0x1.0000000000000p+0", 1.0, False),
        ("optimal_gain", "0x1.0000000000000p+0", "0x1p+99999", False),
        ("optimal_gain", "0x1.0000000000000p+0", "nan", False),
        ("forward", ["0x1.0000000000000p+0"], ["0x1p+0"], True),
        ("forward", ["0x1.0000000000000p+0"], ["0x1p+0", "0x1p+0"], False),
        ("forward", [], "0x1p+0", False),
        ("nearest_level", 1, 1, True),
        ("nearest_level", 1, True, False),
        ("nearest_level", 1, 1.0, False),
        ("nearest_level", 0, None, False),
        ("count", "8", 8, False),
        ("count", "8", "08", False),
        ("pack", "d1", "D1", True),
        ("pack", "d1", "d1 ", False),
        ("row_norms", {"norms": "aa", "exponent": 1}, {"exponent": 1, "norms": "AA"}, True),
        ("row_norms", {"norms": "aa", "exponent": 1}, {"norms": "aa", "exponent": 2}, False),
        ("row_norms", {"norms": "aa", "exponent": 1}, {"norms": "aa"}, False),
        ("signs", [1, -1], [1, -1], True),
        ("signs", [1, -1], [1, 1], False),
    ],
)  # fmt: skip
def test_comparison(op, result, got, same):
    case = {"op": op, "result": result}
    assert (difference(case, {"result": got}) is None) == same
    assert difference(case, {"error": "DomainError"}) is not None


def test_comparison_tells_the_first_difference():
    case = {"op": "signs", "result": [1, -1, 1]}
    got = difference(case, {"result": [1, 1, -1]})
    assert got == "result[1]: expected -1, got 1"
    case = {"op": "count", "error": "DomainError"}
    assert difference(case, {"error": "DomainError"}) is None
    assert difference(case, {"error": "ShapeError"}) == (
        "expected the error DomainError, got the error ShapeError"
    )
    assert difference(case, {"result": "1"}) == "expected the error DomainError, got a result"


def test_long_values_are_cut_in_the_middle():
    assert shortened([1, 2]) == "[1, 2]"
    text = shortened("a" * 500 + "b" * 500)
    assert len(text) < 200 and text.startswith("aaa") and text.endswith("bbb")


# The command line


def test_only_takes_sections_and_globs():
    assert {case["section"] for case in chosen(["3.4", "5.1"])} == {"3.4", "5.1"}
    assert [case["id"] for case in chosen([FIRST])] == [FIRST]
    assert {case["op"] for case in chosen(["unpack/*"])} == {"unpack"}
    numbers = [case["section"] for case in chosen([])]
    assert numbers.index("9.1") < numbers.index("11")
    with pytest.raises(DomainError, match="only must be a section or a glob of ids, got '99'"):
        chosen(["2", "99"])


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_exit_code_and_report_of_a_port_that_conforms(capsys):
    code, out, err = run(capsys, "conform", "--only", "2", "--", *troubled("right"))
    assert code == 0 and err == ""
    assert out.splitlines()[-1].endswith(" passed, 0 failed, 0 unsupported")
    assert run(capsys, "conform", "-q", "--only", "2", "--", *troubled("right")) == (0, "", "")


def test_exit_code_and_report_of_a_wrong_port(capsys):
    arguments = ("conform", "--timeout", "60", "--only", "rank/fischer/*", "--only", "2")
    code, out, err = run(capsys, *arguments, "--", *wrong("fischer_sign"))
    assert code == 3 and err == ""
    assert "rank/fischer/2-2/0,2  result: expected 0, got 1\n" in out
    assert "word-border" in out
    code, out, err = run(capsys, *arguments, "--json", "--", *wrong("fischer_sign"))
    assert code == 3 and "passed" in err
    value = json.loads(out)
    jsonschema.validate(value, json.loads((ROOT / "docs/schemas/conform.json").read_text()))
    assert value["sections"]["2"]["failed"] == 0
    assert value["failed"] == len(value["failures"]) == value["sections"]["3.1"]["failed"] > 5
    assert not value["conforms"]


def test_problems_go_to_stderr(capsys):
    code, _, err = run(capsys, "conform", "-q", "--only", "2", "--", *troubled("code"))
    assert (code, err) == (3, "pvq-ref: the port must end with code 0, got 5\n")


def test_wrong_usage(capsys):
    for arguments in ([], ["--"], ["--timeout", "soon", "--", "true"]):
        with pytest.raises(SystemExit) as stop:
            main(["conform", *arguments])
        assert stop.value.code == 2
    assert run(capsys, "conform", "--timeout", "0", "--", "true")[0] == 2
    assert run(capsys, "conform", "--only", "nothing", "--", "true")[0] == 2


def test_a_command_that_cannot_be_started(capsys, tmp_path):
    code, out, err = run(capsys, "conform", "--", tmp_path / "nothing")
    assert code == 1 and out == "" and "nothing" in err


def test_vectors_are_written(capsys, tmp_path):
    code, out, _ = run(capsys, "vectors", tmp_path / "new")
    assert code == 0
    assert out.startswith(f"{len(vectors.cases())} cases in {len(vectors.TOPICS)} files")
    assert (tmp_path / "new" / vectors.SCHEMA).is_file()
    code, out, err = run(capsys, "vectors", tmp_path / "new")
    assert code == 1 and "must be an empty folder" in err
    code, out, _ = run(capsys, "vectors", tmp_path / "new", "--force", "--json")
    assert code == 0
    assert json.loads(out)["cases"] == len(vectors.cases())
