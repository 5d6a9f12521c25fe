"""One safetensors file: reader and writer against the safetensors package (spec section 9.1)."""

import json
import random
import struct
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.numpy import load_file, save_file

from pvq_ref.container import (
    BITS,
    MAX_HEADER,
    NUMPY_TYPES,
    Entry,
    Header,
    Reader,
    Writer,
    canonical_json,
    header_bytes,
    layout,
    parse_json,
    read_header,
)
from pvq_ref.errors import HeaderError
from tests.models import frame, header_length, raw, split

# The packages's own words for the types that it knows, out of its message about one it doesn't.
UNKNOWN = frame({"a": {"dtype": "?", "shape": [0], "data_offsets": [0, 0]}})


def random_bytes(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def write(path, tensors, metadata=None):
    """Write {name: (type, shape, bytes)} with the code under test."""
    entries = layout((name, dtype, shape) for name, (dtype, shape, _) in tensors.items())
    head = header_bytes(entries, metadata or {})
    with Writer(path, entries, len(head)) as writer:
        for name, (_, _, content) in tensors.items():
            writer.write(name, [content])
        writer.finish(head)
    return path


def one_of_each_type():
    shapes = {"F4": (2, 6), "F6_E2M3": (2, 4), "F6_E3M2": (4, 1)}
    tensors = {}
    for seed, (dtype, bits) in enumerate(BITS.items()):
        shape = shapes.get(dtype, (3, 5))
        content = random_bytes(np.prod(shape) * bits // 8, seed)
        content = content & 1 if dtype == "BOOL" else content
        tensors[f"t.{dtype}"] = (dtype, shape, content.tobytes())
    return tensors


# Writing, judged by the package


def test_our_types_are_those_of_the_package():
    with pytest.raises(SafetensorError) as raised:
        deserialize(UNKNOWN)
    ref = str(raised.value).split("expected one of ")[1].split(" at line")[0]
    assert {f"`{name}`" for name in BITS} == set(ref.split(", "))


def test_the_package_reads_the_bytes_of_every_type_we_write(tmp_path):
    ref = one_of_each_type()
    path = write(tmp_path / "a.safetensors", ref)
    assert raw(path) == ref


@pytest.mark.parametrize(
    "dtype", ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8"]
)
def test_the_package_loads_the_values_we_write(tmp_path, dtype):
    ref = random_bytes(8 * 15).view("u1" if dtype == "bool" else dtype)[:15].reshape(3, 5)
    ref = ref.astype(bool) if dtype == "bool" else ref
    name = {np.dtype(one): name for name, one in NUMPY_TYPES.items()}[ref.dtype]
    path = write(tmp_path / "a.safetensors", {"x": (name, ref.shape, ref.tobytes())})
    got = load_file(path)["x"]
    assert got.dtype == ref.dtype
    assert got.tobytes() == ref.tobytes()
    assert got.shape == ref.shape


def test_the_package_reads_scalars_empty_tensors_and_metadata(tmp_path):
    ref = {
        "scalar": ("F64", (), struct.pack("<d", 2.5)),
        "empty": ("BF16", (0, 7), b""),
        "no columns": ("I8", (3, 0), b""),
        'é\n"\\\x00': ("U8", (1,), b"\1"),
    }
    path = write(tmp_path / "a.safetensors", ref, {"format": "pt", "ü": '{"a":"\\u00e9"}'})
    assert raw(path) == ref
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt", "ü": '{"a":"\\u00e9"}'}


def test_a_file_without_tensors_is_read_by_both(tmp_path):
    path = write(tmp_path / "a.safetensors", {})
    assert raw(path) == {}
    assert read_header(path).entries == {}


def test_arrays_that_are_not_contiguous_are_written_in_index_order(tmp_path):
    ref = np.arange(24, dtype=np.float32).reshape(4, 6)
    entries = layout([("t", "F32", (6, 4)), ("s", "F32", (2, 3))])
    head = header_bytes(entries, {})
    with Writer(tmp_path / "a", entries, len(head)) as writer:
        writer.write("t", [ref.T[:2], ref.T[2:]])
        writer.write("s", [ref[::2, ::2]])
        writer.finish(head)
    assert np.array_equal(load_file(tmp_path / "a")["t"], ref.T)
    assert np.array_equal(load_file(tmp_path / "a")["s"], ref[::2, ::2])


def test_room_that_was_kept_for_the_header_is_filled_with_spaces(tmp_path):
    entries = layout([("x", "U8", (3,))])
    head = header_bytes(entries, {}, size=400)
    with Writer(tmp_path / "a", entries, 400) as writer:
        writer.write("x", [b"abc"])
        writer.finish(head)
    assert len(head) == 400
    assert raw(tmp_path / "a") == {"x": ("U8", (3,), b"abc")}
    assert read_header(tmp_path / "a").data_start == 400


def test_a_writer_never_replaces_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        write(tmp_path / "a", {})
    assert (tmp_path / "a").read_bytes() == b"precious"


# The canonical form


def test_the_header_is_canonical(tmp_path):
    content = write(tmp_path / "a", one_of_each_type(), {"z": "é", "a": "b"}).read_bytes()
    text = content[8 : header_length(content)]
    header, _ = split(content)
    ref = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    assert text == ref + b" " * (-len(ref) % 8)


def test_entries_stand_by_size_of_element_then_by_code_points():
    wanted = [("b", "U8", (1,)), ("a", "F32", (1,)), ("é", "U8", (1,)), ("Z", "I8", (1,)),
              ("z", "F64", (1,)), ("aa", "F32", (1,))]  # fmt: skip
    assert list(layout(wanted)) == ["z", "a", "aa", "Z", "b", "é"]


def test_bytes_do_not_depend_on_the_order_of_the_tensors(tmp_path):
    tensors, metadata = one_of_each_type(), {"a": "1", "b": "2", "c": "3"}
    ref = write(tmp_path / "ref", tensors, metadata).read_bytes()
    for turn in range(3):
        names, keys = list(tensors), list(metadata)
        random.Random(turn).shuffle(names)
        random.Random(turn).shuffle(keys)
        shuffled = {name: tensors[name] for name in names}
        got = write(tmp_path / f"{turn}", shuffled, {key: metadata[key] for key in keys})
        assert got.read_bytes() == ref


def test_data_begin_at_a_multiple_of_eight():
    for length in range(1, 20):
        head = header_bytes(layout([("x" * length, "U8", (1,))]), {})
        assert len(head) % 8 == 0
        assert struct.unpack_from("<Q", head)[0] == len(head) - 8


# Reading what the package wrote


def test_the_reader_equals_what_the_package_wrote(tmp_path):
    ref = {
        name: random_bytes(8 * 15, seed).view(dtype)[:15].reshape(3, 5)
        for seed, (name, dtype) in enumerate(NUMPY_TYPES.items())
        if dtype.kind != "b" and not name.startswith("F8")
    }
    ref |= {"b": np.array([True, False]), "s": np.array(7.5), "e": np.zeros((0, 3), np.int16)}
    save_file(ref, tmp_path / "a", {"format": "np"})
    with Reader(tmp_path / "a") as reader:
        assert reader.header.metadata == {"format": "np"}
        assert set(reader.header.entries) == set(ref)
        for name, array in ref.items():
            got = reader.read(name)
            assert (got.dtype, got.shape) == (array.dtype, array.shape)
            assert got.tobytes() == array.tobytes()


def test_the_reader_knows_eight_bit_floats(tmp_path):
    one = frame({"x": {"dtype": "F8_E4M3", "shape": [3], "data_offsets": [0, 3]}}, b"\x38\xb8\x7e")
    (tmp_path / "a").write_bytes(one)
    with Reader(tmp_path / "a") as reader:
        got = reader.read("x")
    assert got.dtype == ml_dtypes.float8_e4m3fn
    assert got.astype(float).tolist() == [1.0, -1.0, 448.0]


def test_types_that_numpy_lacks_are_refused_by_name(tmp_path):
    (tmp_path / "a").write_bytes(
        frame({"x": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, b"a")
    )
    with Reader(tmp_path / "a") as reader, pytest.raises(HeaderError, match=r"'x'.*F4"):
        reader.read("x")


def test_unsorted_and_unaligned_files_are_read(tmp_path):
    header = {
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
        "__metadata__": {},
        "c": {"dtype": "F64", "shape": [], "data_offsets": [9, 17]},
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "none": {"dtype": "F64", "shape": [0, 3], "data_offsets": [9, 9]},
    }
    data = b"\x07" + struct.pack("<2fd", 1.5, -2.5, 3.5)
    text = json.dumps(header, indent=1).encode() + b"\n\t "
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(text)) + text + data)
    assert raw(tmp_path / "a")["b"] == ("F32", (2,), data[1:9])  # the package takes it too
    with Reader(tmp_path / "a") as reader:
        got = {name: reader.read(name).tolist() for name in reader.header.entries}
        assert reader.read_rows("b", 0, 1).tolist() == [[1.5, -2.5]]
    assert got == {"a": [7], "b": [1.5, -2.5], "c": 3.5, "none": []}


def test_entries_come_in_the_order_of_their_data(tmp_path):
    header = {
        name: {"dtype": "U8", "shape": [1], "data_offsets": [place, place + 1]}
        for name, place in (("a", 2), ("b", 0), ("c", 1))
    }
    (tmp_path / "a").write_bytes(frame(header, b"bca"))
    assert list(read_header(tmp_path / "a").entries) == ["b", "c", "a"]


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 4), (1, 1)])
def test_rows_are_slices_of_the_matrix(tmp_path, shape):
    whole = np.random.default_rng(0).standard_normal(shape).astype(np.float16)
    save_file({"first": np.zeros(3, np.float16), "x": whole}, tmp_path / "a")
    ref = whole.reshape(-1, shape[-1])
    with Reader(tmp_path / "a") as reader:
        for start in range(len(ref)):
            for stop in range(start, len(ref) + 1):
                assert np.array_equal(reader.read_rows("x", start, stop), ref[start:stop])


