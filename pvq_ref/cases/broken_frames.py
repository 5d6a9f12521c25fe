"""Cases of files with a broken frame: HeaderError, one cause each (spec sections 9.1 and 11)."""

import struct
from collections.abc import Iterator
from typing import Any

from pvq_ref.cases.case import FAULTY, Case
from pvq_ref.cases.files import EMPTY_FILE, PLAIN, WRITER, framed, sealed, split
from pvq_ref.oracle.container import describe, write
from pvq_ref.oracle.frame import METADATA, Entry, canonical

Broken = Iterator[tuple[str, str, bytes, list[str]]]  # name, comment, file, flags

PLAIN_FILE = write({}, PLAIN, {}, WRITER)
TEXT = canonical(split(EMPTY_FILE)[0]).encode()
PLAIN_TEXT = canonical(split(PLAIN_FILE)[0]).encode()


def _entry(data: bytes = PLAIN_FILE, **changes: Any) -> bytes:
    """Return the plain file with another object for its one entry."""
    header, body = split(data)
    header["b"] = header["b"] | changes
    return framed(header, body)


def _frames() -> Broken:
    text = TEXT
    yield "empty", "no bytes", b"", []
    yield "short", "seven bytes", EMPTY_FILE[:7], []
    yield "no-header", "a header of 0 bytes", bytes(8), []
    yield "long-header", "a header beyond the end", struct.pack("<Q", 1 << 20) + EMPTY_FILE[8:], []
    yield "greatest-length", "a length of 2^64 - 1", b"\xff" * 8 + EMPTY_FILE[8:], ["overflow"]
    yield (
        "negative-length",
        "a length of 2^63",
        struct.pack("<Q", 1 << 63) + EMPTY_FILE[8:],
        ["overflow"],
    )
    yield "big-endian", "a length of the other byte order", (
        EMPTY_FILE[:8][::-1] + EMPTY_FILE[8:]
    ), ["bit-order"]  # fmt: skip
    entries: dict[str, Entry] = {}
    pvq = describe(entries, {}, {}, WRITER)
    yield "odd-length", "a length that isn't a multiple of 8, all else right", sealed(
        entries, pvq, b"", 3, multiple=1
    ), ["canonical"]  # fmt: skip
    yield "not-json", "not JSON", framed(text[:-1], b""), []
    yield "not-object", "not an object", framed(b"[" + text + b"]", b""), []
    yield "not-ascii", "a character beyond ASCII", framed(
        canonical(split(EMPTY_FILE)[0]).replace(WRITER, "é").encode(), b""
    ), ["canonical"]  # fmt: skip
    yield "space-before", "a space before the object", framed(b" " + text, b""), ["canonical"]
    yield "space-inside", "a space between tokens", framed(
        text.replace(b'"format":', b'"format": '), b""
    ), ["canonical"]  # fmt: skip
    yield "other-padding", "padding of zeros", framed(text + b" " * (-len(text) % 8 or 8), b"")[
        :-1
    ] + b"\0", ["canonical"]  # fmt: skip
    yield "line-end", "padding with a line end", framed(
        text + b" " * (-len(text) % 8 or 8), b""
    )[:-1] + b"\n", ["canonical"]  # fmt: skip
    yield "escape", "a character escaped for nothing", framed(
        text.replace(b'"format":', b'"\\u0066ormat":'), b""
    ), ["canonical"]  # fmt: skip
    yield "unsorted", "keys out of order", framed(
        b'{"b":' + canonical(split(PLAIN_FILE)[0]["b"]).encode() + b","
        + PLAIN_TEXT[1 : PLAIN_TEXT.index(b',"b":')] + b"}", b"\7",
    ), ["canonical"]  # fmt: skip
    again = b'"b":' + canonical(split(PLAIN_FILE)[0]["b"]).encode()
    yield (
        "twice",
        "a key twice",
        framed(PLAIN_TEXT[:-1] + b"," + again + b"}", b"\7"),
        ["canonical"],
    )
    yield "surrogate", "half a surrogate pair", framed(
        PLAIN_TEXT.replace(b'"b":', b'"\\ud800":'), b"\7"
    ), ["canonical"]  # fmt: skip
    yield "capitals", "an escape with capitals", framed(
        PLAIN_TEXT.replace(b'"b":', b'"\\u00E9":'), b"\7"
    ), ["canonical"]  # fmt: skip
    yield "nan", "NaN isn't JSON", framed(PLAIN_TEXT.replace(b"[1]", b"[NaN]"), b"\7"), []
    yield "fraction", "1.0 isn't the integer 1", _entry(shape=[1.0]), ["canonical"]
    yield "exponent", "1e0 isn't canonical", framed(
        PLAIN_TEXT.replace(b"[1]", b"[1e0]"), b"\7"
    ), ["canonical"]  # fmt: skip


