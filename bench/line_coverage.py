#!/usr/bin/env python3
"""Measure which lines the vectors and the property tests run, uncompiled.

    python bench/line_coverage.py [--markdown FILE]

It takes the tests that are marked `uncompiled` or `vectors`, those of the oracle, and those of the
container. It exits with 1 if a file of the codec is below 95 % of its lines, or a test fails.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import report

ROOT = Path(__file__).resolve().parent.parent
LEAST = 95.0  # per cent of the lines of every file
SUBJECTS = {
    "oracle": ("oracle/*",),
    "counting": ("counting", "words"),
    "ranking": ("tables", "finding", "ranking", "fischer", "opus", "blocked*"),
    "search": (
        "searching",
        "batches",
        "lanes",
        "proving",
        "walking",
        "exact_search",
        "projecting",
    ),
    "gain": ("gain",),
    "rotation": ("hadamard", "rotation"),
    "packing": ("packing",),
    "tensor": ("rates", "groups", "tensor", "finishing", "encoding", "decoding", "product"),
    "container": ("container", "metadata", "parsing"),
}
RUNS = (
    ("tests", "-m", "(uncompiled or vectors) and not slow"),
    ("tests/test_container.py", *map(str, sorted((ROOT / "tests").glob("test_oracle_*.py")))),
)


@dataclass(frozen=True)
class Lines:
    """The lines of one file that hold code, and those that no test ran."""

    file: str
    subject: str
    total: int
    missing: list[int]

    @property
    def share(self) -> float:
        """Per cent of the lines that were run; 100 of none."""
        return 100.0 * (1 - len(self.missing) / self.total) if self.total else 100.0


def run(arguments: Sequence[str], data: Path, *, append: bool) -> None:
    """Run tests with their lines counted; SystemExit if one fails."""
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "COVERAGE_FILE": str(data)}
    more = ["--cov", "--cov-report="] + ["--cov-append"] * append
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, *more]
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
        raise SystemExit("the tests must pass first")


def counted(data: Path) -> list[Lines]:
    """Return the lines of every file of SUBJECTS."""
    target = data.with_suffix(".json")
    command = [sys.executable, "-m", "coverage", "json", "-q", "-o", str(target)]
    environment = os.environ | {"COVERAGE_FILE": str(data)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    files = json.loads(target.read_text(encoding="utf-8"))["files"]
    found = []
    for subject, patterns in SUBJECTS.items():
        for pattern in patterns:
            for path in sorted((ROOT / "pvq_ref").glob(f"{pattern}.py")):
                name = path.relative_to(ROOT).as_posix()
                summary = files[name]["summary"]
                missing = files[name]["missing_lines"]
                found.append(Lines(name, subject, summary["num_statements"], missing))
    return found


def spans(numbers: Sequence[int]) -> str:
    """Return line numbers, runs of them as first-last."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def table(found: Sequence[Lines]) -> str:
    """Return all files, and the sum of each subject."""
    rows = []
    for subject in SUBJECTS:
        own = [one for one in found if one.subject == subject]
        total, missing = sum(one.total for one in own), sum(len(one.missing) for one in own)
        rows.append([f"**{subject}**", f"{total}", f"{missing}",
                     f"**{100 * (1 - missing / total):.1f} %**", ""])  # fmt: skip
        rows += [
            [f"`{one.file}`", f"{one.total}", f"{len(one.missing)}", f"{one.share:.1f} %",
             spans(one.missing)]
            for one in own
        ]  # fmt: skip
    return report.table(["", "lines", "not run", "run", "which"], rows)


def page(found: Sequence[Lines]) -> str:
    """Return the page of results."""
    return f"""# Line coverage, uncompiled

Lines of the codec that are run as plain Python (`NUMBA_DISABLE_JIT=1`, kernels too) by the test
vectors, the property tests that are marked `uncompiled`, the tests of the oracle and those of the
container. Every file has to reach {LEAST:g} %.

{table(found)}

Made by `{report.command(__file__)}`; `make coverage` checks it.
Which tests they are: `{RUNS[0][2]}`, and the files test_oracle_*.py and test_container.py.
"""


def main() -> int:
    """Run the tests, print the table; 1 if a file is below the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a result page there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "coverage"
        for number, arguments in enumerate(RUNS):
            run(arguments, data, append=number > 0)
        found = counted(data)
    print(table(found))
    low = [one for one in found if one.share < LEAST]
    for one in low:
        print(f"{one.file}: must have {LEAST:g} % of its lines run, got {one.share:.1f} %")
    if given.markdown is not None and not low:
        report.write_page(given.markdown, page(found))
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
