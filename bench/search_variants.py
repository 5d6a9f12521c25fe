#!/usr/bin/env python3
"""Measure what each part of the exact search brings: how fast is it without, or otherwise?

    python bench/search_variants.py [--markdown FILE] [--only TEXT] [--rounds N]

Each variant is a copy of the package with a part taken out or another number put in. All variants
search the same normal vectors, after a check that they find the same points, one after another in
each round, on one thread. What is reported is the median of the package over that of the variant,
in processor time of the thread: below 1, the variant is slower.
"""

import argparse
import importlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import report

PACKAGE = Path(__file__).resolve().parent.parent / "pvq_ref"
PAIRS = [(8, 7), (16, 8), (32, 7), (16, 56), (32, 56), (128, 221)]
COORDINATES = 1 << 18

Search = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Variant:
    """Edits (file, old, new), each of which fits once."""

    what: str
    edits: tuple[tuple[str, str, str], ...]


def of_size(lanes: int, walks: int) -> tuple[tuple[str, str, str], ...]:
    """Return the edits for another size of batches."""
    return (
        ("lanes.py", "MOST_LANES = 128", f"MOST_LANES = {lanes}"),
        ("lanes.py", "MOST_WALKS = 384", f"MOST_WALKS = {walks}"),
    )


VARIANTS = [
    Variant("all groups walk one by one",
            (("searching.py", "if fits(x.shape[1], k):", "if False:"),)),
    Variant("extremes are kept in place: masked stores",
            (("lanes.py", "row = blocks & 1", "row = 0"),
             ("lanes.py", "row = 1 - row", "row = 0"))),
    Variant("rows of lanes a power of two apart",
            (("batches.py", "size + 8", "size"),)),
    Variant("fields at distances that the compiler doesn't know",
            (("striding.py", "    for walk in range(count):\n        s, direction",
              "    pair = walks[PAIR:]\n    for walk in range(count):\n        s, direction"),
             *(("striding.py", f"walks[PAIR + {field} + walk]", f"pair[{field} + walk]")
               for field in ("EXCESS", "U_TO", "U_FROM", "Z_TO", "Z_FROM", "TO", "FROM")))),
    Variant("start at s = k / sum of X, t = 0",
            (("batches.py", "min(4096.0 / k, 1.0 + 0.17 * (n / k) ** 1.3)", "1.0"),
             ("batches.py", "min(0.4, 0.1 * math.sqrt(n / k))", "0.0"),
             ("proving.py", "hint[0] += 0.3", "hint[0] += 0.0"),
             ("proving.py", "hint[1] += 0.3", "hint[1] += 0.0"))),
    Variant("start doesn't learn from the groups before",
            (("proving.py", "hint[0] += 0.3", "hint[0] += 0.0"),
             ("proving.py", "hint[1] += 0.3", "hint[1] += 0.0"))),
    Variant("no step of Newton's method before pulses are moved",
            (("lanes.py", "abs(lack) > 2.0", "abs(lack) > 1e9"),)),
    Variant("all lanes wait until the last one has settled",
            (("lanes.py", "8 * moved > count", "moved > 0"),)),
    Variant("bounds on norms aren't rounded to the parity of k",
            (("proving.py", "math.sqrt(k + 2.0 * np.ceil(0.5 * (low * low - k)))", "low"),
             ("proving.py", "math.sqrt(k + 2.0 * np.floor(0.5 * (high * high - k)))", "high"))),
    Variant("walks don't wait for the next batch",
            (("batches.py", "while going > (0 if is_last else FEW_WALKS)", "while going > 0"),)),
    Variant("walks close up only once half have ended",
            (("striding.py", "if 4 * going > 3 * count:", "if 2 * going > count:"),)),
    Variant("32 groups and 96 walks at once", of_size(32, 96)),
    Variant("64 groups and 192 walks at once", of_size(64, 192)),
    Variant("256 groups and 768 walks at once", of_size(256, 768)),
]  # fmt: skip


def made(folder: Path, name: str, variant: Variant | None) -> Search:
    """Return the search of a copy of the package that is called `name`."""
    target = folder / name
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in variant.edits if variant else ():
        path = target / file
        text = path.read_text("utf-8")
        if text.count(old) != 1:
            raise SystemExit(f"{file}: must have once what is replaced: {old!r}")
        path.write_text(text.replace(old, new), "utf-8")
    for path in target.rglob("*.py"):
        path.write_text(path.read_text("utf-8").replace("pvq_ref", name), "utf-8")
    search: Search = importlib.import_module(name).search
    return search


def medians(searches: list[Search], n: int, k: int, rounds: int) -> list[float]:
    """Return the median seconds of each search, taken alternately."""
    x = np.random.default_rng([n, k]).standard_normal((COORDINATES // n, n)).astype(np.float32)
    ref = searches[0](x, k, threads=1)
    for search in searches[1:]:
        if not np.array_equal(search(x, k, threads=1), ref):
            raise SystemExit(f"variants must agree, got another point at ({n}, {k})")
    times: list[list[float]] = [[] for _ in searches]
    for _ in range(rounds):
        for search, taken in zip(searches, times, strict=True):
            began = time.thread_time()
            search(x, k, threads=1)
            taken.append(time.thread_time() - began)
    return [statistics.median(taken) for taken in times]


def table(variants: list[Variant], rounds: int) -> str:
    """Measure, and return the table."""
    with tempfile.TemporaryDirectory() as name:
        sys.path.insert(0, name)
        os.environ["NUMBA_CACHE_DIR"] = name
        searches = [
            made(Path(name), f"variant_{i}", one) for i, one in enumerate([None, *variants])
        ]
        first, rows = ["*all of it, million coordinates/s*"], [[one.what] for one in variants]
        for n, k in PAIRS:
            found = medians(searches, n, k, rounds)
            first.append(f"*{COORDINATES / found[0] / 1e6:.0f}*")
            for row, taken in zip(rows, found[1:], strict=True):
                row.append(f"{found[0] / taken:.2f}")
    return report.table(["change", *(f"({n},{k})" for n, k in PAIRS)], [first, *rows])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table too")
    parser.add_argument("--only", default="", metavar="TEXT", help="variants with this text only")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="timings of each")
    args = parser.parse_args()
    text = table([one for one in VARIANTS if args.only in one.what], args.rounds)
    text += f"\n\n{report.made_with('numpy', 'numba')}; one thread.\n"
    print(text, end="")
    if args.markdown:
        report.write_page(args.markdown, text)


if __name__ == "__main__":
    main()
