"""Verification: hashes, ranges, a full decode, and the error against the original."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from math import inf, log10
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvq_ref import parsing
from pvq_ref.container import Entry, Reader
from pvq_ref.errors import CapacityError, FormatError, ModelError
from pvq_ref.folders import model_files
from pvq_ref.memory import DEFAULT_MEMORY, Limits
from pvq_ref.metadata import PARTS
from pvq_ref.model import Model, open_model
from pvq_ref.output import SUMS, file_hash, read_sums
from pvq_ref.stored import decoded
from pvq_ref.tensor import PVQTensor

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class TensorError:
    """The error of one compressed tensor against its original."""

    name: str
    squared_error: float
    squared_norm: float

    @property
    def db(self) -> float:
        """10 log10(||W||² / ||W - Ŵ||²); infinite for no error."""
        if self.squared_error == 0.0:
            return inf
        ratio = self.squared_norm / self.squared_error
        return 10 * log10(ratio) if ratio > 0.0 else -inf


@dataclass
class Report:
    """What verification found."""

    compressed: int = 0
    untouched: int = 0
    problems: list[str] = field(default_factory=list)
    errors: list[TensorError] = field(default_factory=list)

    @property
    def mean_db(self) -> float | None:
        """Mean over tensors of the error in dB; tensors without error don't count."""
        finite = [error.db for error in self.errors if np.isfinite(error.db)]
        return float(np.mean(finite)) if finite else None

    def as_json(self) -> dict[str, Any]:
        """Return the report in the form that docs/cli.md describes."""
        return {
            "ok": not self.problems,
            "compressed_tensors": self.compressed,
            "untouched_tensors": self.untouched,
            "problems": self.problems,
            "mean_db": self.mean_db,
            "tensors": [
                {"name": e.name, "db": e.db if np.isfinite(e.db) else None} for e in self.errors
            ],
        }


def verify(
    path: str | PathLike[str],
    against: str | PathLike[str] | None = None,
    *,
    threads: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    progress: Progress = lambda name, weights: None,
) -> Report:
    """Check a compressed file or folder: every hash, every range, every group decoded.

    Parameters: path; against, the original model, to which decoded tensors are compared in the type
    of the source, and untouched ones bit for bit; threads, max_memory and progress as in
    `compress`. Returns a Report, whose list of problems is empty if all is well. Raises ModelError
    if there is nothing to verify; what is wrong with a file is a problem in the report, and so is
    what would take too much memory to decode.
    """
    limits, report = Limits(threads, max_memory), Report()
    original = _Original(open_model(fspath(against)), report) if against is not None else None
    folder = Path(path)
    if (folder / SUMS).is_file():
        _check_sums(folder, report)
    elif folder.is_dir():
        report.problems.append(f"{SUMS} is missing")
    try:
        model = open_model(folder)
    except (FormatError, ModelError) as error:
        if isinstance(error, ModelError) and not (folder / SUMS).is_file():
            raise  # there is nothing to verify
        report.problems.append(str(error))
        return report
    for file in model.headers:
        _verify_file(model, file, report, original, limits, progress)
    if original:
        original.check_complete()
    return report


def _check_sums(folder: Path, report: Report) -> None:
    """Compare the files of a folder to its sums, and none that isn't in it."""
    try:
        sums = read_sums(folder)
        weights = [path.name for path in folder.glob("*.safetensors")]
        present = set(model_files(folder, weights))
    except (FormatError, ModelError) as error:
        report.problems.append(str(error))
        return
    for name in sorted(sums.keys() | present - {SUMS}):
        path = folder / name
        if name not in sums:
            report.problems.append(f"{name!s:.200} isn't in {SUMS}")
        elif name not in present or not os.path.isfile(path):
            report.problems.append(f"{name!s:.200} is missing")
        elif file_hash(path) != sums[name]:
            report.problems.append(f"{name!s:.200} doesn't have the SHA-256 that {SUMS} says")