def _entries() -> Broken:
    header, _ = split(PLAIN_FILE)
    for where, value, comment in (
        ("number", 1, "an entry is an object"),
        ("no-dtype", {"shape": [1], "data_offsets": [0, 1]}, "an entry has a type"),
        ("no-shape", {"dtype": "U8", "data_offsets": [0, 1]}, "an entry has a shape"),
        ("no-offsets", {"dtype": "U8", "shape": [1]}, "an entry has offsets"),
        ("another-key", header["b"] | {"more": 0}, "an entry has three keys"),
    ):
        yield f"entry-{where}", comment, framed(header | {"b": value}, b"\7"), []
    for where, change, comment in (
        ("dtype", {"dtype": "U3"}, "an unknown type"),
        ("dtype-number", {"dtype": 8}, "a type is a string"),
        ("shape", {"shape": 1}, "a shape is a list"),
        ("shape-negative", {"shape": [-1, -1]}, "dimensions aren't negative"),
        ("shape-boolean", {"shape": [True]}, "a boolean isn't an integer"),
        ("shape-string", {"shape": ["1"]}, "a string isn't an integer"),
        ("shape-wrong", {"shape": [2]}, "the shape needs more bytes than there are"),
        ("shape-huge", {"shape": [2**32, 2**32, 2]}, "a product beyond 64 bits"),
        ("offsets-one", {"data_offsets": [1]}, "two offsets"),
        ("offsets-three", {"data_offsets": [0, 1, 1]}, "two offsets"),
        ("offsets-back", {"data_offsets": [1, 0]}, "offsets ascend"),
        ("offsets-beyond", {"data_offsets": [1, 2]}, "offsets are within the data"),
        ("offsets-negative", {"data_offsets": [-1, 0]}, "offsets aren't negative"),
    ):
        yield f"entry-{where}", comment, _entry(**change), []
    yield "data-short", "data are missing", PLAIN_FILE[:-1], []
    yield "data-long", "more data than entries", PLAIN_FILE + b"\0", []
    two = {"a": Entry("U8", (1,), b"\1"), "b": Entry("U8", (1,), b"\2")}
    header, body = split(write({}, two, {}, WRITER))
    a, b = header["a"], header["b"]
    swapped = header | {"a": a | {"data_offsets": [1, 2]}, "b": b | {"data_offsets": [0, 1]}}
    yield "entries-swapped", "entries of one size stand by name", framed(swapped, body), ["order"]
    yield "overlap", "two entries in one place", framed(
        header | {"b": b | {"data_offsets": [0, 1]}}, body[:1]
    ), []  # fmt: skip
    hole = header | {"b": b | {"data_offsets": [2, 3]}}
    yield "hole", "a hole between entries", framed(hole, body + b"\0"), []
    sizes = {"a": Entry("U8", (1,), b"\1"), "b": Entry("U16", (1,), b"\2\0")}
    header, body = split(write({}, sizes, {}, WRITER))
    moved = header | {
        "a": header["a"] | {"data_offsets": [0, 1]},
        "b": header["b"] | {"data_offsets": [1, 3]},
    }
    yield "entries-small-first", "larger elements come first", framed(moved, body), ["order"]
    for where, value, comment in (
        ("list", [], "metadata is an object"),
        ("numbers", {"format": "pt", "pvq": 1}, "metadata has strings"),
    ):
        yield f"metadata-{where}", comment, framed({METADATA: value}, b""), []


def cases() -> Iterator[Case]:
    """Yield the cases of broken frames."""
    for where, comment, file, flags in (*_frames(), *_entries()):
        yield Case(
            f"decode_file/header/{where}", "9.1", comment, "decode_file", {"bytes": file.hex()},
            [*flags, "error"], FAULTY,
        )  # fmt: skip
