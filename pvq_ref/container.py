"""One safetensors file: header, streaming reader and writer (spec section 9.1).

8 bytes of header length, little-endian; a JSON header; the data of all entries without holes. The
safetensors package wants every tensor in memory, orders metadata at random and writes wrong values
for arrays that aren't C-contiguous, so reading and writing are done here, and the package is the
judge.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from pvq_ref.errors import HeaderError, OutputError
from pvq_ref.folders import MAX_DEPTH, is_deep, open_regular

MAX_HEADER = 100_000_000  # bytes (spec section 12)
FREE_HEADER = 1 << 21  # bytes of a header that the size of the data doesn't limit
BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "C64": np.dtype(np.complex64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    **{f"F{size}": np.dtype(f"<f{size // 8}") for size in (16, 32, 64)},
    **{f"I{size}": np.dtype(f"<i{size // 8}") for size in (8, 16, 32, 64)},
    **{f"U{size}": np.dtype(f"<u{size // 8}") for size in (8, 16, 32, 64)},
}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file; start and stop count bytes from the begin of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Bytes of the data."""
        return self.stop - self.start


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys, no spaces and ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def parse_json(text: bytes | str, what: str) -> Any:
    """Parse JSON from a stranger; raise HeaderError for anything wrong, duplicate keys included."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            raise HeaderError(f"{what} must have no key twice")
        return result

    def refuse(constant: str) -> NoReturn:
        raise HeaderError(f"{what} must be strict JSON, got {constant}")

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
        if (b"\\u" if isinstance(text, bytes) else "\\u") in text:  # type: ignore[operator]
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no character
    except HeaderError:
        raise
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"{what} must be JSON: {error}") from None
    if is_deep(value):
        raise HeaderError(f"{what} must have at most {MAX_DEPTH} values in each other")
    return value


def header_limit(data: int) -> int:
    """Return the most bytes that a header may have before `data` bytes (spec section 12).

    Reading takes many times the memory of a header, and no model needs one that isn't far smaller
    than its weights.
    """
    return min(MAX_HEADER, FREE_HEADER + data // 16)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _entry(name: str, raw: object) -> Entry:
    if not isinstance(raw, dict) or not {"dtype", "shape", "data_offsets"} <= raw.keys():
        raise HeaderError(f"entry {name!r:.80} must have dtype, shape and data_offsets")
    dtype, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise HeaderError(f"entry {name!r:.80} must have a known dtype, got {dtype!r:.80}")
    if not isinstance(shape, list) or len(shape) > 64 or not all(map(_is_count, shape)):
        raise HeaderError(f"entry {name!r:.80} must have a shape of counts, got {shape!r:.80}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise HeaderError(f"entry {name!r:.80} must have two offsets, got {offsets!r:.80}")
    start, stop = offsets
    if (stop - start) * 8 != prod(shape) * BITS[dtype]:
        raise HeaderError(
            f"entry {name!r:.80} must have the bytes of {dtype} {shape!s:.200}, got {stop - start}"
        )
    return Entry(name, dtype, tuple(shape), start, stop)


@dataclass(frozen=True)
class Header:
    """The header of a file: entries in the order of their data, strings of metadata, raw bytes."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    raw: bytes

    @property
    def data_start(self) -> int:
        """Place in the file at which the data begins."""
        return len(self.raw)


def read_header(path: Path) -> Header:
    """Read and check a header, and nothing else of the file. Raises HeaderError, OSError."""
    with open_regular(path, HeaderError) as file:
        total = os.fstat(file.fileno()).st_size
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > total - 8:
            raise HeaderError(
                f"{path.name} must be a safetensors file, got a header of {length} bytes in {total}"
            )
        limit = header_limit(total - 8 - length)
        if length > limit:
            raise HeaderError(
                f"the header of {path.name} must have at most {limit} bytes before "
                f"{total - 8 - length} of data, got {length}"
            )
        text = file.read(length)
    if len(text) < length:
        raise HeaderError(f"{path.name} must not change while it is read")
    try:
        raw = parse_json(text.decode(), f"the header of {path.name}")
    except UnicodeDecodeError as error:
        raise HeaderError(f"the header of {path.name} must be UTF-8: {error}") from None
    if not text.startswith(b"{") or not isinstance(raw, dict):
        raise HeaderError(f"the header of {path.name} must be a JSON object")
    metadata = raw.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise HeaderError(f"the metadata of {path.name} must be strings")
    entries = sorted((_entry(name, value) for name, value in raw.items()), key=_by_offset)
    end = 0
    for entry in entries:
        if entry.start != end:
            raise HeaderError(
                f"entry {entry.name!r:.80} must begin at byte {end}, got {entry.start}"
            )
        end = entry.stop
    if end != total - 8 - length:
        raise HeaderError(
            f"the data of {path.name} must have {end} bytes, got {total - 8 - length}"
        )
    return Header({entry.name: entry for entry in entries}, metadata, head + text)


def _by_offset(entry: Entry) -> tuple[int, int]:
    return entry.start, entry.stop


