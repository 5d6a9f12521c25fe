"""The oracle's files (spec sections 9, 11 and 12)."""

import hashlib
import json
import struct

import pytest
import safetensors

from pvq_ref.errors import (
    CapacityError,
    DomainError,
    HeaderError,
    IntegrityError,
    MetadataError,
    PayloadError,
    VersionError,
)
from pvq_ref.oracle import frame, rank
from pvq_ref.oracle.container import decode_file, describe, header_hash, read, seal, write
from pvq_ref.oracle.frame import Entry, offsets
from pvq_ref.oracle.packing import pack
from pvq_ref.oracle.rotation import plan
from pvq_ref.oracle.tensor import decode, round_all

SOURCE = {"origin": "a model with a ü"}


def encoded(dtype="F32", gain_bits=2, rotate=False):
    """A 3 × 4 tensor in groups of two: (parts, metadata object)."""
    vectors = [(3, 0), (-1, 2), (0, -3), (2, 1), (1, -2), (-3, 0)]
    parts = {
        "index": pack([rank(y) for y in vectors], 4),
        "row_norm": struct.pack("<3e", 1.5, 0.0, 20000.0),
        "levels": struct.pack(f"<{2**gain_bits}f", *(i / 2 + 0.25 for i in range(2**gain_bits))),
    }
    parts["gain"] = pack([i % 2**gain_bits for i in range(6)], gain_bits)
    blocks = [vars(block) for block in plan(4)]
    item = {
        "shape": [3, 4], "dtype": dtype, "n": 2, "k": 3, "tail_k": 0, "order": "fischer",
        "block": 0, "gain_bits": gain_bits, "levels": "lloyd-max", "norm_exponent": -14,
        "rotation": {"seed": "18446744073709551615", "blocks": blocks} if rotate else None,
    }  # fmt: skip
    return parts, item


def whole():
    """The arguments of `write` for a file with every kind of tensor."""
    compressed = {
        "b.weight": encoded(),
        "a.weight": encoded("BF16", 0, rotate=True),
        "é": encoded("F64", 8),
    }
    plain = {
        "norm": Entry("BF16", (3,), bytes(range(6))),
        "Z": Entry("F64", (), bytes(8)),
        "mask": Entry("BOOL", (2, 2), b"\0\1\1\0"),
        "empty": Entry("F32", (0, 7), b""),
    }
    return compressed, plain, SOURCE


def split(data):
    """(header object, data behind it) of a file, by hand."""
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def framed(header, body, pad=8):
    """A file of a header object, which may break any rule, and its data."""
    text = header if isinstance(header, bytes) else compact(header).encode()
    text += b" " * (-len(text) % pad)
    return struct.pack("<Q", len(text)) + text + body


def compact(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


FILE = write(*whole())


# Writing


def test_round_trip():
    compressed, plain, source = whole()
    container = read(FILE)
    assert container.metadata["source_metadata"] == source
    assert container.metadata["writer"] == "pvq_ref.oracle"
    for name, (parts, item) in compressed.items():
        assert container.parts(name) == parts
        assert container.metadata["tensors"][name] == item
    for name, entry in plain.items():
        assert container.entries[name] == entry


def test_decode_file():
    compressed, plain, _ = whole()
    got = decode_file(FILE)
    assert set(got) == set(compressed) | set(plain)
    for name, (parts, item) in compressed.items():
        values = [value for row in decode(parts, item) for value in row]
        assert got[name] == (item["dtype"], (3, 4), round_all(values, item["dtype"]))
    for name, entry in plain.items():
        assert got[name] == (entry.dtype, entry.shape, entry.data)


def test_frame_by_hand():
    header, body = split(FILE)
    (length,) = struct.unpack_from("<Q", FILE)
    text = FILE[8 : 8 + length]
    assert length % 8 == 0
    assert text.decode("ascii").rstrip(" ") == compact(header)
    assert header["__metadata__"]["format"] == "pt"
    del header["__metadata__"]
    size = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "U8": 1, "BOOL": 1}
    ref = sorted(header, key=lambda name: (-size[header[name]["dtype"]], name))
    offsets = [header[name]["data_offsets"] for name in ref]
    assert offsets == sorted(offsets)
    assert [begin for begin, _ in offsets] == [0] + [end for _, end in offsets[:-1]]
    assert offsets[-1][1] == len(body)
    assert ref[0] == "Z"
    assert header["a.weight_gain"]["shape"] == [0]
    assert header["b.weight_levels"]["shape"] == [1, 4]
    assert header["b.weight_row_norm"] == {
        "dtype": "F16", "shape": [3], "data_offsets": header["b.weight_row_norm"]["data_offsets"]
    }  # fmt: skip


