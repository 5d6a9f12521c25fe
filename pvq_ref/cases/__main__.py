"""`python -m pvq_ref.cases --check | --write`: the vectors against what the oracle says."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pvq_ref.cases import (
    broken_contents,
    broken_frames,
    counts,
    files,
    gains,
    numbers_in_bytes,
    ranks,
    rotations,
    searches,
    tensors,
)
from pvq_ref.cases.answers import answer
from pvq_ref.cases.case import FLAGS, Case

FOLDER = Path(__file__).parent.parent / "vectors"
COMMAND = "python -m pvq_ref.cases --write"
TOPICS = {  # file: the module that names its cases, title
    "counting": (counts, "sizes of pyramids"),
    "ranking": (ranks, "vectors and their indices"),
    "search": (searches, "the best vector for given weights"),
    "gain": (gains, "gains and their levels"),
    "rotation": (rotations, "signs, plans, matrices, and the rotation"),
    "bytes": (numbers_in_bytes, "row norms, packing, rounding"),
    "tensor": (tensors, "decoding of whole tensors"),
    "file": (files, "valid files"),
    "broken_frame": (broken_frames, "files that must be refused: the frame"),
    "broken_content": (broken_contents, "files that must be refused: what is in the frame"),
}


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def _object(case: Case) -> dict[str, Any]:
    return {
        "id": case.id,
        "section": case.section,
        "class": case.kind,
        "comment": case.comment,
        "flags": list(case.flags),
        "op": case.op,
        "args": case.args,
        **answer(case.op, case.args),
    }


def _case_text(case: Case) -> str:
    lines = (f'      "{key}": {_compact(value)}' for key, value in _object(case).items())
    return "    {\n" + ",\n".join(lines) + "\n    }"


def text_of(topic: str) -> str:
    """Return the text of a file of vectors."""
    module, title = TOPICS[topic]
    cases = list(module.cases())
    used = {flag for case in cases for flag in case.flags}
    head: dict[str, Any] = {
        "$schema": "schema.json",
        "format_version": 1,
        "title": title,
        "flags": {flag: FLAGS[flag] for flag in sorted(used)},
    }
    top = json.dumps(head, indent=2, ensure_ascii=False)[:-2]
    return top + ',\n  "cases": [\n' + ",\n".join(map(_case_text, cases)) + "\n  ]\n}\n"


def stale() -> list[str]:
    """Return the topics whose files aren't what the oracle says now."""
    return [
        topic
        for topic in TOPICS
        if not (path := FOLDER / f"{topic}.json").is_file()
        or path.read_bytes() != text_of(topic).encode()
    ]


def main(argv: list[str] | None = None) -> int:
    """Check the files, or write them."""
    parser = argparse.ArgumentParser(prog="python -m pvq_ref.cases", description=__doc__)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--check", action="store_true", help="compare with the files")
    group.add_argument("--write", action="store_true", help="write the files")
    if parser.parse_args(argv).write:
        for topic in TOPICS:
            (FOLDER / f"{topic}.json").write_bytes(text_of(topic).encode())
        return 0
    topics = stale()
    for topic in topics:
        print(f"{FOLDER / topic}.json isn't what the oracle says; repair: {COMMAND}")
    return 1 if topics else 0


if __name__ == "__main__":
    sys.exit(main())