class Reader:
    """An open file. Reads may come from several threads at once.

    A header that has been read and checked is given where there is one, so that no other takes its
    place if the file changes.
    """

    def __init__(self, path: str | os.PathLike[str], header: Header | None = None) -> None:
        self.path = Path(path)
        self.header = read_header(self.path) if header is None else header
        self._file = open_regular(self.path, HeaderError)

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def read_bytes(self, entry: Entry, start: int, stop: int) -> NDArray[np.uint8]:
        """Return bytes start … stop of an entry's data."""
        first = self.header.data_start + entry.start + start
        pieces, left = [], stop - start
        while left > 0:  # one call returns 2 GiB at most
            piece = os.pread(self._file.fileno(), min(left, 1 << 30), first)
            if not piece:
                raise HeaderError(f"{self.path.name} must not change while it is read")
            pieces.append(piece)
            first, left = first + len(piece), left - len(piece)
        return np.frombuffer(pieces[0] if len(pieces) == 1 else b"".join(pieces), np.uint8)

    def read(self, name: str) -> NDArray[Any]:
        """Return a whole entry as an array."""
        entry = self.header.entries[name]
        if entry.dtype not in NUMPY_TYPES:
            raise HeaderError(
                f"entry {name!r:.80} must have a type that NumPy has, got {entry.dtype}"
            )
        data = self.read_bytes(entry, 0, entry.size)
        return data.view(NUMPY_TYPES[entry.dtype]).reshape(entry.shape)

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Return rows of an entry that is seen as a matrix (all dimensions but the last)."""
        entry = self.header.entries[name]
        dtype, cols = NUMPY_TYPES[entry.dtype], entry.shape[-1]
        data = self.read_bytes(entry, start * cols * dtype.itemsize, stop * cols * dtype.itemsize)
        return data.view(dtype).reshape(stop - start, cols)

    def chunks(self, name: str, size: int = 1 << 24) -> Iterable[NDArray[np.uint8]]:
        """Yield the bytes of an entry in pieces."""
        entry = self.header.entries[name]
        for start in range(0, entry.size, size):
            yield self.read_bytes(entry, start, min(start + size, entry.size))


def layout(wanted: Iterable[tuple[str, str, tuple[int, ...]]]) -> dict[str, Entry]:
    """Return entries for (name, dtype, shape) in the order of spec section 9.1."""
    entries, end = {}, 0
    for name, dtype, shape in sorted(wanted, key=lambda one: (-BITS[one[1]], one[0])):
        stop = end + prod(shape) * BITS[dtype] // 8
        entries[name] = Entry(name, dtype, shape, end, stop)
        end = stop
    return entries


def header_bytes(entries: dict[str, Entry], metadata: dict[str, str], size: int = 0) -> bytes:
    """Return the first bytes of a file, padded to `size` at least and to a multiple of 8."""
    header: dict[str, object] = {
        entry.name: {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [entry.start, entry.stop],
        }
        for entry in entries.values()
    }
    if metadata:
        header["__metadata__"] = metadata
    text = canonical_json(header).encode()
    text += b" " * max(size - 8 - len(text), -len(text) % 8)
    limit = header_limit(max((entry.stop for entry in entries.values()), default=0))
    if len(text) > limit:
        raise OutputError(f"the header must have at most {limit} bytes, got {len(text)}")
    return len(text).to_bytes(8, "little") + text


class Writer:
    """A file under way: entries in any order, the header last, in room that was kept for it."""

    def __init__(self, path: Path, entries: dict[str, Entry], room: int) -> None:
        self.entries, self.room = entries, room
        self.hashes: dict[str, str] = {}
        self._written: set[str] = set()
        self._file = path.open("xb")

    def write(self, name: str, chunks: Iterable[NDArray[Any] | bytes]) -> None:
        """Write the whole data of an entry; `hashes` gets its SHA-256."""
        digest = hashlib.sha256()
        self._write(name, chunks, digest.update)
        self.hashes[name] = digest.hexdigest()

    def write_unhashed(self, name: str, chunks: Iterable[NDArray[Any] | bytes]) -> None:
        """Write the whole data of an entry whose hash nobody asks for."""
        self._write(name, chunks, lambda raw: None)

    def _write(
        self,
        name: str,
        chunks: Iterable[NDArray[Any] | bytes],
        see: Callable[[bytes | memoryview], None],
    ) -> None:
        entry, written = self.entries[name], 0
        self._file.seek(self.room + entry.start)
        for chunk in chunks:
            raw = (
                chunk
                if isinstance(chunk, bytes)
                else np.ascontiguousarray(chunk).view(np.uint8).data
            )
            see(raw)
            self._file.write(raw)
            written += len(raw) if isinstance(raw, bytes) else raw.nbytes
        assert written == entry.size, f"{name}: {written} bytes instead of {entry.size}"
        self._written.add(name)

    def finish(self, header: bytes) -> None:
        """Write the header and make the file durable."""
        assert len(header) == self.room and self._written == self.entries.keys()
        end = self.room + max((entry.stop for entry in self.entries.values()), default=0)
        self._file.truncate(end)
        self._file.seek(0)
        self._file.write(header)
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