class _Original:
    """The original model, and which of its tensors have been seen."""

    def __init__(self, model: Model, report: Report) -> None:
        self.model, self.report = model, report
        self.entries = {entry.name: (file, entry) for file, entry in model.entries()}
        self.unseen = set(self.entries)

    def _reader(self, file: str) -> Reader:
        return Reader(self.model.file(file), self.model.headers[file])

    def find(self, name: str, dtype: str, shape: tuple[int, ...]) -> tuple[str, Entry] | None:
        """Return where a tensor is, or None, with a problem, if it isn't there as it should be."""
        self.unseen.discard(name)
        file, entry = self.entries.get(name, ("", None))
        if entry is None or (entry.dtype, entry.shape) != (dtype, shape):
            self.report.problems.append(
                f"tensor {name!r} isn't in the original as {dtype} {list(shape)}"
            )
            return None
        return file, entry

    def compare_untouched(self, reader: Reader, name: str) -> None:
        """Compare a tensor that wasn't compressed bit for bit."""
        mine = reader.header.entries[name]
        found = self.find(name, mine.dtype, mine.shape)
        if found is None:
            return
        with self._reader(found[0]) as other:
            pairs = zip(reader.chunks(name), other.chunks(name), strict=True)
            if not all(np.array_equal(a, b) for a, b in pairs):
                self.report.problems.append(f"tensor {name!r} differs from the original")

    def compare_decoded(
        self, name: str, t: PVQTensor, ranges: Iterator[tuple[int, NDArray[Any]]]
    ) -> None:
        """Add up the error of a decoded tensor, range by range."""
        found = self.find(name, t.dtype, t.shape)
        error = norm = 0.0
        if found is None:
            for _ in ranges:
                pass
            return
        with self._reader(found[0]) as other:
            for start, rows in ranges:
                source = other.read_rows(name, start, start + len(rows)).astype(np.float64)
                error += float(np.sum((source - rows.astype(np.float64)) ** 2))
                norm += float(np.sum(source**2))
        self.report.errors.append(TensorError(name, error, norm))

    def check_complete(self) -> None:
        """Report tensors of the original that the compressed model doesn't have."""
        for name in sorted(self.unseen):
            self.report.problems.append(f"tensor {name!r} of the original is missing")


def _attempt(report: Report, where: str, check: Callable[[], None]) -> None:
    """Run a check; what it raises about the file becomes a problem."""
    try:
        check()
    except (FormatError, CapacityError) as error:
        report.problems.append(f"{where}: {error}")


def _verify_file(
    model: Model,
    file: str,
    report: Report,
    original: _Original | None,
    limits: Limits,
    progress: Progress,
) -> None:
    header = model.headers[file]
    try:
        meta = parsing.parse(header)
    except (FormatError, CapacityError) as error:
        report.problems.append(f"{file}: {error}")
        return
    with Reader(model.file(file), header) as reader:
        for name in meta.untouched:
            report.untouched += 1
            _attempt(report, file, partial(parsing.check_entry, reader, name, meta))
            if original:
                original.compare_untouched(reader, name)
        for name, bare in meta.tensors.items():
            report.compressed += 1
            check = partial(_decode, reader, name, bare, meta, original, limits, progress)
            _attempt(report, f"{file}: tensor {name!r:.80}", check)


def _decode(
    reader: Reader,
    name: str,
    bare: PVQTensor,
    meta: parsing.FileMetadata,
    original: _Original | None,
    limits: Limits,
    progress: Progress,
) -> None:
    """Decode a whole tensor; compare it to the original's if there is one."""
    if original:
        original.unseen.discard(name)  # a damaged tensor isn't a missing one

    def ranges() -> Iterator[tuple[int, NDArray[Any]]]:
        for part in PARTS:
            parsing.check_entry(reader, f"{name}_{part}", meta)
        for _, start, rows in decoded(reader, {name: bare}, meta, limits):
            yield start, rows
            progress(name, rows.size)

    if original:
        original.compare_decoded(name, bare, ranges())
    else:
        for _ in ranges():
            pass
