"""Cases of files whose frame is right but whose contents aren't: one cause each (spec section 11).

MetadataError, VersionError, IntegrityError and PayloadError, and which of them comes first.
"""

import json
import struct
from collections.abc import Iterator
from typing import Any

from pvq_ref.cases.case import FAULTY, Case
from pvq_ref.cases.files import EMPTY_FILE, ONE, PLAIN, SMALL_FILE, WRITER, encoded, framed, split
from pvq_ref.cases.tensors import SIMPLE
from pvq_ref.oracle.container import describe, seal, write
from pvq_ref.oracle.frame import METADATA, Entry, canonical
from pvq_ref.oracle.layout import read_layout

Broken = Iterator[tuple[str, str, bytes, list[str]]]  # name, comment, file, flags

PLAIN_FILE = write({}, PLAIN, {}, WRITER)


def _changed(
    file: bytes = SMALL_FILE, add: dict[str, Entry] | None = None, drop: str = "", **pvq: Any
) -> bytes:
    """Return a sealed file with other entries, or other values in the object `pvq`."""
    entries = dict(_entries_of(file)) | (add or {})
    entries.pop(drop, None)
    tensors = {} if file is not SMALL_FILE else {"a": ONE}
    return seal(entries, describe(entries, tensors, {}, WRITER) | pvq)


def _entries_of(file: bytes) -> Iterator[tuple[str, Entry]]:
    header, body = split(file)
    for name, value in header.items():
        if name != METADATA:
            begin, end = value["data_offsets"]
            yield name, Entry(value["dtype"], tuple(value["shape"]), body[begin:end])


def _outer(file: bytes = EMPTY_FILE, **changes: Any) -> bytes:
    header, body = split(file)
    metadata = header[METADATA] | changes
    return framed(header | {METADATA: {k: v for k, v in metadata.items() if v is not None}}, body)


def _pvq(drop: str = "", **changes: Any) -> bytes:
    """Return the empty file with another object `pvq`, its hash no longer right."""
    pvq = json.loads(split(EMPTY_FILE)[0][METADATA]["pvq"]) | changes
    pvq.pop(drop, None)
    return _outer(pvq=canonical(pvq))


def _metadata() -> Broken:
    text = split(EMPTY_FILE)[0][METADATA]["pvq"]
    yield "no-metadata", "a safetensors file that isn't compressed", framed(b"{}", b""), []
    yield "no-pvq", "a safetensors file that isn't compressed", _outer(pvq=None), []
    yield "no-format", "metadata has the key format", _outer(format=None), []
    yield "other-format", "format is pt", _outer(format="np"), []
    yield "more-metadata", "metadata has two keys", _outer(more=""), []
    yield "pvq-not-json", "pvq is JSON", _outer(pvq="{"), []
    yield "pvq-list", "pvq is an object", _outer(pvq="[]"), []
    yield "pvq-space", "pvq is canonical", _outer(pvq=text + " "), ["canonical"]
    yield (
        "pvq-space-inside",
        "pvq is canonical",
        _outer(pvq=text.replace(":", ": ", 1)),
        ["canonical"],
    )
    yield (
        "pvq-twice",
        "a key twice",
        _outer(pvq=text[:-1] + ',"writer":"' + WRITER + '"}'),
        ["canonical"],
    )
    yield "version-missing", "there is a version", _pvq("format_version"), []
    for where, version in (("string", "1"), ("boolean", True), ("null", None)):
        yield f"version-{where}", "a version is an integer", _pvq(format_version=version), []
    for key in ("writer", "header_sha256", "source_metadata", "sha256", "tensors"):
        yield f"no-{key}", "all keys are there", _pvq(key), []
    yield "another-key", "no other key is there", _changed(EMPTY_FILE, more=0), []
    yield "writer-number", "the writer is a string", _changed(EMPTY_FILE, writer=1), []
    yield "source-null", "source_metadata is an object", _changed(
        EMPTY_FILE, source_metadata=None
    ), []  # fmt: skip
    yield "source-numbers", "source_metadata has strings", _changed(
        EMPTY_FILE, source_metadata={"a": 1}
    ), []  # fmt: skip
    yield "hash-short", "a hash has 64 digits", _pvq(header_sha256="0" * 63), []
    yield "hash-capitals", "digits are lower-case", _pvq(header_sha256="A" * 64), ["canonical"]
    yield "hash-null", "a hash is a string", _pvq(header_sha256=None), []
    yield "sha256-list", "sha256 is an object", _changed(EMPTY_FILE, sha256=[]), []
    yield "sha256-missing", "every entry has a hash", _changed(PLAIN_FILE, sha256={}), []
    hashes = describe(dict(_entries_of(PLAIN_FILE)), {}, {}, "")["sha256"]
    assert isinstance(hashes, dict)
    yield "sha256-more", "no other has one", _changed(
        PLAIN_FILE, sha256=hashes | {"c": "0" * 64}
    ), []  # fmt: skip
    yield "sha256-short", "a hash has 64 digits", _changed(PLAIN_FILE, sha256={"b": "0"}), []
    yield "sha256-number", "a hash is a string", _changed(PLAIN_FILE, sha256={"b": 0}), []
    yield "tensors-list", "tensors is an object", _changed(EMPTY_FILE, tensors=[]), []
    yield "tensor-number", "a tensor is an object", _changed(EMPTY_FILE, tensors={"a": 1}), []


