"""The results of quality.py: a file with one JSON object a line, which several processes extend."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from quality_list import Configuration, described

Result = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
CODE = ("pvq_ref/*.py", "bench/baselines.py", "bench/uniform_grid.py", "bench/scalar.py")


def sha256(paths: Iterable[Path]) -> str:
    """Return one hash over files, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1 << 24):
                digest.update(piece)
    return digest.hexdigest()


def code_sha256() -> str:
    """Return a hash over the code that results may depend on."""
    return sha256(path for pattern in CODE for path in sorted(ROOT.glob(pattern)))


def asked(one: Configuration, sources: dict[str, str]) -> Result:
    """Return all that says what is measured; sources are hashes of the model and of the text.

    Without a method there is nothing to calibrate.
    """
    result = {"name": one.name, **sources, "evaluation": described(one.evaluation)}
    if one.method is not None:
        result |= {
            "method": described(one.method),
            "calibration": described(one.calibration),
        }
    return result


def read(path: Path) -> list[Result]:
    """Return the results of a file, of those that ask the same the last one.

    A line that was cut off, when a machine stopped, is left out.
    """
    latest: dict[str, Result] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                result = json.loads(line)
            except json.JSONDecodeError:
                continue
            latest[json.dumps(result["asked"], sort_keys=True)] = result
    return list(latest.values())


def append(path: Path, result: Result) -> None:
    """Add one line, whatever other processes are doing."""
    line = json.dumps(result, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())