def test_safetensors_reads_the_file():
    """The library of the format is a third opinion."""
    got = dict(safetensors.deserialize(FILE))
    entries = read(FILE).entries
    assert set(got) == set(entries)
    for name, entry in entries.items():
        assert got[name]["dtype"] == entry.dtype
        assert tuple(got[name]["shape"]) == entry.shape
        assert bytes(got[name]["data"]) == entry.data


def test_hashes_by_hand():
    header, body = split(FILE)
    pvq = json.loads(header["__metadata__"]["pvq"])
    (length,) = struct.unpack_from("<Q", FILE)
    digits = pvq["header_sha256"].encode()
    assert FILE.count(digits) == 1
    ref = hashlib.sha256(FILE[: 8 + length].replace(digits, b"0" * 64)).hexdigest()
    assert pvq["header_sha256"] == ref
    for name, digest in pvq["sha256"].items():
        begin, end = header[name]["data_offsets"]
        assert digest == hashlib.sha256(body[begin:end]).hexdigest()
    assert set(pvq["sha256"]) == set(header) - {"__metadata__"}


def test_files_without_compressed_or_without_plain_tensors():
    compressed, plain, _ = whole()
    assert set(decode_file(write({}, plain, {}))) == set(plain)
    assert set(decode_file(write(compressed, {}, {}))) == set(compressed)
    assert decode_file(write({}, {}, {})) == {}


@pytest.mark.parametrize("name", ["x", "x_index", "x_gain", "__metadata__"])
def test_names_must_differ(name):
    with pytest.raises(DomainError, match="names must be free"):
        write({"x": encoded("F32", 0)}, {name: Entry("U8", (0,), b"")}, {})


def test_writing_what_breaks_the_spec():
    parts, item = encoded()
    with pytest.raises(MetadataError):
        write({"x": (parts, {**item, "k": 0})}, {}, {})
    with pytest.raises(PayloadError):
        write({"x": ({**parts, "row_norm": b"\0\xff" * 3}, item)}, {}, {})


# 9.1: HeaderError


def header_without(name):
    header, body = split(FILE)
    del header[name]
    return framed(header, body)


def header_with(name, **changes):
    header, body = split(FILE)
    header[name] = {**header[name], **changes}
    return framed(header, body)


def reordered():
    """Two entries of one type that have changed places in the data."""
    entries = {"a": Entry("U8", (1,), b"a"), "b": Entry("U8", (1,), b"b")}
    header, body = split(seal(entries, describe(entries, {}, {}, "")))
    header["a"]["data_offsets"], header["b"]["data_offsets"] = [1, 2], [0, 1]
    return framed(header, body)


def overlapping():
    header, body = split(FILE)
    header["again"] = header["Z"]
    return framed(header, body)


def text_of(data):
    (length,) = struct.unpack_from("<Q", data)
    return data[8 : 8 + length].rstrip(b" "), data[8 + length :]