def _tensors() -> Broken:
    layout = read_layout(ONE)
    for part, (dtype, shape) in layout.entries.items():
        name = f"a_{part}"
        yield f"no-{name}", "a tensor has four entries", _changed(drop=name), []
        size = {"U8": 1, "F16": 2, "F32": 4}[dtype]
        other = {"U8": "I8", "F16": "BF16", "F32": "I32"}[dtype]
        same = next(entry for key, entry in _entries_of(SMALL_FILE) if key == name)
        changed = Entry(other, shape, same.data)
        yield f"type-{name}", "entries have the types of the table", _changed(
            add={name: changed}
        ), []  # fmt: skip
        changed = Entry(dtype, (*shape[:-1], shape[-1] + 1), same.data + bytes(
            size * (shape[0] if len(shape) > 1 else 1)))  # fmt: skip
        yield f"size-{name}", "entries have the shapes that follow", _changed(
            add={name: changed}
        ), []  # fmt: skip
    same = next(entry for key, entry in _entries_of(SMALL_FILE) if key == "a_index")
    yield "shape-a_index", "the index sequence has one dimension", _changed(
        add={"a_index": Entry("U8", (1, *same.shape), same.data)}
    ), []  # fmt: skip
    yield "both", "a tensor isn't both compressed and plain", _changed(add={"a": PLAIN["b"]}), []
    for where, change, comment in (
        ("shape", {"shape": [2, 2]}, "sizes follow from the shape"),
        ("huge", {"shape": [2**31, 2**31, 2]}, "a file doesn't have that many rows"),
        ("k", {"k": 1000}, "sizes follow from the pulses"),
        ("k-limit", {"k": 2**31}, "k has a limit"),
        ("n-limit", {"shape": [1, 5000], "n": 4097, "tail_k": 1}, "n has a limit"),
        ("gain-bits", {"gain_bits": 8}, "sizes follow from the gain bits"),
        ("dtype", {"dtype": "I8"}, "weights have a floating type"),
        ("order", {"order": ""}, "orders have names"),
        ("one-dimension", {"shape": [2]}, "a matrix has two dimensions"),
        ("rotation", {"rotation": {"seed": "0", "blocks": []}}, "blocks cover the columns"),
    ):
        yield f"tensor-{where}", comment, _changed(tensors={"a": ONE | change}), []


def _versions() -> Broken:
    for version in (0, 2, -1, 10**20):
        file = _changed(EMPTY_FILE, format_version=version)
        yield f"version-{version}", "this version is 1", file, []
    yield "version-first", "the version comes before what another one may mean", _outer(
        pvq='{"format_version":2,"new":[]}', more=""
    ), ["error-order"]  # fmt: skip


def _hashes() -> Broken:
    yield "header-hash", "the hash of another header", _pvq(header_sha256="0" * 64), ["unchecked"]
    yield (
        "writer-changed",
        "any byte of the header",
        SMALL_FILE.replace(b"vectors", b"Vectors"),
        ["unchecked"],
    )
    n = struct.unpack_from("<Q", SMALL_FILE)[0]
    longer = struct.pack("<Q", n + 8) + SMALL_FILE[8 : 8 + n] + b" " * 8 + SMALL_FILE[8 + n :]
    yield "padding-changed", "padding belongs to the header", longer, ["unchecked"]
    for name, value in split(SMALL_FILE)[0].items():
        if name != METADATA and value["data_offsets"][1] > value["data_offsets"][0]:
            data = bytearray(SMALL_FILE)
            data[8 + n + value["data_offsets"][0]] ^= 1
            yield f"{name}-changed", "any byte of an entry", bytes(data), ["unchecked"]
    yield "plain-changed", "any byte of a plain tensor", PLAIN_FILE[:-1] + b"\6", ["unchecked"]
    both = write({"a": encoded(ONE)}, {"b": Entry("F64", (1,), bytes(8))}, {}, WRITER)
    changed = bytearray(both)
    changed[8 + struct.unpack_from("<Q", both)[0]] ^= 1  # F64 comes first
    yield (
        "plain-beside-changed",
        "a plain tensor beside a compressed one",
        bytes(changed),
        ["unchecked"],
    )


