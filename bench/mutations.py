#!/usr/bin/env python3
"""Seed defects in a copy of the package, and see whether the test vectors notice each one.

    python bench/mutations.py [--markdown FILE] [--only TEXT]

Each defect is one substitution in one file of the copy, whose own port then answers the vectors,
uncompiled (NUMBA_DISABLE_JIT=1). First come the cases of the operations that the defect is in, then
all others. A substitution that doesn't fit its file exactly once is an error. Cases that fail
without any defect don't count.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NoReturn

from mutations_list import MUTATIONS, Mutation

PACKAGE = Path(__file__).resolve().parent.parent / "pvq_ref"
SLOW = "*/blocked-4/128-221/*"  # a minute each without a compiler
ENOUGH = 3  # failing cases after which a defect is caught
PATIENCE = 20  # seconds that one answer may take
LIMIT = 400  # seconds that all may take


@dataclass(frozen=True)
class Outcome:
    """The vectors that a defect fails, the first few of them."""

    mutation: Mutation
    failing: list[str]
    seconds: float


# In the copy


class SlowError(Exception):
    """An answer takes too long."""


def _too_slow(number: int, frame: object) -> NoReturn:
    raise SlowError


def _fails(case: dict[str, object]) -> bool:
    from pvq_ref import port
    from pvq_ref.comparing import difference

    signal.alarm(PATIENCE)
    try:
        answer = json.loads(json.dumps(port.answer(case["op"], case["args"])))
    except Exception:  # a port that crashes or hangs doesn't answer
        return True
    finally:
        signal.alarm(0)
    return difference(case, answer) is not None


def judge(folder: str, first: list[str], known: list[str], enough: int) -> None:
    """Print the ids of cases that the copy in a folder fails; this runs in another process."""
    import pvq_ref
    from pvq_ref import vectors

    assert Path(pvq_ref.__file__).is_relative_to(folder), pvq_ref.__file__
    signal.signal(signal.SIGALRM, _too_slow)
    failing: list[str] = []
    cases = [c for c in vectors.cases() if c["id"] not in known and not fnmatchcase(c["id"], SLOW)]
    for case in sorted(cases, key=lambda case: case["op"] not in first):
        if _fails(case):
            failing.append(case["id"])
        if len(failing) >= enough:
            break
    print(json.dumps(failing))


# Here


def copied(package: Path, folder: Path) -> Path:
    """Return a fresh copy of a package in a folder."""
    target = folder / "pvq_ref"
    shutil.copytree(package, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def failing_cases(folder: Path, first: list[str], known: list[str], enough: int) -> list[str]:
    """Return the ids of cases that the copy in a folder fails."""
    arguments = json.dumps([str(folder), first, known, enough])
    environment = os.environ | {
        "PYTHONPATH": str(folder),
        "NUMBA_DISABLE_JIT": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--judge", arguments],
            env=environment, capture_output=True, text=True, timeout=LIMIT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return ["(all: no answer in time)"]
    if done.returncode != 0:
        raise SystemExit(f"the copy must be able to start, got\n{done.stderr}")
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def substituted(package: Path, mutation: Mutation) -> None:
    """Put a defect into a copy of the package."""
    path = package / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        raise SystemExit(
            f"{mutation.file}: must have once what is replaced, got {text.count(mutation.old)} "
            f"times: {mutation.old!r}"
        )
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")


def outcome(mutation: Mutation, original: Path, known: list[str]) -> Outcome:
    """Seed one defect and return what it fails."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        substituted(copied(original, Path(name)), mutation)
        failing = failing_cases(Path(name), mutation.ops.split(), known, ENOUGH)
    return Outcome(mutation, failing, time.monotonic() - began)


def page(outcomes: list[Outcome], known: list[str]) -> str:
    """Return the page of results."""
    missed = [one for one in outcomes if not one.failing]
    lines = [
        "# Seeded defects",
        "",
        "Made by `python bench/mutations.py`. Each defect is one edit in one file of a copy of the",
        "package; the test vectors alone, answered by the copy's port, have to notice it. The last",
        f"column has the first {ENOUGH} vectors that do.",
        "",
        f"**{len(outcomes) - len(missed)} of {len(outcomes)} defects are caught.**",
        "",
        "| file | defect | caught by |",
        "| --- | --- | --- |",
    ]
    for one in outcomes:
        caught = ", ".join(f"`{case}`" for case in one.failing) or "**nothing**"
        lines.append(f"| `{one.mutation.file}` | {one.mutation.what} | {caught} |")
    if known:
        lines += [
            "",
            "Left out, because they fail without any seeded defect: "
            + ", ".join(f"`{case}`" for case in known)
            + ".",
        ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Seed all defects; 1 if one isn't caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page of results")
    parser.add_argument("--only", default="", metavar="TEXT", help="defects with this text only")
    parser.add_argument("--judge", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.judge:
        judge(*json.loads(args.judge))
        return 0
    outcomes = []
    with tempfile.TemporaryDirectory() as name:
        original = copied(PACKAGE, Path(name))  # what is edited meanwhile doesn't matter
        for mutation in MUTATIONS:  # all of them fit, or nothing is begun
            text = (original / mutation.file).read_text(encoding="utf-8")
            substituted(original, mutation)
            (original / mutation.file).write_text(text, encoding="utf-8")
        known = failing_cases(Path(name), [], [], 1000)
        for mutation in MUTATIONS:
            if args.only not in f"{mutation.file} {mutation.what}":
                continue
            outcomes.append(one := outcome(mutation, original, known))
            caught = ", ".join(one.failing) or "NOT CAUGHT"
            print(f"{one.seconds:5.1f} s  {mutation.file}: {mutation.what}: {caught}", flush=True)
    missed = [one for one in outcomes if not one.failing]
    print(f"{len(outcomes) - len(missed)} of {len(outcomes)} defects are caught")
    if args.markdown:
        args.markdown.write_text(page(outcomes, known), encoding="utf-8")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
