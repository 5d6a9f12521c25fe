"""The frame of a file: safetensors, in a canonical form (spec section 9.1).

A file is the length of the header (8 bytes, little-endian), the header (JSON), the data.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from pvq_ref.errors import HeaderError, MetadataError
from pvq_ref.oracle.layout import is_integer

LARGEST_HEADER = 100_000_000  # section 12
FREE_HEADER = 2**21  # section 12: what a header may have beyond a sixteenth of the data
LARGEST_INTEGER = 2**63 - 1
METADATA = "__metadata__"
ELEMENT_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One entry of a safetensors file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


# 9.1: canonical JSON


def canonical(value: object) -> str:
    """Return canonical JSON: sorted keys, no spaces, ASCII (section 9.1)."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def parse_canonical(text: str, error: type[HeaderError] | type[MetadataError]) -> dict[str, object]:
    """Return the object that canonical JSON stands for; raise the error if it isn't one.

    The comparison also finds repeated keys, spaces, other number formats and other escapes.
    """
    try:
        value = json.loads(text)
        same = canonical(value) == text
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no character
    except (ValueError, RecursionError) as cause:
        raise error(f"JSON must be valid, got {text[:60]!r}") from cause
    if not isinstance(value, dict) or not same:
        raise error(f"JSON must be a canonical object, got {text[:60]!r}")
    return value


# 9.1: the frame


def read_header(data: bytes) -> tuple[dict[str, object], bytes]:
    """Return the header and the data behind it; HeaderError if they break 9.1 or 12."""
    if len(data) < 8:
        raise HeaderError(f"a file must have at least 8 bytes, got {len(data)}")
    (length,) = struct.unpack_from("<Q", data)
    if length > LARGEST_HEADER or length % 8 or length > len(data) - 8:
        raise HeaderError(
            f"the header's length must be a multiple of 8, at most {LARGEST_HEADER} and within "
            f"the file, got {length}"
        )
    if length > FREE_HEADER + (len(data) - 8 - length) // 16:
        raise HeaderError(f"the header must not be so much longer than the data, got {length}")
    text = data[8 : 8 + length]
    stripped = text.rstrip(b" ")
    if not text.isascii():
        raise HeaderError("the header must be ASCII")
    return parse_canonical(stripped.decode("ascii"), HeaderError), data[8 + length :]


def _read_entry(name: str, value: object, data: bytes) -> tuple[int, int, Entry]:
    """Return an entry and its offsets; HeaderError if it isn't safetensors'."""
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise HeaderError(f"entry {name!r} must have dtype, shape and data_offsets, got {value!r}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ELEMENT_BYTES:
        raise HeaderError(f"entry {name!r} must have a known dtype, got {dtype!r}")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(
            is_integer(number, 0, LARGEST_INTEGER) for number in numbers
        ):
            raise HeaderError(f"entry {name!r} must have lists of integers >= 0, got {numbers!r}")
    if len(offsets) != 2 or offsets[1] - offsets[0] != ELEMENT_BYTES[dtype] * math.prod(shape):
        raise HeaderError(f"entry {name!r} must have the bytes of its shape, got {offsets}")
    begin, end = offsets
    return begin, end, Entry(dtype, tuple(shape), data[begin:end])


def storage_order(entries: Mapping[str, Entry]) -> list[str]:
    """Return the names in the order of the data: largest elements first, then by name (9.1)."""
    return sorted(entries, key=lambda name: (-ELEMENT_BYTES[entries[name].dtype], name))


def read_entries(header: Mapping[str, object], data: bytes) -> dict[str, Entry]:
    """Return the entries; HeaderError unless they cover the data, in order (section 9.1)."""
    found = {
        name: _read_entry(name, value, data) for name, value in header.items() if name != METADATA
    }
    entries = {name: entry for name, (_, _, entry) in found.items()}
    position = 0
    for name in storage_order(entries):
        begin, end, _ = found[name]
        if begin != position:
            raise HeaderError(f"entry {name!r} must begin at {position}, got {begin}")
        position = end
    if position != len(data):
        raise HeaderError(f"entries must cover {len(data)} bytes, got {position}")
    return entries


def offsets(entries: Mapping[str, Entry]) -> dict[str, object]:
    """Return the header's objects of all entries, in their order of storage (section 9.1)."""
    header: dict[str, object] = {}
    position = 0
    for name in storage_order(entries):
        entry = entries[name]
        end = position + len(entry.data)
        header[name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [position, end],
        }
        position = end
    return header


def frame(header: Mapping[str, object], length: int = 0) -> bytes:
    """Return the first 8 + N bytes of a file, N >= length, a multiple of 8 (section 9.1)."""
    text = canonical(header).encode("ascii")
    text += b" " * max(length - len(text), -len(text) % 8)
    return struct.pack("<Q", len(text)) + text
