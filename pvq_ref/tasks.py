"""Tasks: files of questions, one JSON object on a line (docs/evaluate.md).

    {"context": …, "choices": [… , …], "gold": 0}      multiple choice
    {"contexts": [… , …], "choices": [… , …], "gold": 0}   each choice has a context of its own
    {"context": …, "target": …}                         cloze

Every item becomes pairs of a context and a continuation that a model scores.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from pvq_ref.errors import DomainError, ModelError
from pvq_ref.folders import MAX_DEPTH, is_deep, open_regular

MAX_LINE = 1 << 20  # characters
CHOICE, CLOZE = "choice", "cloze"


@dataclass(frozen=True)
class Item:
    """One question: (context, continuation) of each answer, and which is right."""

    pairs: tuple[tuple[str, str], ...]
    gold: int


@dataclass(frozen=True)
class Task:
    """The questions of one file; `name` is the file's, without its ending."""

    name: str
    kind: str
    items: tuple[Item, ...]


class _Line:
    """A line of a task file from a stranger."""

    def __init__(self, where: str, text: str) -> None:
        self.where = where
        if len(text) > MAX_LINE:
            raise self.refuse(f"must have at most {MAX_LINE} characters")
        try:
            self.raw: Any = json.loads(text)
            if "\\u" in text:
                json.dumps(self.raw, ensure_ascii=False).encode()  # half a surrogate pair
        except (ValueError, RecursionError) as error:
            raise self.refuse(f"must be a JSON object: {error}") from None
        if is_deep(self.raw):
            raise self.refuse(f"must have at most {MAX_DEPTH} values in each other")
        if not isinstance(self.raw, dict):
            raise self.refuse(f"must be a JSON object, got {self.raw!r:.80}")

    def refuse(self, what: str) -> ModelError:
        return ModelError(f"{self.where} {what}")

    def string(self, key: str, *, empty: bool = False) -> str:
        value = self.raw.get(key)
        if not isinstance(value, str) or not (value or empty):
            raise self.refuse(f"must have a string as {key}, got {value!r:.80}")
        return value

    def strings(self, key: str, count: int | None = None, *, empty: bool = False) -> list[str]:
        value = self.raw.get(key)
        good = isinstance(value, list) and all(isinstance(s, str) and (s or empty) for s in value)
        if not good or (len(value) < 2 if count is None else len(value) != count):
            wanted = "at least two" if count is None else str(count)
            raise self.refuse(f"must have {wanted} strings as {key}, got {value!r:.80}")
        return list(value)

    def kind(self) -> str:
        choice, cloze = "choices" in self.raw, "target" in self.raw
        if choice == cloze:
            raise self.refuse(f"must have either choices or a target, got {sorted(self.raw)}")
        if "context" in self.raw and "contexts" in self.raw:
            raise self.refuse("must have either a context or contexts, got both")
        return CHOICE if choice else CLOZE

    def item(self) -> Item:
        if self.kind() == CLOZE:
            return Item(((self.string("context", empty=True), self.string("target")),), 0)
        choices = self.strings("choices")
        gold = self.raw.get("gold")
        if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
            raise self.refuse(f"must have a number below {len(choices)} as gold, got {gold!r:.80}")
        if "contexts" in self.raw:
            contexts = self.strings("contexts", len(choices), empty=True)
        else:
            contexts = [self.string("context", empty=True)] * len(choices)
        return Item(tuple(zip(contexts, choices, strict=True)), gold)


def read_task(path: str | PathLike[str], limit: int | None = None) -> Task:
    """Read a task file, or its first `limit` items.

    Raises DomainError for a limit below 1, OSError for a file that can't be read, ModelError, with
    the number of the line, for one that isn't a task.
    """
    if limit is not None and limit < 1:
        raise DomainError(f"the number of items must be at least 1, got {limit}")
    file = Path(path)
    items: list[Item] = []
    kind = ""
    with io.TextIOWrapper(open_regular(file), encoding="utf-8") as lines:
        try:
            for number, text in enumerate(iter(lambda: lines.readline(MAX_LINE + 1), ""), 1):
                if len(items) == limit:
                    break
                line = _Line(f"{file.name}, line {number},", text)
                kind = kind or line.kind()
                if line.kind() != kind:
                    raise line.refuse(f"must be of the same kind as the first one, {kind}")
                items.append(line.item())
        except UnicodeDecodeError as error:
            raise ModelError(f"{file.name} must be UTF-8: {error}") from None
    if not items:
        raise ModelError(f"the task must have at least one item, got an empty file {file}")
    return Task(file.stem, kind, tuple(items))


def read_tasks(paths: Sequence[str | PathLike[str]], limit: int | None = None) -> tuple[Task, ...]:
    """Read task files. Raises as `read_task` does, and DomainError for two of one name."""
    tasks = tuple(read_task(path, limit) for path in paths)
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise DomainError(f"task files must have different names, got {', '.join(names)}")
    return tasks
