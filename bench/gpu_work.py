"""What bench/gpu.py does, in which order, and what it keeps."""

import os
from dataclasses import dataclass, field
from typing import Any

SHAPE = (16384, 8192)  # the first one
OTHERS = ((4096, 4096), (8192, 8192), (28672, 8192), (8192, 28672))
BATCHES = (1, 2, 4, 8, 16)
FEW = (1, 16)  # batches of the general path, which takes milliseconds
BASE = 2048  # different rows of a tensor
RESERVE = 3.0  # seconds of the budget for writing
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"


@dataclass(frozen=True)
class Kind:
    """A size of groups, and the form in which they are uploaded."""

    n: int
    form: str = "tree"

    @property
    def name(self) -> str:
        return f"n = {self.n}" + ("" if self.form == "tree" else f", {self.form}")


FIXED = Kind(16, "fixed"), Kind(32, "fixed"), Kind(64, "fixed")
KINDS = Kind(16), Kind(32), FIXED[0]


@dataclass(frozen=True)
class Round:
    """One shape and rate."""

    rows: int
    cols: int
    rate: float
    batches: tuple[int, ...] = BATCHES
    kinds: tuple[Kind, ...] = KINDS

    @property
    def name(self) -> str:
        return f"{self.rows}x{self.cols} at {self.rate}"


@dataclass(frozen=True)
class Work:
    """All that is to be done."""

    base: int
    rounds: list[Round]
    unrank: tuple[int, int]
    squares: tuple[int, ...]  # for whole Python calls
    calls: int
    shrink: int = 1


def work(quick: bool) -> Work:
    """Return what is done; much less if it has to be quick, and tiny shapes in the simulator."""
    if SIMULATED:
        rounds = [Round(32, 64, 3.25, (1, 3)), Round(16, 64, 4.25, (1,), FIXED[:2])]
        return Work(16, rounds, (16, 64), (32,), 2, 64)
    first = Round(*SHAPE, 3.25, (*BATCHES, 32), (*KINDS[:2], *FIXED))
    if quick:
        return Work(BASE, [Round(4096, 4096, 3.25, (1, 8))], (2048, 8192), (1024,), 1000)
    rounds = [first, Round(*SHAPE, 4.25, kinds=FIXED[:2]), Round(*SHAPE, 2.25)]
    rounds += [Round(*SHAPE, 3.25, FEW, (Kind(8),))]
    rounds += [Round(*shape, 3.25) for shape in OTHERS]
    rounds += [Round(*shape, 2.25) for shape in OTHERS]
    rounds += [Round(*shape, 4.25, kinds=FIXED[:2]) for shape in OTHERS]
    return Work(BASE, rounds, (20480, 8192), (1024, 4096), 1000)


@dataclass
class Record:
    """What a run saw; the JSON file holds it."""

    command: str
    machine: dict[str, str]
    checks: list[dict[str, str]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