TEXT, BODY = text_of(FILE)
BAD_HEADERS = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "no header": b"\0" * 8,
    "length beyond the file": struct.pack("<Q", 64) + b"{}" + b" " * 6,
    "greatest length": b"\xff" * 8 + FILE[8:],
    "length not a multiple of eight": framed(b"{} ", b"", pad=1),
    "not JSON": framed(b"[1,", b""),
    "not an object": framed(b"[]", b""),
    "not ASCII": framed('{"é":1}'.encode(), b""),
    "spaces": framed(TEXT.replace(b'":', b'": ', 1), BODY),
    "leading space": framed(b" " + TEXT, BODY),
    "another escape": framed(TEXT.replace(b'"norm":', b'"\\u006eorm":'), BODY),
    "keys not sorted": framed(b'{"b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', b""),
    "repeated key": framed(b'{"a":{},"a":{}}', b""),
    "NaN": framed(b'{"a":NaN}', b""),
    "half a surrogate pair": framed(b'{"\\ud800":{}}', b""),
    "deep": framed(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", b""),
    "huge number": framed(b'{"a":' + b"1" * 5000 + b"}", b""),
    "entry not an object": framed(b'{"a":1}', b""),
    "entry lacks a key": framed(b'{"a":{"dtype":"U8","shape":[0]}}', b""),
    "unknown dtype": header_with("mask", dtype="U3"),
    "dtype not a string": header_with("mask", dtype=1),
    "shape not a list": header_with("mask", shape=4),
    "negative shape": header_with("mask", shape=[-2, -2]),
    "boolean shape": header_with("mask", shape=[True, 4]),
    "shape not of integers": header_with("mask", shape=[2.0, 2.0]),
    "shape of another size": header_with("mask", shape=[2, 3]),
    "three offsets": header_with("mask", data_offsets=[0, 1, 2]),
    "offsets backwards": header_with("empty", data_offsets=[8, 4], shape=[0]),
    "offset beyond the file": header_with("mask", data_offsets=[len(BODY), len(BODY) + 4]),
    "hole": header_without("norm"),
    "data missing": FILE[:-1],
    "data too long": FILE + b"\0",
    "order": reordered(),
    "overlap": overlapping(),
    "metadata not an object": framed(b'{"__metadata__":[]}', b""),
    "metadata not of strings": framed(b'{"__metadata__":{"format":1,"pvq":"{}"}}', b""),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_files_that_are_not_safetensors_or_not_canonical(name):
    with pytest.raises(HeaderError):
        read(BAD_HEADERS[name])


def test_a_header_beyond_the_limit(monkeypatch):
    assert frame.LARGEST_HEADER == 100_000_000
    monkeypatch.setattr(frame, "LARGEST_HEADER", len(FILE) - len(BODY) - 16)
    with pytest.raises(HeaderError, match="the header's length must be"):
        read(FILE)


# 9.2, 9.3: MetadataError and VersionError


def changed(entries=None, drop=(), **changes):
    """A sealed file whose object `pvq` has other values; hashes of all entries are right."""
    container = read(FILE)
    found = {k: v for k, v in {**container.entries, **(entries or {})}.items() if k not in drop}
    metadata = describe(found, container.metadata["tensors"], SOURCE, "test")
    return seal(found, {**metadata, **changes})


def tensor_changed(name="b.weight", **changes):
    tensors = dict(read(FILE).metadata["tensors"])
    tensors[name] = {**tensors[name], **changes}
    return changed(tensors=tensors)


def outer_changed(**changes):
    header, body = split(FILE)
    header["__metadata__"] = {**header["__metadata__"], **changes}
    return framed(header, body)


def hashes_changed(**changes):
    return changed(sha256={**read(FILE).metadata["sha256"], **changes})


def lacking(key):
    header, _ = split(FILE)
    pvq = json.loads(header["__metadata__"]["pvq"])
    del pvq[key]
    return outer_changed(pvq=compact(pvq))


def with_hash(digits):
    header, _ = split(FILE)
    pvq = json.loads(header["__metadata__"]["pvq"])
    return outer_changed(pvq=compact({**pvq, "header_sha256": digits}))


BAD_METADATA = {
    "no metadata": framed(b"{}", b""),
    "no pvq": framed(b'{"__metadata__":{"format":"pt"}}', b""),
    "another format": outer_changed(format="np"),
    "another string": outer_changed(more="x"),
    "pvq not JSON": outer_changed(pvq="{"),
    "pvq not an object": outer_changed(pvq="[]"),
    "pvq not canonical": outer_changed(pvq=split(FILE)[0]["__metadata__"]["pvq"] + " "),
    "version missing": lacking("format_version"),
    "version not an integer": changed(format_version="1"),
    "version a boolean": changed(format_version=True),
    "another key": changed(more=1),
    **{f"{key} missing": lacking(key) for key in
       ("writer", "header_sha256", "source_metadata", "sha256", "tensors")},
    "writer not a string": changed(writer=1),
    "source_metadata not of strings": changed(source_metadata={"a": 1}),
    "source_metadata null": changed(source_metadata=None),
    "header_sha256 short": with_hash("0" * 63),
    "header_sha256 in capitals": with_hash("A" * 64),
    "sha256 not an object": changed(sha256=[]),
    "sha256 not of hashes": hashes_changed(norm="x"),
    "sha256 of an entry that is missing": hashes_changed(other="0" * 64),
    "sha256 lacks an entry": changed(sha256={}),
    "tensors not an object": changed(tensors=[]),
    "tensor not an object": changed(tensors={"b.weight": 1}),
    "tensor without entries": changed(tensors={**read(FILE).metadata["tensors"],
                                               "none": encoded()[1]}),
    "entry missing": changed(drop=["b.weight_levels"]),
    "entry of another type": changed({"b.weight_index": Entry("I8", (3,), bytes(3))}),
    "entry of another shape": changed({"b.weight_index": Entry("U8", (1, 3), bytes(3))}),
    "entry of another size": changed({"b.weight_index": Entry("U8", (4,), bytes(4))}),
    "no gain entry without gain bits": changed(drop=["a.weight_gain"]),
    "name taken twice": changed({"a.weight": Entry("U8", (0,), b"")}),
    "k changed": tensor_changed(k=4000),
    "k beyond the limit": tensor_changed(k=2**31),
    "n beyond the limit": tensor_changed(n=4097),
    "gain bits changed": tensor_changed(gain_bits=1),
    "shape changed": tensor_changed(shape=[4, 3]),
    "huge shape": tensor_changed(shape=[2**62, 2**62]),
    "unknown dtype": tensor_changed(dtype="I8"),
    "rotation of other columns": tensor_changed(
        "a.weight", rotation={"seed": "0", "blocks": [vars(block) for block in plan(8)]}),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_METADATA)
def test_metadata_that_breaks_the_spec(name):
    with pytest.raises(MetadataError):
        read(BAD_METADATA[name])


@pytest.mark.parametrize("version", [0, 2, -1, 10**20])
def test_other_versions(version):
    with pytest.raises(VersionError, match=f"format_version must be 1, got {version}"):
        read(changed(format_version=version))


def test_the_version_comes_first():
    with pytest.raises(VersionError):
        read(outer_changed(pvq='{"format_version":2,"new":[]}'))


# 9.4: IntegrityError


def test_a_changed_byte_of_the_header():
    assert b'"n\\":2' in FILE
    for old, new in ((b"lloyd-max", b"lloyd-mix"), (b'"n\\":2', b'"n\\":4')):
        with pytest.raises(IntegrityError, match="header_sha256 must be"):
            read(FILE.replace(old, new))


@pytest.mark.parametrize("position", [0, 3, -1])
def test_a_changed_byte_of_the_data(position):
    data = bytearray(FILE)
    data[position if position < 0 else len(FILE) - len(BODY) + position] ^= 1
    with pytest.raises(IntegrityError, match="sha256 of"):
        read(bytes(data))


@pytest.mark.parametrize("position", range(0, len(FILE), 37))
def test_no_changed_byte_goes_unseen(position):
    data = bytearray(FILE)
    data[position] ^= 4
    with pytest.raises((HeaderError, MetadataError, VersionError, IntegrityError)):
        read(bytes(data))


# 11: PayloadError, with all hashes right


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("b.weight_index", pack([12, 0, 0, 0, 0, 0], 4)),  # V(2,3) = 12
        ("b.weight_gain", b"\0\x10"),
        ("b.weight_row_norm", struct.pack("<3e", 1, -1, 0)),
        ("b.weight_row_norm", struct.pack("<3e", 1, float("nan"), 0)),
        ("b.weight_levels", struct.pack("<4f", 0, 2, 1, 3)),
        ("b.weight_levels", struct.pack("<4f", 0, 1, 2, float("inf"))),
    ],
)
def test_payloads_outside_their_range(name, data):
    entry = read(FILE).entries[name]
    file = changed({name: Entry(entry.dtype, entry.shape, data)})
    with pytest.raises(PayloadError):
        read(file)
    with pytest.raises(PayloadError):
        decode_file(file)


def test_a_group_too_large_for_a_table_is_refused():
    """Within the limits of section 12, but not within the memory of this program."""
    parts, item = encoded("F32", 0)
    item = {**item, "shape": [1, 64], "n": 64, "k": 2**31 - 1}
    width = 1728
    parts = {**parts, "index": bytes(width // 8), "row_norm": bytes(2)}
    file = write({"x": (parts, item)}, {}, {})
    assert read(file).layouts["x"].n == 64
    with pytest.raises(CapacityError, match="must fit"):
        decode_file(file)


def test_more_padding_is_accepted_and_hashed():
    entries, metadata = read(FILE).entries, read(FILE).metadata
    length = len(TEXT) + 24 - len(TEXT) % 8
    sealed = {**metadata, "header_sha256": header_hash(entries, metadata, length)}
    outer = {"format": "pt", "pvq": compact(sealed)}
    text = compact({"__metadata__": outer, **offsets(entries)}).encode()
    assert read(framed(text.ljust(length), BODY)).entries == entries
    with pytest.raises(IntegrityError):
        read(framed(text.ljust(length + 8), BODY))
