"""Outputs that appear whole or not at all.

Everything is written to OUT.partial beside the output and then takes its place by a rename. With
`force` an old output stays until the new one is complete.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pvq_ref.errors import MetadataError, OutputError
from pvq_ref.folders import read_small
from pvq_ref.parallel import map_over

SUMS = "SHA256SUMS"
MAX_SUMS = 1 << 24  # bytes
PARTIAL = ".partial"  # ends the name of an output that isn't complete
STATE = "state.json"  # what an OUT.partial holds that can be gone on with


def remove(path: Path) -> None:
    """Remove a file, a link, a folder with all that is in it, or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def target_path(target: str | os.PathLike[str]) -> Path:
    """Return the absolute path of an output; a link at its end stays a link."""
    return Path(os.path.abspath(target))


def partial_path(target: Path) -> Path:
    """Return where an output is while it isn't complete."""
    return target.with_name(target.name + PARTIAL)


def check_free(target: Path, force: bool, *, folder: bool) -> None:
    """Raise OutputError if the output can't be made, or shouldn't replace what is there."""
    if not target.parent.is_dir():
        raise OutputError(f"the folder of the output must exist, got {target.parent}")
    if target.name.endswith(PARTIAL):
        raise OutputError(f"the output must not be called {PARTIAL}, got {target}")
    if not os.path.lexists(target):
        return
    if not force:
        raise OutputError(f"the output must not exist yet, got {target}; force replaces it")
    if target.is_symlink():
        return  # the link goes, and not what it leads to
    if folder != target.is_dir():
        raise OutputError(f"the output must replace its like, a folder or a file, got {target}")
    if folder and any(target.iterdir()) and not any(target.glob("*.safetensors")):
        raise OutputError(f"the output must not replace a folder without a model, got {target}")


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn an OSError into an OutputError that names the output."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{target} can't be written: {error}") from error


@contextmanager
def whole(target: Path, force: bool, *, folder: bool) -> Iterator[Path]:
    """Give a path to write to, an empty folder or a free name; move it to the target at the end."""
    check_free(target, force, folder=folder)
    partial = partial_path(target)
    with writing(target):
        try:
            remove(partial)
            if folder:
                partial.mkdir()
            yield partial
            replace(partial, target)
        except BaseException:
            remove(partial)
            raise


def replace(partial: Path, target: Path) -> None:
    """Move a complete output to its place; an old folder goes only when the new one stands."""
    _make_durable(partial)
    if not target.is_dir() or not partial.is_dir() or target.is_symlink():
        if target.is_symlink() and partial.is_dir():
            target.unlink()  # a folder can't take the place of a link, as a file can
        os.replace(partial, target)
    else:
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            os.rename(target, aside / "old")
            try:
                os.rename(partial, target)
            except BaseException:
                os.rename(aside / "old", target)
                raise
        finally:
            if target.is_dir():
                remove(aside)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _make_durable(path: Path) -> None:
    """Let what was written reach the disk before its name says that it is complete."""
    for one in [path, *path.rglob("*")] if path.is_dir() else [path]:
        file = os.open(one, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path) -> list[str]:
    """Return the relative names of all files of a folder, hidden ones aside, sorted.

    Links to folders are followed, each real folder once.
    """
    found, seen = [], set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            (Path(root) / name).relative_to(folder).as_posix() for name in files if name[0] != "."
        ]
    return sorted(found)


def write_sums(folder: Path, threads: int) -> None:
    """Write SHA256SUMS of all files of a folder, in the form of sha256sum."""
    names = files_below(folder)
    hashes = map_over(lambda name: file_hash(folder / name), names, threads)
    lines = [_sum_line(digest, name) for digest, name in zip(hashes, names, strict=True)]
    (folder / SUMS).write_bytes(b"".join(lines))


# As with sha256sum, a name with one of these is escaped, and its line begins with a backslash.
_ESCAPES = ((b"\\", b"\\\\"), (b"\n", b"\\n"), (b"\r", b"\\r"))


def _sum_line(digest: str, name: str) -> bytes:
    raw = escaped = os.fsencode(name)
    for plain, escape in _ESCAPES:
        escaped = escaped.replace(plain, escape)
    return (b"" if escaped == raw else b"\\") + digest.encode() + b"  " + escaped + b"\n"


def _unescaped(name: bytes) -> bytes:
    return re.sub(rb"\\(.)", lambda m: {b"n": b"\n", b"r": b"\r"}.get(m[1], m[1]), name)


def read_sums(folder: Path) -> dict[str, str]:
    """Return the hashes that SHA256SUMS names. Raises MetadataError for lines of another form."""
    sums: dict[str, str] = {}
    for line in read_small(folder / SUMS, MAX_SUMS, MetadataError).split(b"\n")[:-1]:
        match = re.fullmatch(rb"(\\?)([0-9a-f]{64})  (.+)", line, re.DOTALL)
        if match is None:
            raise MetadataError(
                f"{SUMS} must have a hash and a name in each line, got {line!r:.80}"
            )
        name = os.fsdecode(_unescaped(match[3]) if match[1] else match[3])
        if name in sums:
            raise MetadataError(f"{SUMS} must name each file once, got {name!r:.80} again")
        sums[name] = match[2].decode()
    return sums