@pytest.mark.parametrize("size", [1, 7, 120, 1000])
def test_chunks_join_to_the_data(tmp_path, size):
    ref = random_bytes(120)
    save_file({"x": ref, "y": ref[::-1].copy()}, tmp_path / "a")
    with Reader(tmp_path / "a") as reader:
        assert b"".join(chunk.tobytes() for chunk in reader.chunks("x", size)) == ref.tobytes()


def test_a_file_that_shrinks_while_it_is_read_is_a_header_error(tmp_path):
    save_file({"x": random_bytes(5000)}, tmp_path / "a")
    with Reader(tmp_path / "a") as reader:
        with (tmp_path / "a").open("r+b") as file:
            file.truncate(1000)
        with pytest.raises(HeaderError, match="must not change while it is read"):
            reader.read("x")


# Broken headers


def entry(dtype="U8", shape=(4,), offsets=(0, 4), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def text(content):
    return struct.pack("<Q", len(content)) + content


HUGE = 2**62
BROKEN = {
    "empty": b"",
    "seven bytes": bytes(7),
    "no header": bytes(8),
    "length beyond the file": struct.pack("<Q", 9) + b"{}      ",
    "length beyond the limit": struct.pack("<Q", MAX_HEADER + 1) + b"{}",
    "length of 2^63": struct.pack("<Q", 2**63) + b"{}",
    "greatest length": b"\xff" * 8 + b"{}",
    "cut in the header": frame({"x": entry()}, b"abcd")[:40],
    "cut in the data": frame({"x": entry()}, b"abc"),
    "data too long": frame({"x": entry()}, b"abcde"),
    "data without entries": frame({}, b"a"),
    "spaces only": text(b" " * 8),
    "leading space": text(b" {}"),
    "byte order mark": text(b"\xef\xbb\xbf{}"),
    "UTF-16": text("{}".encode("utf-16-le")),
    "UTF-16 of the other kind": text("{}".encode("utf-16-be")),
    "UTF-32": text("{}".encode("utf-32-le")),
    "not UTF-8": text(b'{"__metadata__":{"a":"\xff"}}'),
    "half a surrogate pair": text(b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "not JSON": text(b"{not JSON}"),
    "two values": text(b"{}{}"),
    "open string": text(b'{"a'),
    "a list": frame(b"[]"),
    "a string": frame(b'"a"'),
    "null": frame(b"null"),
    "a number": frame(b"1"),
    "repeated entry": text(
        b'{"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
        b'"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    ),
    "repeated key": frame(b'{"x":{"dtype":"U8","dtype":"I8","shape":[0],"data_offsets":[0,0]}}'),
    "repeated key of the metadata": frame(b'{"__metadata__":{"a":"b","a":"b"}}'),
    "NaN": frame(b'{"x":NaN}'),
    "NaN in a shape": frame(b'{"x":{"dtype":"U8","shape":[NaN],"data_offsets":[0,0]}}'),
    "Infinity": frame(b'{"x":{"dtype":"U8","shape":[0],"data_offsets":[0,Infinity]}}'),
    "-Infinity": frame(b'{"x":{"dtype":"U8","shape":[0],"data_offsets":[-Infinity,0]}}'),
    "overflow to infinity": frame(b'{"x":{"dtype":"U8","shape":[0],"data_offsets":[0,1e999]}}'),
    "deep lists": text(b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "deep objects": text(b'{"x":' * 200_000 + b"1" + b"}" * 200_000),
    "open deep lists": text(b'{"x":' + b"[" * 200_000),
    "a number of 5000 digits": frame(b'{"x":' + b"1" * 5000 + b"}"),
    "metadata of a number": frame({"__metadata__": {"a": 1}}),
    "metadata of null": frame({"__metadata__": {"a": None}}),
    "metadata of an object": frame({"__metadata__": {"a": {}}}),
    "metadata as a list": frame({"__metadata__": ["a"]}),
    "metadata as a string": frame({"__metadata__": "a"}),
    "entry is a list": frame({"x": []}),
    "entry is null": frame({"x": None}),
    "entry is a string": frame({"x": "U8"}),
    "no dtype": frame({"x": {"shape": [0], "data_offsets": [0, 0]}}),
    "no shape": frame({"x": {"dtype": "U8", "data_offsets": [0, 0]}}),
    "no offsets": frame({"x": {"dtype": "U8", "shape": [0]}}),
    "unknown dtype": frame({"x": entry("U3")}, b"abcd"),
    "dtype of another case": frame({"x": entry("u8")}, b"abcd"),
    "dtype is a number": frame({"x": entry(8)}, b"abcd"),
    "dtype is a list": frame({"x": entry(["U8"])}, b"abcd"),
    "dtype is null": frame({"x": entry(None)}, b"abcd"),
    "shape is a number": frame({"x": {**entry(), "shape": 4}}, b"abcd"),
    "shape is an object": frame({"x": {**entry(), "shape": {"4": 1}}}, b"abcd"),
    "shape is null": frame({"x": {**entry(), "shape": None}}, b"abcd"),
    "shape of floats": frame({"x": entry(shape=[4.0])}, b"abcd"),
    "shape of booleans": frame({"x": entry(shape=[True, 4])}, b"abcd"),
    "shape of strings": frame({"x": entry(shape=["4"])}, b"abcd"),
    "negative shape": frame({"x": entry(shape=[-4])}, b"abcd"),
    "two negative sizes": frame({"x": entry(shape=[-2, -2])}, b"abcd"),
    "shape of 2^63": frame({"x": entry(shape=[2**63, 0], offsets=(0, 0))}),
    "shape of another size": frame({"x": entry(shape=[5])}, b"abcd"),
    "shape that overflows 64 bits to the right size": frame(
        {"x": entry(shape=[HUGE, 4], offsets=(0, 0))}
    ),
    "shape and type that overflow 64 bits": frame(
        {"x": entry("F64", shape=[2**61], offsets=(0, 0))}
    ),
    "too many dimensions": frame({"x": entry(shape=[1] * 5000 + [4])}, b"abcd"),
    "half a byte": frame({"x": entry("F4", shape=[1], offsets=(0, 1))}, b"a"),
    "one offset": frame({"x": entry(offsets=[4])}, b"abcd"),
    "three offsets": frame({"x": entry(offsets=[0, 4, 4])}, b"abcd"),
    "no offset": frame({"x": entry(offsets=[])}, b"abcd"),
    "offsets are a string": frame({"x": {**entry(), "data_offsets": "04"}}, b"abcd"),
    "offsets of floats": frame({"x": entry(offsets=[0.0, 4.0])}, b"abcd"),
    "offsets of booleans": frame({"x": entry(shape=[1], offsets=[False, True])}, b"a"),
    "negative offset": frame({"x": entry(offsets=[-4, 0])}, b"abcd"),
    "offsets backwards": frame({"x": entry(offsets=[4, 0])}, b"abcd"),
    "offsets of 2^63": frame({"x": entry(offsets=[2**63, 2**63 + 4])}, b"abcd"),
    "offsets out of range": frame({"x": entry(offsets=[4, 8])}, b"abcd"),
    "offsets far out of range": frame({"x": entry(shape=[HUGE], offsets=[0, HUGE])}, b"abcd"),
    "hole at the begin": frame({"x": entry(offsets=[1, 5])}, b"abcde"),
    "hole between": frame({"x": entry(), "y": entry(offsets=[5, 9])}, b"abcdefghi"),
    "hole at the end": frame({"x": entry()}, b"abcd    "),
    "the same bytes twice": frame({"x": entry(), "y": entry()}, b"abcd"),
    "overlap": frame({"x": entry(), "y": entry(offsets=[2, 6])}, b"abcdef"),
    "one inside the other": frame({"x": entry(), "y": entry(shape=[2], offsets=[1, 3])}, b"abcd"),
    "an empty one inside another": frame(
        {"x": entry(), "y": entry(shape=[0], offsets=[2, 2])}, b"abcd"
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_headers_are_header_errors(tmp_path, name):
    (tmp_path / "a").write_bytes(BROKEN[name])
    with pytest.raises(HeaderError):
        read_header(tmp_path / "a")


@pytest.mark.parametrize("name", BROKEN)
def test_broken_headers_take_no_memory(tmp_path, name):
    (tmp_path / "a").write_bytes(BROKEN[name])
    tracemalloc.start()
    try:
        with pytest.raises(HeaderError):
            read_header(tmp_path / "a")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000 + 100 * len(BROKEN[name])


def test_messages_are_short(tmp_path):
    name = "n" * 100_000
    (tmp_path / "a").write_bytes(frame({name: entry(shape=[5])}, b"abcd"))
    with pytest.raises(HeaderError) as raised:
        read_header(tmp_path / "a")
    assert len(str(raised.value)) < 1000


def test_json_that_writes_itself_twice_is_the_same():
    value = {"b": [1, {"é": "\n"}], "a": "😀"}
    ref = '{"a":"\\ud83d\\ude00","b":[1,{"\\u00e9":"\\n"}]}'
    assert canonical_json(value) == ref
    assert parse_json(ref, "it") == value


VALID = frame(
    {
        "__metadata__": {"format": "pt", "é": "\u2028"},
        "a.weight": entry("F16", (3, 5), (8, 38)),
        "b": entry("F64", (), (0, 8)),
        "c": entry("U8", (0, 2), (38, 38)),
        "d": entry("BOOL", (2,), (38, 40)),
    },
    bytes(40),
)


def read_or_refuse(path):
    """The law of strangers' files: a header that holds together, or HeaderError alone."""
    try:
        header = read_header(path)
    except HeaderError:
        return None
    assert isinstance(header, Header)
    place = 0
    for name, one in header.entries.items():
        assert one == Entry(name, one.dtype, one.shape, place, one.stop)
        assert all(type(d) is int and d >= 0 for d in one.shape)
        assert 8 * (one.stop - one.start) == BITS[one.dtype] * int(np.prod(one.shape))
        place = one.stop
    assert header.data_start + place == path.stat().st_size
    return header


def test_the_valid_file_is_valid(tmp_path):
    (tmp_path / "a").write_bytes(VALID)
    assert set(read_or_refuse(tmp_path / "a").entries) == {"a.weight", "b", "c", "d"}


# What a mutation may write: bytes that mean something in a header more often than others.
PIECES = st.one_of(
    st.binary(min_size=1, max_size=4),
    st.sampled_from(
        [b'"', b"{", b"}", b"[", b"]", b",", b":", b"-", b"0", b"1", b"9" * 19, b"e9", b".5",
         b"null", b"true", b"NaN", b"\\", b"\\ud800", b"\\u0000", b"{}", b"[]", b'""', b"\xff",
         b'"__metadata__":{},', b'"shape":[],', b'"F4"', b'"F64"', b" ", b"\n"]
    ),
)  # fmt: skip
MUTATIONS = st.lists(
    st.tuples(st.integers(0, header_length(VALID) - 1), st.integers(0, 4), PIECES),
    min_size=1,
    max_size=3,
)


@given(mutations=MUTATIONS, fit=st.booleans())
def test_mutated_headers_are_read_or_refused(tmp_path_factory, mutations, fit):
    content = VALID
    for place, removed, piece in mutations:
        content = content[:place] + piece + content[place + removed :]
    if fit:  # the length of the header follows, so that its text is parsed
        length = header_length(VALID) - 8 + len(content) - len(VALID)
        content = struct.pack("<Q", max(0, length)) + content[8:]
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    path.write_bytes(content)
    read_or_refuse(path)


def test_every_single_changed_byte_is_read_or_refused(tmp_path):
    path = tmp_path / "a"
    refused = 0
    for place in range(header_length(VALID)):
        for flip in (0x01, 0x20, 0x80):
            content = bytearray(VALID)
            content[place] ^= flip
            path.write_bytes(content)
            refused += read_or_refuse(path) is None
    assert refused > header_length(VALID)  # most of them: only names and strings are free
