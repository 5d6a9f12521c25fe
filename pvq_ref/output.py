"""Outputs that appear whole or not at all.

Everything is written to OUT.partial beside the output and then takes its place by a rename. With
`force` an old output stays until the new one is complete.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pvq_ref.errors import OutputError

SUMS = "SHA256SUMS"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_free(target: Path, force: bool) -> None:
    """Raise OutputError if the output can't be made."""
    if os.path.lexists(target) and not force:
        raise OutputError(f"the output must not exist yet, got {target}; force replaces it")
    if not target.parent.is_dir():
        raise OutputError(f"the folder of the output must exist, got {target.parent}")


@contextmanager
def whole(target: Path, force: bool, *, folder: bool) -> Iterator[Path]:
    """Give a path to write to, an empty folder or a free file name; move it to the target at the
    end.
    """
    check_free(target, force)
    partial = target.with_name(target.name + ".partial")
    try:
        _remove(partial)
        if folder:
            partial.mkdir()
        yield partial
        _replace(partial, target)
    except OSError as error:
        _remove(partial)
        raise OutputError(f"{target} can't be written: {error}") from error
    except BaseException:
        _remove(partial)
        raise


def _replace(partial: Path, target: Path) -> None:
    """Move the partial output to its place; an old one goes only when the new one stands."""
    if not (target.is_dir() and not target.is_symlink()) and not partial.is_dir():
        os.replace(partial, target)
    elif os.path.lexists(target):
        old = target.with_name(target.name + ".old")
        _remove(old)
        os.rename(target, old)
        try:
            os.rename(partial, target)
        except OSError:
            os.rename(old, target)
            raise
        _remove(old)
    else:
        os.rename(partial, target)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path) -> list[str]:
    """Return the relative names of all files of a folder, hidden ones aside, sorted."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            (Path(root) / name).relative_to(folder).as_posix() for name in files if name[0] != "."
        ]
    return sorted(found)


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS of all files of a folder, in the form of sha256sum."""
    lines = [f"{file_hash(folder / name)}  {name}\n" for name in files_below(folder)]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def read_sums(folder: Path) -> dict[str, str]:
    """Return the hashes that SHA256SUMS names, {} for lines that aren't of its form."""
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("  ", 1) for line in lines)
    return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}