def _payloads() -> Broken:
    tail = SIMPLE | {"shape": [1, 6], "n": 4, "k": 3, "tail_k": 3, "gain_bits": 1}
    for where, item, part, data, comment in (
        ("index-above", ONE | {"k": 3}, "index", b"\x0c", "an index is below V(2,3) = 12"),
        ("index-padding", ONE, "index", b"\x04", "padding bits are 0"),
        ("tail-above", tail, "index", struct.pack("<H", 12 << 7), "a tail's index is below 12"),
        ("gain-padding", tail, "gain", b"\x04", "padding bits are 0"),
        ("norm-infinite", ONE, "row_norm", b"\x00\x7c", "norms are finite"),
        ("norm-nan", ONE, "row_norm", b"\x01\x7c", "norms are finite"),
        ("norm-negative", ONE, "row_norm", b"\x00\xbc", "norms have no sign"),
        ("norm-minus-zero", ONE, "row_norm", b"\x00\x80", "norms have no sign"),
        ("levels-infinite", ONE, "levels", b"\x00\x00\x80\x7f", "levels are finite"),
        ("levels-nan", ONE, "levels", b"\x00\x00\xc0\x7f", "levels are finite"),
        ("levels-descend", tail, "levels", struct.pack("<4f", 0, 1, 1, 0.5), "levels ascend"),
    ):
        parts, item = encoded(item)
        entries = {
            f"a_{name}": Entry(dtype, shape, data if name == part else parts[name])
            for name, (dtype, shape) in read_layout(item).entries.items()
        }
        yield (
            where,
            comment,
            seal(entries, describe(entries, {"a": item}, {}, WRITER)),
            ["unchecked"],
        )


def _orders() -> Broken:
    flags = ["error-order"]
    yield "frame-before-version", "a frame comes before the version", framed(
        canonical(split(_changed(EMPTY_FILE, format_version=2))[0]).replace(":", ": ", 1).encode(),
        b"",
    ), flags  # fmt: skip
    yield "pvq-before-format", "the JSON of pvq comes before other keys", _outer(
        pvq="{", format="np"
    ), flags  # fmt: skip
    yield "keys-before-hash", "keys come before the header's hash", _pvq(writer=1), flags
    yield "hash-before-tensors", "the header's hash comes before tensors", _pvq(
        tensors={"a": 1}
    ), flags  # fmt: skip
    yield "hash-before-sha256", "the header's hash comes before sha256", _pvq(sha256=[]), flags
    data = bytearray(_changed(PLAIN_FILE, tensors={"a": ONE}))
    data[-1] ^= 1
    yield "tensors-before-data", "tensors come before the hashes of data", bytes(data), flags
    parts, item = encoded(ONE)
    entries = dict(_entries_of(SMALL_FILE)) | {"a_row_norm": Entry("F16", (1,), b"\x00\x7c")}
    file = bytearray(seal(entries, describe(entries, {"a": item}, {}, WRITER)))
    file[-1] ^= 1
    assert parts
    yield "data-before-payload", "hashes come before the payload", bytes(file), flags


def cases() -> Iterator[Case]:
    """Yield the cases of broken contents."""
    for kind, section, some in (
        ("metadata", "9.3", _metadata()),
        ("metadata", "9.2", _tensors()),
        ("version", "9.3", _versions()),
        ("hash", "9.4", _hashes()),
        ("payload", "8.5", _payloads()),
        ("first", "11", _orders()),
    ):
        for where, comment, file, flags in some:
            number = "9.3" if where.startswith("tensor-") else section
            yield Case(
                f"decode_file/{kind}/{where}", number, comment, "decode_file",
                {"bytes": file.hex()}, [*flags, "error"], FAULTY,
            )  # fmt: skip
