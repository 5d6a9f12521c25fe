"""Files of tasks, parts of texts, windows and estimates: what needs no torch."""

import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvq_ref.errors import DomainError, MissingExtraError, ModelError
from pvq_ref.estimates import Estimate, mean, mean_of
from pvq_ref.language_model import load, read_part, windows
from pvq_ref.tasks import Item, read_task, read_tasks

CHOICE = {"context": "Q: 1 + 1?\nA:", "choices": [" 2", " 3"], "gold": 0}
PARTIAL = {"contexts": ["He", "She"], "choices": [" ran.", " ran."], "gold": 1}
CLOZE = {"context": "In my palm is a clear", "target": " stone"}


def write(path, *lines):
    text = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    return path


def test_the_three_forms(tmp_path):
    task = read_task(write(tmp_path / "some.jsonl", CHOICE, PARTIAL | {"id": 7}))
    assert (task.name, task.kind) == ("some", "choice")
    assert task.items == (
        Item((("Q: 1 + 1?\nA:", " 2"), ("Q: 1 + 1?\nA:", " 3")), 0),
        Item((("He", " ran."), ("She", " ran.")), 1),
    )
    task = read_task(write(tmp_path / "c.jsonl", CLOZE, CLOZE), 1)
    assert (task.kind, task.items) == ("cloze", (Item((("In my palm is a clear", " stone"),), 0),))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "must be a JSON object"),
        ("{", "must be a JSON object"),
        ("[1]", "must be a JSON object, got"),
        ({"context": "a"}, "must have either choices or a target"),
        (CHOICE | CLOZE, "must have either choices or a target"),
        (CHOICE | PARTIAL, "must have either a context or contexts"),
        (CLOZE, "must be of the same kind as the first one, choice"),
        (CHOICE | {"choices": [" 2"]}, "must have at least two strings as choices"),
        (CHOICE | {"choices": [" 2", ""]}, "must have at least two strings as choices"),
        (CHOICE | {"choices": " 2"}, "must have at least two strings as choices"),
        (CHOICE | {"gold": 2}, "must have a number below 2 as gold, got 2"),
        (CHOICE | {"gold": True}, "must have a number below 2 as gold, got True"),
        (CHOICE | {"context": None}, "must have a string as context, got None"),
        (PARTIAL | {"contexts": ["He"]}, "must have 2 strings as contexts"),
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path, line, message):
    path = write(tmp_path / "t.jsonl", CHOICE, line)
    with pytest.raises(ModelError, match=f"^t.jsonl, line 2, {message}"):
        read_task(path)
    assert len(read_task(path, 1).items) == 1  # a line that isn't asked for isn't read


def test_files_that_are_no_tasks(tmp_path):
    with pytest.raises(ModelError, match="must have at least one item"):
        read_task(write(tmp_path / "empty.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"context": "\xe9"}')
    with pytest.raises(ModelError, match=r"latin.jsonl must be UTF-8"):
        read_task(tmp_path / "latin.jsonl")
    with pytest.raises(DomainError, match="number of items must be at least 1, got 0"):
        read_task(write(tmp_path / "t.jsonl", CLOZE), 0)
    with pytest.raises(DomainError, match="must have different names, got t, t"):
        read_tasks([tmp_path / "t.jsonl"] * 2)


@given(st.text("ab\n", max_size=40), st.floats(0.01, 0.99))
def test_the_parts_of_a_text_make_the_whole(tmp_path_factory, text, edge):
    path = tmp_path_factory.getbasetemp() / "part.txt"
    path.write_text(text, encoding="utf-8")
    first, second = read_part(path, (0.0, edge)), read_part(path, (edge, 1.0))
    assert first + second == text
    assert first == "" or first.endswith("\n") or second == ""


def test_parts_and_texts_that_are_none(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(b"\xff")
    for part in ((0.5, 0.5), (-0.1, 1.0), (0.0, 1.1), (float("nan"), 1.0)):
        with pytest.raises(DomainError, match="part must be two fractions"):
            read_part(path, part)
    with pytest.raises(ModelError, match="the text must be UTF-8"):
        read_part(path)


@given(st.integers(2, 9), st.integers(0, 1), st.integers(9, 60))
def test_windows_hold_each_token_once_in_order(window, special, count):
    got = windows(np.arange(count), window, [-1] * special)
    assert got.shape == (count // (window - special), window)
    assert (got[:, :special] == -1).all()
    body = got[:, special:].reshape(-1)
    assert body.tolist() == list(range(len(body)))


def test_windows_that_cannot_be():
    with pytest.raises(ModelError, match="must fill a window of 8 tokens, got 7"):
        windows(np.arange(7), 8)
    for window, before in ((1, ()), (2, (0, 0))):
        with pytest.raises(DomainError, match="window must be at least"):
            windows(np.arange(7), window, before)


def test_standard_errors():
    rng = np.random.default_rng(0)
    means = rng.standard_normal((20000, 25)).mean(axis=1)  # what the error of 25 values estimates
    got = mean(rng.standard_normal(25))
    assert got.standard_error == pytest.approx(means.std(), rel=0.3)
    both = mean_of([Estimate(1.0, 0.3), Estimate(3.0, 0.4)])
    assert both == Estimate(2.0, 0.25)
    assert mean([4.0]) == Estimate(4.0, None)
    assert mean_of([Estimate(1.0, None), Estimate(3.0, 0.4)]) == Estimate(2.0, None)
    assert mean([1000.0, 1002.0]).exponential().value == float("inf")


def test_an_exponential_has_the_error_of_first_order():
    got = Estimate(2.0, 1e-6).exponential()
    assert got.value == pytest.approx(np.exp(2.0))
    assert got.standard_error == pytest.approx((np.exp(2.0 + 1e-6) - np.exp(2.0)), rel=1e-5)


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, missing):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes(b"\x08" + bytes(7) + b"{}      ")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pvq-ref\[calibrate\]'"):
        load(tmp_path)
