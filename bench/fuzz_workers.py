"""Workers that read cases in turn, and their parent, which sees that none crashes or hangs.

A worker is a fork, with everything imported and compiled. It may have MEMORY bytes of data beyond
what it began with, so that a larger allocation is a MemoryError, which is no error of a file. It
tells its parent what it is at in shared memory, and after each case what came of it in a file.
"""

import json
import mmap
import os
import resource
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fuzz_mutations import case
from fuzz_reading import clear, command_line, read, subject, write
from fuzz_seeds import FILE, FOLDER, Seed

MEMORY = 200 << 20
PATIENCE = 60.0  # seconds on the clock, for any case: a machine may be busy
BATCH = 500  # cases of one fork
COMMAND = 80  # every so many cases go through the command line too


@dataclass
class Campaign:
    """What a campaign has found so far."""

    seed: int
    workers: int
    cases: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)  # "way class"
    ended: Counter[str] = field(default_factory=Counter)  # "command → exit code"
    findings: list[str] = field(default_factory=list)


def warm(good: list[Seed], folder: Path) -> None:
    """Read good inputs and some broken ones, so that all kernels are there before the forks."""
    numbers = [None] * len(good) + list(range(60))
    for place, number in enumerate(numbers):
        chosen, files = (
            (good[place], good[place].files) if number is None else case(0, number, good)
        )
        inside, out = folder / f"warm-{place}", folder / f"warm-{place}-out"
        inside.mkdir()
        write(inside, dict(files))
        read(chosen, subject(chosen, inside), out)


def _limit_memory() -> None:
    with open("/proc/self/status", encoding="ascii") as lines:
        size = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (size + MEMORY, size + MEMORY))


def _one(seed: int, number: int, good: list[Seed], folder: Path) -> dict[str, object]:
    """Read a case and return what came of it."""
    inside, out = folder / "in", folder / "out"
    try:
        chosen, files = case(seed, number, good)
        write(inside, files)
        found = read(chosen, subject(chosen, inside), out / "o")
        ended = []
        if number % COMMAND == 0 and chosen.kind in (FILE, FOLDER):
            clear(out)
            ended = command_line(subject(chosen, inside), out / "o")
        return {"number": number, "found": found, "ended": ended}
    except BaseException as error:  # whatever it is, it is a finding
        where = traceback.format_exception(error, limit=-3)
        return {"number": number, "finding": f"case {number}: {''.join(where)[-1500:]}"}
    finally:
        clear(inside)
        clear(out)


def _work(seed: int, numbers: range, good: list[Seed], folder: Path, state: mmap.mmap) -> None:
    _limit_memory()
    for name in ("in", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        clear(folder / name)
    with (folder / "results").open("a", encoding="utf-8") as results:
        for number in numbers:
            state[:16] = struct.pack("<qd", number, time.monotonic())
            print(json.dumps(_one(seed, number, good, folder)), file=results, flush=True)


class _Worker:
    """One fork after another, in a folder of its own."""

    def __init__(self, folder: Path, seed: int, good: list[Seed]) -> None:
        self.folder, self.seed, self.good = folder, seed, good
        self.state = mmap.mmap(-1, 16)
        self.left = range(0)
        self.child = 0
        folder.mkdir()

    def start(self, numbers: range) -> None:
        """Fork, and let the child read cases."""
        self.left = numbers
        self.state[:16] = struct.pack("<qd", numbers.start, time.monotonic())
        self.child = os.fork()
        if self.child == 0:
            code = 1
            try:
                _work(self.seed, numbers, self.good, self.folder, self.state)
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)

    def has_ended(self, done: Campaign) -> bool:
        """Whether there is nothing left to do; a child that died or hangs is a finding."""
        child, status = os.waitpid(self.child, os.WNOHANG)
        number, since = struct.unpack("<qd", self.state[:16])
        if child == 0:
            if time.monotonic() - since > PATIENCE:
                os.kill(self.child, signal.SIGKILL)
            return False
        if status == 0:
            return True
        done.findings.append(f"case {number}: the process ended with status {status}")
        self.start(range(number + 1, self.left.stop))
        return False

    def collect(self, done: Campaign) -> None:
        """Add up what came of the cases."""
        path = self.folder / "results"
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            result = json.loads(line)
            done.cases += 1
            if "finding" in result:
                done.findings.append(result["finding"])
                continue
            done.counts.update(f"{way} {kind}" for way, kind in result["found"].items())
            done.ended.update(result["ended"])


def run(
    cases: int, seed: int, workers: int, minutes: float | None, good: list[Seed], folder: Path
) -> Campaign:
    """Read cases 0 … cases - 1, or as many of the first ones as there is time for."""
    done, began = Campaign(seed, workers), time.monotonic()
    batches = iter([range(i, min(i + BATCH, cases)) for i in range(0, cases, BATCH)])
    all_workers = [_Worker(folder / f"worker-{i}", seed, good) for i in range(workers)]
    busy = []
    for worker in all_workers:
        numbers = next(batches, None)
        if numbers is not None:
            worker.start(numbers)
            busy.append(worker)
    while busy:
        time.sleep(0.02)
        for worker in list(busy):
            if not worker.has_ended(done):
                continue
            late = minutes is not None and time.monotonic() - began > 60 * minutes
            numbers = None if late else next(batches, None)
            if numbers is None:
                busy.remove(worker)
            else:
                worker.start(numbers)
    for worker in all_workers:
        worker.collect(done)
    done.seconds = time.monotonic() - began
    return done
