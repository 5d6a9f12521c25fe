"""OUT.partial: what is finished of an output, so that an interrupted run can go on.

A piece of work (a block of rows, or a tensor) is one file, written whole or not at all, and ends in
the SHA-256 of what is before it. So nothing needs to be in order: pieces may come from any process,
a file that isn't whole doesn't count, and a piece that was made twice is the same twice. The output
is put together from pieces alone, by a thread that may wait for them. `state.json` says what they
were made from and how; pieces name its hash.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Condition
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pvq_ref.errors import OutputError
from pvq_ref.model import Model
from pvq_ref.output import STATE, partial_path, remove

DIGEST = 32
Say = Callable[[str], None]


def source_state(model: Model) -> list[list[object]]:
    """Return what a source is known by: its weight files' names, sizes and times of change."""
    stats = [(name, model.file(name).stat()) for name in model.headers]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


@dataclass(frozen=True)
class Piece:
    """A finished piece: what was noted of it, and where its bytes are."""

    path: Path
    note: dict[str, Any]
    first: int

    def array(self, start: int, count: int, dtype: DTypeLike) -> NDArray[Any]:
        """Return `count` elements from byte `start` on."""
        found = np.fromfile(self.path, dtype, count, offset=self.first + start)
        if found.size < count:
            raise OutputError(f"{self.path} must not change while it is read")
        return found


def read_state(target: Path) -> dict[str, Any] | None:
    """Return what OUT.partial was made from and how, or None where there is nothing to go on with.

    Raises OSError.
    """
    try:
        state = json.loads((partial_path(target) / STATE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return state if isinstance(state, dict) else None


class WorkFolder:
    """The pieces of one output.

    Parameters: target, the output; state, all that pieces depend on, as JSON; resume, whether to go
    on with what is there, which must have the same state, or to begin anew; shared, whether other
    processes may be at work on it, so that it is only added to. Raises OutputError, OSError.
    """

    def __init__(
        self,
        target: Path,
        state: Mapping[str, Any],
        *,
        resume: bool = False,
        shared: bool = False,
        say: Say = lambda line: None,
    ) -> None:
        self.path = partial_path(target)
        text = json.dumps(state, sort_keys=True)
        self._known: dict[str, Piece] = {}
        self._changed, self._filling = Condition(), False
        kept = read_state(target)
        if not shared and os.path.lexists(self.path) and (kept is None or not resume):
            remove(self.path)
            if not resume:
                say(f"{self.path} of an earlier run was discarded; resume would have gone on")
            kept = None
        if kept is None:
            self.path.mkdir(exist_ok=True)
            try:
                self._write(STATE, [text.encode()])
            except OSError:
                with suppress(OSError):  # it is others' too, or there is nothing in it
                    self.path.rmdir()
                raise
            kept = read_state(target)
        self._check(kept or {}, json.loads(text))
        self._hash = hashlib.sha256((self.path / STATE).read_bytes()).hexdigest()
        if not shared:
            for path in self.path.glob("*.tmp"):
                path.unlink()

    def _check(self, kept: dict[str, Any], now: dict[str, Any]) -> None:
        changed = sorted(key for key in now.keys() | kept.keys() if kept.get(key) != now.get(key))
        if changed:
            raise OutputError(
                f"{self.path} must be of the same model and settings to go on with it, but differs "
                f"in {', '.join(changed)}; remove it, or begin anew without resume"
            )

    def _write(self, name: str, parts: Sequence[bytes | memoryview]) -> None:
        """Write a file that is there whole or not at all; it may be written by others too."""
        aside = self.path / f"{name}.{uuid.uuid4().hex}.tmp"
        try:
            with aside.open("xb") as file:
                file.writelines(parts)
            os.replace(aside, self.path / name)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    def put(self, name: str, arrays: Sequence[NDArray[Any]], note: Mapping[str, Any]) -> None:
        """Keep a finished piece."""
        noted = json.dumps({"state": self._hash, "name": name, **note}).encode() + b"\n"
        flat = (np.ascontiguousarray(one).reshape(-1).view(np.uint8) for one in arrays)
        parts: list[bytes | memoryview] = [noted, *(one.data for one in flat)]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        self._write(name, [*parts, digest.digest()])
        with self._changed:
            self._known[name] = Piece(self.path / name, json.loads(noted), len(noted))
            self._changed.notify_all()

    def get(self, name: str) -> Piece | None:
        """Return a finished piece, or None; its hash is checked once."""
        if name not in self._known:
            found = self._read(name)
            if found is None:
                return None
            self._known[name] = found
        return self._known[name]

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Let other threads wait for pieces as long as the context lasts, in which they are put."""
        self._filling = True
        try:
            yield
        finally:
            with self._changed:
                self._filling = False
                self._changed.notify_all()

    def wait(self, name: str) -> Piece:
        """Return a finished piece, at once or when it is put; raise OutputError if it won't be."""
        self.get(name)
        with self._changed:
            self._changed.wait_for(lambda: name in self._known or not self._filling)
            if name not in self._known:
                raise OutputError(f"{self.path} must have the piece {name}")
            return self._known[name]

    def _read(self, name: str) -> Piece | None:
        path = self.path / name
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                noted = file.readline(1 << 20)
                digest, left = hashlib.sha256(noted), size - DIGEST - len(noted)
                while left > 0 and (part := file.read(min(left, 1 << 22))):
                    digest.update(part)
                    left -= len(part)
                if left != 0 or file.read() != digest.digest():
                    return None
        except FileNotFoundError:
            return None
        note = json.loads(noted)
        if (note["state"], note["name"]) != (self._hash, name):
            return None
        return Piece(path, note, len(noted))
