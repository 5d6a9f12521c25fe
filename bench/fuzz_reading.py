"""Reading a broken input in every way there is, and the laws that each way has to keep.

A law that doesn't hold is a `Broken`; any other exception than the project's own is one too.
"""

import contextlib
import io
import os
import runpy
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz_seeds import FILE, FOLDER, HESSIANS, PLAN, TASK, Seed
from pvq_ref import tables
from pvq_ref.allocation import read_rates
from pvq_ref.checkpoint import decompress, load
from pvq_ref.errors import CapacityError, FormatError, ModelError, PVQError
from pvq_ref.hessians import Hessians
from pvq_ref.inspection import describe
from pvq_ref.model import open_model
from pvq_ref.tasks import read_task
from pvq_ref.verification import verify

READ, PROBLEMS = "read", "problems"  # no error; a report of verify that isn't empty
SECONDS = 2.0  # of processor time
EXPECTED = (FormatError, ModelError, CapacityError)
CODES = (0, 1, 3)  # of the command line: done, an error, a report with problems


class Broken(Exception):
    """A law that doesn't hold."""


def write(folder: Path, files: dict[str, bytes | None]) -> None:
    """Write the files of a case into an empty folder."""
    for name, content in files.items():
        if content is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


def subject(seed: Seed, folder: Path) -> Path:
    """Return what is read: a folder, or the one file in it."""
    return folder if seed.kind == FOLDER else folder / seed.main[0]


def outcome(call: Callable[[], Any]) -> str:
    """Return the class of the error that a call raises, or READ; Broken for others.

    Right inputs take as long as it takes to decode them, errors and problems come in SECONDS.
    """
    began = time.process_time()
    kind = _class_of(call)
    took = time.process_time() - began
    if took > SECONDS and kind != READ:
        raise Broken(f"{took:.1f} s before {kind}")
    return kind


def _class_of(call: Callable[[], Any]) -> str:
    try:
        problems = call()
    except EXPECTED as error:
        if len(str(error)) > 2000:
            raise Broken(f"a message of {len(str(error))} characters") from error
        return type(error).__name__
    except PVQError as error:
        raise Broken(f"{type(error).__name__} is no error of a file: {error}") from error
    return PROBLEMS if problems else READ


def _model(path: Path, out: Path) -> dict[str, str]:
    """Read a file or folder: inspect, verify, load, decompress."""
    found = {
        "inspect": outcome(lambda: describe(open_model(path)).lines() is None),
        "verify": outcome(lambda: verify(path, threads=1).problems),
        "load": outcome(lambda: load(path) is None),
        "decompress": outcome(lambda: decompress(path, out, threads=1)),
    }
    accepted = found["verify"] == READ
    if path.is_file() and accepted != (found["decompress"] == READ):
        raise Broken(f"verify and decompress disagree: {found}")
    if accepted and READ not in (found["inspect"], found["load"]):
        raise Broken(f"verify accepts what can't be read: {found}")
    if found["inspect"] != READ and found["decompress"] == READ:
        raise Broken(f"decompress takes what inspect refuses: {found}")
    if (found["decompress"] == READ) != out.exists():
        raise Broken(f"an output that is there or not: {found}")
    if out.with_name(out.name + ".partial").exists():
        raise Broken("something was left behind")
    return found


def _hessians(path: Path) -> None:
    stored = Hessians(path)
    for layer in stored:
        stored.read(layer)


def read(seed: Seed, path: Path, out: Path) -> dict[str, str]:
    """Read a case in every way, and return {way: class of the error, or READ}."""
    tables.clear()  # what a case before has left in memory isn't this one's
    if seed.kind in (FILE, FOLDER):
        return _model(path, out)
    calls = {
        HESSIANS: lambda: _hessians(path),
        PLAN: lambda: read_rates(path) is None,
        TASK: lambda: read_task(path) is None,
    }
    return {seed.kind: outcome(calls[seed.kind])}


# ---------------------------------------------------------------- the command line


def _enter(arguments: list[str]) -> int:
    """Run `python -m pvq_ref` in this process, and return its exit code."""
    sys.argv = ["pvq_ref", *arguments]
    try:
        runpy.run_module("pvq_ref", run_name="__main__", alter_sys=True)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    return 0


def commands(path: Path, out: Path) -> list[list[str]]:
    """Return the arguments of the commands that read a model."""
    more = ["-j", "1"]
    return [
        ["inspect", str(path)],
        ["verify", str(path), *more, "--json"],
        ["decompress", str(path), str(out), *more],
    ]


def check_command(arguments: list[str], code: int, stdout: str, stderr: str, out: Path) -> str:
    """Raise Broken unless a command has ended as it should; return what happened."""
    if code not in CODES or "Traceback" in stderr:
        raise Broken(f"{arguments[0]} ended with {code}: {stderr[-2000:]}")
    told = [line for line in stderr.splitlines() if line.startswith("pvq-ref: ")]
    if bool(told) != (code != 0):
        raise Broken(f"{arguments[0]} ended with {code} and said {stderr[-500:]!r}")
    if code == 1 and stdout:
        raise Broken(f"{arguments[0]} failed and printed {stdout[:200]!r}")
    if arguments[0] == "decompress" and out.exists() != (code == 0):
        raise Broken(f"decompress ended with {code}, and its output is there or not")
    return f"{arguments[0]} → {code}"


def command_line(path: Path, out: Path) -> list[str]:
    """Run the commands on a case, in this process, and check how they end."""
    ended = []
    for arguments in commands(path, out):
        streams = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            code = _enter(arguments)
        texts = []
        for stream in streams:
            stream.flush()
            texts.append(stream.buffer.getvalue().decode(errors="replace"))
        ended.append(check_command(arguments, code, texts[0], texts[1], out))
    return ended


def clear(folder: Path) -> None:
    """Empty a folder."""
    for one in os.scandir(folder):
        if one.is_dir(follow_symlinks=False):
            shutil.rmtree(one.path)
        else:
            os.unlink(one.path)
