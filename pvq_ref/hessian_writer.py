"""Writing Hessians to a file (spec section 7.6): one at a time, as they come.

`pvq_ref.hessians` is the side that reads.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvq_ref import __version__
from pvq_ref.container import Entry, Writer, canonical_json, header_bytes
from pvq_ref.counting import checked_integer
from pvq_ref.curvature import checked_hessian
from pvq_ref.errors import DomainError, ShapeError
from pvq_ref.hessians import FORMAT_VERSION, KEY, MAX_TOKENS, SUFFIX, Shared, Text
from pvq_ref.output import target_path, whole


def _header(
    entries: Mapping[str, Entry], shared: Mapping[str, Shared], text: Text | None, size: int = 0
) -> bytes:
    source = None if text is None else asdict(text) | {"seed": str(text.seed)}
    described = {
        "format_version": FORMAT_VERSION,
        "writer": f"pvq_ref {__version__}",
        "text": source,
        "hessians": {
            name: {"layers": sorted(one.layers), "tokens": one.tokens}
            for name, one in shared.items()
        },
    }
    return header_bytes(dict(entries), {KEY: canonical_json(described)}, size)


class HessianWriter:
    """A file of Hessians under way; made by `hessian_writer`."""

    def __init__(self, path: Path, cols: Mapping[str, int], text: Text | None) -> None:
        self._cols, self._text, self._end = dict(cols), text, 0
        self._shared: dict[str, Shared] = {}
        self._named: set[str] = set()
        total = sum(4 * size * size for size in cols.values())
        # No header is longer than that of layers which share nothing, at the largest offsets.
        longest = _header(
            {
                name: Entry(name + SUFFIX, "F32", (size, size), total, total)
                for name, size in cols.items()
            },
            {name: Shared((name,), MAX_TOKENS) for name in cols},
            text,
        )
        self._file = Writer(path, {}, len(longest))

    def write(self, layers: Sequence[str], hessian: ArrayLike, tokens: int) -> None:
        """Write the Hessian that some layers share, in the name of the first.

        Parameters: layers, at least one, of those that the file was made for, none of them written
        before; hessian (cols, cols), real numbers; tokens, 1 or more, that it is the mean of.
        Raises DomainError, ShapeError, DTypeError, NonFiniteError.
        """
        names = list(layers)
        if not names:
            raise DomainError("layers must name at least one, got none")
        for number, name in enumerate(names):
            if name not in self._cols:
                raise DomainError(f"layers must be of those of the file, got {name!r}")
            if name in self._named or name in names[:number]:
                raise DomainError(f"layers must be written once, got {name!r} again")
            if self._cols[name] != self._cols[names[0]]:
                raise ShapeError(f"layers must have as many columns as each other, got {names}")
        tokens = checked_integer("tokens", tokens, 1, MAX_TOKENS)
        h = _binary32(hessian, self._cols[names[0]])
        entry = Entry(names[0] + SUFFIX, "F32", h.shape, self._end, self._end + h.nbytes)
        self._file.entries[entry.name] = entry
        self._file.write_unhashed(entry.name, [h])
        self._end = entry.stop
        self._shared[names[0]] = Shared(tuple(names), tokens)
        self._named |= set(names)

    def finish(self) -> None:
        """Write the header."""
        room = self._file.room
        self._file.finish(_header(self._file.entries, self._shared, self._text, room))

    def close(self) -> None:
        """Close the file, finished or not."""
        self._file.__exit__(None, None, None)


def _binary32(hessian: ArrayLike, cols: int) -> NDArray[np.float32]:
    """Return a Hessian as it is stored: checked, symmetric, little-endian."""
    h, unit = checked_hessian(hessian, cols)
    with np.errstate(over="ignore", under="ignore"):
        stored = (h * unit).astype("<f4")
    if not np.isfinite(stored).all():
        raise DomainError(f"hessian must fit binary32, got {np.abs(h).max() * unit:g}")
    return stored


@contextmanager
def hessian_writer(
    path: str | os.PathLike[str],
    cols: Mapping[str, int],
    text: Text | None = None,
    *,
    force: bool = False,
) -> Iterator[HessianWriter]:
    """Give a writer of a file that appears whole, at the end, or not at all (spec section 7.6).

    Parameters: path; cols, the columns of every layer that may be written, by its name; text that
    the inputs came from; force, whether to replace a file. Layers that aren't written aren't in the
    file. Raises OutputError.
    """
    with whole(target_path(path), force, folder=False) as partial:
        writer = HessianWriter(partial, cols, text)
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()
