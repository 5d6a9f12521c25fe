"""Cases of valid files (spec section 9), and the parts that broken ones are made of."""

import json
import struct
from collections.abc import Iterator, Mapping
from math import ceil
from typing import Any

from pvq_ref.cases.case import COMMON, UNCOMMON, Case
from pvq_ref.cases.tensors import SIMPLE, parts_of, rotation
from pvq_ref.oracle.container import describe, header_hash, write
from pvq_ref.oracle.frame import METADATA, Entry, canonical, offsets
from pvq_ref.oracle.layout import read_layout

Object = dict[str, Any]
WRITER = "test vectors"

ONE: Object = SIMPLE | {"shape": [1, 2], "n": 2, "k": 1, "gain_bits": 0, "levels": "fitted"}
PLAIN = {"b": Entry("U8", (1,), b"\x07")}


def encoded(item: Object, seed: int = 1) -> tuple[dict[str, bytes], Object]:
    """Return the parts and the object of a made-up tensor."""
    return parts_of(read_layout(item), seed), item


def split(data: bytes) -> tuple[Object, bytes]:
    """Return the header of a file as an object, and the data behind it."""
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def framed(header: Object | bytes, body: bytes, multiple: int = 8) -> bytes:
    """Return a file of a header, which may break any rule, and its data."""
    text = header if isinstance(header, bytes) else canonical(header).encode("ascii")
    text += b" " * (-len(text) % multiple)
    return struct.pack("<Q", len(text)) + text + body


def sealed(
    entries: Mapping[str, Entry],
    pvq: Mapping[str, object],
    body: bytes,
    spaces: int,
    multiple: int = 8,
) -> bytes:
    """Return a file with its right hash, and `spaces` more in its header than it needs."""

    def text(digits: str) -> str:
        whole = {"format": "pt", "pvq": canonical({**pvq, "header_sha256": digits})}
        return canonical({METADATA: whole, **offsets(entries)})

    length = len(text("0" * 64))
    length += -length % 8 + spaces
    length += -length % multiple
    digits = header_hash(entries, pvq, length)
    return struct.pack("<Q", length) + text(digits).ljust(length).encode("ascii") + body


EMPTY_FILE = write({}, {}, {}, WRITER)
SMALL_FILE = write({"a": encoded(ONE)}, {}, {}, WRITER)


def _everything() -> bytes:
    """Return a file with tensors of all kinds and names that need escapes."""
    rotated = SIMPLE | {"shape": [2, 14], "n": 8, "k": 6, "tail_k": 3, "dtype": "BF16",
                        "order": "blocked", "block": 4, "rotation": rotation(14, 7)}  # fmt: skip
    compressed = {
        "model.layers.0.weight": encoded(rotated),
        "experts": encoded(SIMPLE | {"shape": [2, 2, 6], "tail_k": 2, "dtype": "F16"}, 2),
        'quote" \\ é \U0001f600 \t\x7f': encoded(SIMPLE | {"dtype": "F64", "order": "opus"}, 3),
        "": encoded(ONE, 4),
    }
    plain = {
        "norm": Entry("BF16", (3,), bytes(range(6))),
        "Z": Entry("F64", (), bytes(8)),
        "mask": Entry("BOOL", (2, 2), b"\0\1\1\0"),
        "ids": Entry("I64", (1, 2), bytes(16)),
        "empty": Entry("F32", (0, 7), b""),
    }
    source = {"format": "pt", "origin": "a model with a ü", "": ""}
    return write(compressed, plain, source, WRITER)


def _above_a_tie() -> tuple[float, float]:
    """Return a binary16 norm and a binary32 level with a product just above 1 + 2^-8.

    In binary32 the product is 1 + 2^-8, halfway between two BF16 numbers.
    """
    tie = 1 + 2.0**-8
    for i in range(1, 1024):
        norm = 1 + i * 2.0**-10
        level = ceil(tie / norm * 2.0**24) * 2.0**-24  # below 1: units of 2^-24
        if 0 < norm * level - tie < 2.0**-25:
            return norm, level
    raise AssertionError("there is such a pair")


TYPES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


def _files() -> Iterator[tuple[str, str, str, bytes, list[str], str]]:
    yield "smallest", "9.1", "no tensor at all", EMPTY_FILE, ["empty"], UNCOMMON
    yield "one", "9.2", "one tensor of two weights", SMALL_FILE, [], COMMON
    plain = write({}, PLAIN, {}, WRITER)
    yield "plain", "9.2", "one tensor that isn't compressed", plain, [], UNCOMMON
    yield "everything", "9.3", "tensors of all kinds", _everything(), ["order", "tail"], COMMON
    for dtype in ("F16", "BF16", "F32", "F64"):
        file = write({"a": encoded(SIMPLE | {"dtype": dtype}, 5)}, {}, {}, WRITER)
        yield f"dtype-{dtype}", "8.5", "decoded and rounded", file, ["rounding"], COMMON
    large = SIMPLE | {"dtype": "F16", "norm_exponent": 4}
    file = write({"a": encoded(large, 6)}, {}, {}, WRITER)
    yield "overflow", "8.5", "too large for F16: infinity", file, ["overflow"], UNCOMMON
    file = write({"a": encoded(SIMPLE | {"dtype": "F32", "norm_exponent": -160}, 6)}, {}, {})
    yield "underflow", "8.5", "subnormal in F32", file, ["underflow"], UNCOMMON
    every = {f"x.{name}": Entry(name, (1,), bytes(range(size))) for name, size in TYPES.items()}
    every["x.BOOL"] = Entry("BOOL", (1,), b"\1")
    file = write({}, every, {}, WRITER)
    yield "types", "9.1", "largest elements first, then by name", file, ["order"], UNCOMMON
    names = {name: Entry("U8", (), b"\5") for name in ("b", "a", "B", "é", "a.b", "a_index", "~")}
    file = write({}, names, {}, WRITER)
    yield "names", "9.1", "names in code-point order", file, ["order"], UNCOMMON
    container = {"a": encoded(ONE)}
    entries = {
        f"a_{part}": Entry(*read_layout(ONE).entries[part], data)
        for part, data in container["a"][0].items()
    }
    pvq = describe(entries, {"a": ONE}, {}, WRITER)
    file = sealed(entries, pvq, split(SMALL_FILE)[1], 24)
    yield "padding", "9.1", "more spaces than needed", file, ["canonical"], UNCOMMON
    item, (norm, level) = ONE | {"shape": [1, 1], "n": 1, "dtype": "BF16"}, _above_a_tie()
    parts = parts_of(read_layout(item)) | {
        "row_norm": struct.pack("<e", norm * 2.0**14),
        "levels": struct.pack("<f", level),
    }
    file = write({"a": (parts, item)}, {}, {}, WRITER)
    yield "once", "8.5", "nearly a tie: rounded once", file, ["rounding"], UNCOMMON
    keys = {"n": 1, "header_sha256": "0" * 64, "b": None}
    source = {"header_sha256": "1" * 64, "pvq": json.dumps(keys)}
    file = write({}, PLAIN, source, "header_sha256")
    yield "hash-names", "9.4", "only the outermost hash is replaced", file, ["unchecked"], UNCOMMON


def cases() -> Iterator[Case]:
    """Yield the cases of valid files."""
    for where, section, comment, file, flags, kind in _files():
        args = {"bytes": file.hex()}
        yield Case(f"decode_file/{where}", section, comment, "decode_file", args, flags, kind)
