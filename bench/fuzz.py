#!/usr/bin/env python3
"""Read mutated files and folders in every way, and see that nothing but the right errors comes.

    python bench/fuzz.py [--cases 200000] [--minutes M] [--seed 0] [--workers N] [--markdown FILE]
    python bench/fuzz.py --case 1234 [--keep FOLDER]

A case is a function of the seed and its number; --case reads one of them and says what happens.
Workers are forks of this process, and take cases in turn under limits of memory and time. Every
eightieth case goes through the command line as well, some of them as processes of their own. All
single bits of a small compressed file are flipped too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import fuzz_flips
import fuzz_seeds
import fuzz_workers
import report
from fuzz_mutations import case
from fuzz_reading import SECONDS, Broken, check_command, clear, commands, read, subject, write
from fuzz_workers import Campaign

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = 24  # cases that are read by processes of their own, three commands each
NEEDED = (
    "HeaderError", "MetadataError", "VersionError", "IntegrityError", "PayloadError",
    "CapacityError", "ModelError",
)  # fmt: skip


def run_processes(seed: int, good: list[fuzz_seeds.Seed], folder: Path) -> Counter[str]:
    """Run the commands on some cases as processes; Broken if one ends as it shouldn't."""
    ended: Counter[str] = Counter()
    inside, out = folder / "in", folder / "out"
    inside.mkdir(parents=True)
    out.mkdir()
    number = found = 0
    while found < PROCESSES:
        number += 97
        chosen, files = case(seed, number, good)
        if chosen.kind not in (fuzz_seeds.FILE, fuzz_seeds.FOLDER):
            continue
        found += 1
        write(inside, files)
        target = out / "o"
        for arguments in commands(subject(chosen, inside), target):
            done = subprocess.run(
                [sys.executable, "-m", "pvq_ref", *arguments],
                cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=300,
            )  # fmt: skip
            ended[check_command(arguments, done.returncode, done.stdout, done.stderr, target)] += 1
        clear(inside)
        clear(out)
    return ended


def one(seed: int, number: int, keep: Path | None) -> int:
    """Read one case in this process, and print what happens."""
    chosen, files = case(seed, number, fuzz_seeds.seeds())
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary) / "in"
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, files)
        changed = [name for name, content in files.items() if content != chosen.files.get(name)]
        print(f"{chosen.kind}, changed: {', '.join(changed) or 'nothing'}")
        found = read(chosen, subject(chosen, folder), Path(temporary) / "out")
    print(json.dumps(found, indent=2))
    return 0


def _by_way(counts: Counter[str]) -> str:
    """Return a table: errors in rows, ways of reading in columns."""
    ways = ["inspect", "verify", "load", "decompress", "hessians", "plan", "task"]
    seen = {key.split(" ", 1)[1] for key in counts}
    order = [*NEEDED, "problems", "read"]
    rows = [
        [name, *(f"{counts[f'{way} {name}']:,}" if counts[f"{way} {name}"] else "" for way in ways)]
        for name in [*order, *sorted(seen - set(order))]
    ]
    return report.table(["", *ways], rows)


def page(done: Campaign, flips: fuzz_flips.Flips, ended: Counter[str]) -> str:
    """Return the page of results."""
    lines = "\n".join(f"- {finding}" for finding in done.findings) or "None."
    codes = report.table(
        ["", "in forks", "as processes"],
        [
            [name, f"{done.ended[name]:,}", f"{ended[name]:,}"]
            for name in sorted(done.ended | ended)
        ],
    )
    return f"""# Mutated files

{done.cases:,} broken inputs, each a function of the seed {done.seed} and its number, were read in
every way: compressed files and folders, files of Hessians, plan files, task files. Bytes were
changed blindly, or JSON, offsets and payloads by what they mean, mostly with right hashes made
again. Each worker had {fuzz_workers.MEMORY >> 20} MiB of memory beyond what it began with, and a
call that ends in an error or problems had {SECONDS:g} s of processor time. What held for every
case:

- nothing but the errors below was raised: no crash, no hang, no other exception;
- decompress gives an output exactly where verify has no problem with a file, and leaves nothing
  behind elsewhere;
- what inspect refuses, decompress refuses.

Errors by class, and how often each way of reading gave one; `problems` is a report of verify that
isn't empty, `read` a case that is still right:

{_by_way(done.counts)}

What didn't hold:

{lines}

## The command line

Every eightieth case of a file or folder went through `python -m pvq_ref` as well: exit codes, each
with a message on stderr where it isn't 0.

{codes}

## Single bits

{flips.bits:,} bits, every one of a compressed file of {flips.size:,} bytes, were flipped one at a
time: header, spaces after it, fields of a tensor with tails and padding bits, an untouched tensor.
`verify` found {flips.found:,}, `decompress` refused {flips.refused:,}.

Made by `{report.command(__file__)}` in {done.seconds / 60:.1f} minutes with {done.workers} workers,
{done.cases / done.seconds:.0f} cases a second ({report.made_with("numpy", "numba")}).
"""


def main() -> int:
    """Run the campaign; 1 if a law didn't hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200_000, metavar="N")
    parser.add_argument("--minutes", type=float, metavar="M", help="stop after that time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--case", type=int, metavar="NUMBER", help="read one case, and say more")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="write the files of --case here"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a result page there")
    given = parser.parse_args()
    if given.case is not None:
        return one(given.seed, given.case, given.keep)
    good = fuzz_seeds.seeds()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        folder = Path(name)
        fuzz_workers.warm(good, folder)
        done = fuzz_workers.run(given.cases, given.seed, given.workers, given.minutes, good, folder)
        print(_by_way(done.counts), *done.findings, sep="\n")
        print(f"{done.cases} cases in {done.seconds:.0f} s")
        flips = fuzz_flips.flip_all(folder, given.workers)
        print(f"{flips.bits} bits flipped, {flips.found} found, {flips.refused} refused")
        try:
            ended = run_processes(given.seed, good, folder / "processes")
        except Broken as broken:
            done.findings.append(f"a process: {broken}")
            ended = Counter()
    missing = [name for name in NEEDED if not any(key.endswith(name) for key in done.counts)]
    if missing:
        print(f"never seen: {', '.join(missing)}")
    print(f"{time.monotonic() - began:.0f} s in all")
    right = not done.findings and not missing and flips.bits == flips.found == flips.refused
    if given.markdown is not None and right:
        report.write_page(given.markdown, page(done, flips, ended))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
