"""The test vectors: JSON files of questions and answers, and their schema (docs/conform.md).

The files are made by `python -m pvq_ref.cases` from the oracle's answers. `pvq-ref vectors OUT`
copies them for other implementations, and `pvq-ref conform` asks them.
"""

import json
from pathlib import Path
from typing import Any

from pvq_ref.errors import OutputError

FOLDER = Path(__file__).parent
SCHEMA = "schema.json"
TOPICS = (
    "counting", "ranking", "search", "gain", "rotation", "bytes", "tensor", "file", "broken_frame",
    "broken_content",
)  # fmt: skip


def read(topic: str) -> dict[str, Any]:
    """Return a file of vectors: what its flags mean, and its cases.

    >>> read("counting")["cases"][0]["id"]
    'count/0-0'
    """
    value: dict[str, Any] = json.loads((FOLDER / f"{topic}.json").read_bytes())
    return value


def read_schema() -> dict[str, Any]:
    """Return the JSON schema that every file of vectors obeys."""
    value: dict[str, Any] = json.loads((FOLDER / SCHEMA).read_bytes())
    return value


def cases() -> list[dict[str, Any]]:
    """Return all cases, topic by topic."""
    return [case for topic in TOPICS for case in read(topic)["cases"]]


def flags() -> dict[str, str]:
    """Return what a failure of a case with a flag means, by flag."""
    found: dict[str, str] = {}
    for topic in TOPICS:
        found |= read(topic)["flags"]
    return dict(sorted(found.items()))


def write(target: Path, *, force: bool = False) -> list[str]:
    """Copy the vectors and their schema into a folder; return the names of the files.

    Raises OutputError for a folder that isn't empty, unless force is set, and for a path that can't
    be one.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()) and not force:
            raise OutputError(f"the output must be an empty folder, got {target}")
        names = [*(f"{topic}.json" for topic in TOPICS), SCHEMA]
        for name in names:
            (target / name).write_bytes((FOLDER / name).read_bytes())
    except OSError as error:
        raise OutputError(f"the output must be a folder that can be written: {error}") from None
    return names
