"""Folders and side files from strangers: which files are taken, and how JSON is read.

A link is followed to where the weights are and no further: a hub's cache links every file of a
model to one folder of blobs, and whoever puts a folder of links together has the weights beside the
rest. Any other link may lead to what isn't part of the model, and side files are copied.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from pvq_ref.errors import ModelError, PVQError

MAX_JSON = 1 << 25  # bytes; the index of the largest models has a third of it
MAX_TOKENS = 1 << 20  # commas, colons and opening brackets, each of which may take 200 bytes
MAX_DEPTH = 64  # of objects and lists


def open_regular(path: Path, error: type[PVQError] = ModelError) -> BinaryIO:
    """Open a file to read it, or raise `error` for what isn't one: a pipe could make us wait.

    Raises OSError for a file that isn't there or can't be read.
    """
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise error(f"{path.name} must be a regular file")
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def read_small(path: Path, limit: int = MAX_JSON, error: type[PVQError] = ModelError) -> bytes:
    """Return the bytes of a file of at most `limit`, or raise `error`."""
    with open_regular(path, error) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise error(f"{path.name} must have at most {limit} bytes")
    return content


def read_json(path: Path) -> Any:
    """Read a JSON file that isn't ours, or raise ModelError.

    Python's NaN and Infinity are taken, as configs have them; what can't be written again isn't.
    """
    content = read_small(path)
    opened = content.count(b"[") + content.count(b"{")
    if opened + content.count(b",") + content.count(b":") > MAX_TOKENS:
        raise ModelError(f"{path.name} must have at most {MAX_TOKENS} values")
    try:
        value = json.loads(content)
        if b"\\u" in content:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no character
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} must be JSON: {error}") from None
    if opened > MAX_DEPTH and is_deep(value):
        raise ModelError(f"{path.name} must have at most {MAX_DEPTH} values in each other")
    return value


def is_deep(value: Any) -> bool:
    """Whether JSON has more than MAX_DEPTH objects and lists in each other."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            below
            for one in level
            if isinstance(one, dict | list)
            for below in (one.values() if isinstance(one, dict) else one)
        ]
    return bool(level)


def model_files(folder: Path, weights: list[str]) -> list[str]:
    """Return the relative names of all files of a model's folder, hidden ones aside, sorted.

    Raises ModelError for a link to what isn't beside or below the folder's weights.
    """
    roots = {os.path.realpath(folder)}
    roots |= {os.path.dirname(os.path.realpath(folder / name)) for name in weights}
    found: list[str] = []
    seen: set[str] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        real = os.path.realpath(folder / below)
        if real in seen:
            continue
        seen.add(real)
        with os.scandir(folder / below) as entries:
            visible = [one for one in entries if not one.name.startswith(".")]
        for one in visible:
            name = f"{below}/{one.name}" if below else one.name
            if one.is_symlink() and not _is_below(os.path.realpath(one.path), roots):
                raise ModelError(
                    f"links in a model's folder must lead to where its weights are, got {name!r}"
                )
            (waiting if one.is_dir() else found).append(name)
    return sorted(found)


def _is_below(real: str, roots: set[str]) -> bool:
    return any(real == root or real.startswith(root.rstrip(os.sep) + os.sep) for root in roots)
