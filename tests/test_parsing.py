"""What a compressed file says of itself, whoever wrote it (spec sections 9.2 to 9.4, 11 and 12)."""

import hashlib
import json
import struct
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save_file

from pvq_ref import __version__, compress, decompress, dequantize, load
from pvq_ref.container import read_header
from pvq_ref.errors import (
    FormatError,
    HeaderError,
    IntegrityError,
    MetadataError,
    PayloadError,
    VersionError,
)
from pvq_ref.inspection import describe
from pvq_ref.model import open_model
from pvq_ref.oracle import container as oracle
from pvq_ref.oracle.counting import bits as index_bits
from pvq_ref.parsing import parse
from pvq_ref.verification import verify
from tests.models import (
    PARTS,
    canonical,
    entries_of,
    forge,
    frame,
    header_length,
    names_in,
    pvq_of,
    raw,
    split,
    with_right_hash,
)

SOURCE = {"origin": "a ü", "header_sha256": "0" * 64}
T = "é.weight"  # 17 rows of 33 columns: tails, padding bits, two blocks in the rotation
PLAIN = ("norm", "step")
KEYS = ("shape", "dtype", "n", "k", "tail_k", "order", "block", "gain_bits", "levels",
        "norm_exponent", "rotation")  # fmt: skip
TOP = ("format_version", "writer", "header_sha256", "source_metadata", "sha256", "tensors")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A compressed file: T with a tail and a rotation, u.weight with neither."""
    folder = tmp_path_factory.mktemp("parsing")
    rng = np.random.default_rng(0)
    tensors = {
        T: rng.standard_normal((17, 33)).astype(np.float32),
        "norm": np.ones(7, np.float16),
        "step": np.array(3, np.int64),
    }
    save_file(tensors, folder / "model.safetensors", SOURCE)
    save_file({"u.weight": tensors[T][:, :32].copy()}, folder / "plain.safetensors")
    compress(folder / "model.safetensors", folder / "good.safetensors", 4, gain_bits=3)
    compress(
        folder / "plain.safetensors", folder / "plain-good.safetensors", 4,
        order="fischer", rotate=False,
    )  # fmt: skip
    return folder / "good.safetensors"


def refused(path, error, tmp_path):
    """All ways to read a file refuse it with this error, and leave nothing behind."""
    with pytest.raises(error):
        load(path)
    with pytest.raises(error):
        decompress(path, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    assert not (tmp_path / "out.safetensors.partial").exists()
    assert verify(path).problems


# What we write


def test_the_good_file_is_good(good):
    assert verify(good).problems == []
    assert set(load(good)) == {T, *PLAIN}


def test_the_metadata_are_two_strings(good):
    header, _ = split(good.read_bytes())
    assert set(header["__metadata__"]) == {"format", "pvq"}
    assert header["__metadata__"]["format"] == "pt"


def test_the_metadata_are_canonical(good):
    text = split(good.read_bytes())[0]["__metadata__"]["pvq"]
    assert text == canonical(json.loads(text))


def test_the_metadata_have_the_keys_of_the_spec(good):
    pvq = pvq_of(good)
    assert set(pvq) == set(TOP)
    assert set(pvq["tensors"][T]) == set(KEYS)
    assert set(pvq["tensors"][T]["rotation"]) == {"seed", "blocks"}
    assert set(pvq["tensors"][T]["rotation"]["blocks"][0]) == {"count", "order", "paley", "q"}


def test_the_metadata_name_the_program_and_the_source(good):
    pvq = pvq_of(good)
    assert pvq["format_version"] == 1
    assert pvq["writer"] == f"pvq_ref {__version__}"
    assert pvq["source_metadata"] == SOURCE


def test_metadata_are_read_as_they_were_written(good):
    ref, got = pvq_of(good), parse(read_header(good))
    assert got.source_metadata == ref["source_metadata"]
    assert got.hashes == ref["sha256"]
    assert set(got.untouched) == set(PLAIN)
    t, item = got.tensors[T], ref["tensors"][T]
    assert (list(t.shape), t.dtype, t.design, t.norm_exponent) == (
        item["shape"], item["dtype"], item["levels"], item["norm_exponent"]
    )  # fmt: skip
    assert (t.grid.n, t.allotment.k, t.allotment.tail_k, t.allotment.gain_bits) == (
        item["n"], item["k"], item["tail_k"], item["gain_bits"]
    )  # fmt: skip
    assert (t.coding.order, t.coding.block) == (item["order"], item["block"])
    assert str(t.rotation.seed) == item["rotation"]["seed"]
    assert [(b.count, b.order, b.base.paley, b.base.q) for b in t.rotation.blocks] == [
        (b["count"], b["order"], b["paley"], b["q"]) for b in item["rotation"]["blocks"]
    ]


def test_the_header_holds_its_own_hash(good):
    content = good.read_bytes()[: header_length(good.read_bytes())]
    digits = pvq_of(good)["header_sha256"].encode()
    assert content.count(digits) == 1
    ref = hashlib.sha256(content.replace(digits, b"0" * 64)).hexdigest()
    assert digits.decode() == ref


def test_forging_without_changes_gives_a_good_file(good, tmp_path):
    assert verify(forge(good, tmp_path / "a")).problems == []


@pytest.mark.parametrize("gain_bits", [None, 0, 1, 4])
@pytest.mark.parametrize("order", ["fischer", "opus", "blocked"])
def test_the_oracle_reads_what_we_write(good, tmp_path, gain_bits, order):
    source = good.with_name("model.safetensors")
    compress(source, tmp_path / "a", 6, gain_bits=gain_bits, order=order)
    decompress(tmp_path / "a", tmp_path / "b")
    ref = oracle.decode_file((tmp_path / "a").read_bytes())
    got = {
        name: (one[0], tuple(one[1]), one[2]) for name, one in entries_of(tmp_path / "b").items()
    }
    assert got == ref


# Metadata that break the spec

BLOCK = {"count": 1, "order": 32, "paley": 0, "q": 0}
ONE = {"count": 1, "order": 1, "paley": 0, "q": 0}


def block(**changes):
    """A rotation of 33 columns whose first block, of 32, has other values."""
    return {"seed": "0", "blocks": [{**BLOCK, **changes}, ONE]}


def blocks(*triples):
    names = ("count", "order", "paley", "q")
    return {"seed": "0", "blocks": [dict(zip(names, one, strict=True)) for one in triples]}


def seed(value):
    return {"seed": value, "blocks": [BLOCK, ONE]}


BAD_VALUES = {
    "shape": [
        None, 561, "17x33", {}, [], [561], [17, 33.0], [True, 561], ["17", 33], [[17, 33]],
        [17, None], [0, 33], [-17, -33], [17, 33, 0], [33, 17], [17, 3, 11], [16, 33], [18, 33],
        [2**62, 2**62], [2**31, 2**31], [17, 2**40], [2**40, 33],
    ],
    "dtype": [None, "", "I8", "U8", "f32", "float32", "F8_E4M3", "C64", 32, ["F32"], {}],
    "n": [None, 0, -1, -32, 1, 16, 33, 34, 4096, 4097, 2**31, 2**64, 32.0, 1.5, "32", True, [32]],
    "k": [None, 0, -1, 1, 1000, 2**31 - 1, 2**31, 2**63, 10**100, 5.0, "5", True, [5]],
    "tail_k": [None, 0, -1, 2**31, 2**64, 1.0, "1", True, [1]],
    "order": [None, "", "Fischer", "lexicographic", 0, ["blocked"], {}],
    "block": [None, 0, -4, 2**31, 2**64, 4.0, "4", True, [4]],
    "gain_bits": [None, -1, 0, 2, 4, 8, 9, 2**40, 3.0, "3", True, [3]],
    "levels": [None, "", "auto", "lloyd", "Lloyd-Max", 1, ["lloyd-max"]],
    "norm_exponent": [None, 498, -552, 10**9, 10**100, 0.0, "0", True, [0]],
    "rotation": [
        True, False, 0, 1, "", "0", [], {}, {"seed": "0"}, {"blocks": []},
        {**seed("0"), "more": 1}, {"seed": "0", "blocks": None}, {"seed": "0", "blocks": {}},
        {"seed": "0", "blocks": "33"}, {"seed": "0", "blocks": []}, {"seed": "0", "blocks": [33]},
        {"seed": "0", "blocks": [None]}, {"seed": "0", "blocks": [[1, 33, 0, 0]]},
        {"seed": "0", "blocks": [{"count": 1, "order": 32, "paley": 0}, ONE]},
        block(more=1), block(count=0), block(count=-1), block(count=2), block(count=1.0),
        block(count=True), block(count="1"), block(count=None), block(count=2**31),
        block(order=0), block(order=-32), block(order=31), block(order=64), block(order=32.0),
        block(order="32"), block(order=None), block(order=2**64),
        block(paley=-1), block(paley=1), block(paley=3), block(paley="0"), block(paley=None),
        block(paley=False), block(q=3), block(q=-1), block(q=None), block(q="0"), block(q=False),
        block(q=2**64),
        blocks((1, 33, 0, 0)),  # not a power of two
        blocks((1, 32, 0, 0)), blocks((33, 2, 0, 0)), blocks((32, 1, 0, 0)), blocks((34, 1, 0, 0)),
        blocks((1, 24, 1, 5), (9, 1, 0, 0)),  # q is 1 modulo 4
        blocks((1, 16, 1, 15), (17, 1, 0, 0)),  # q is no prime power
        blocks((1, 16, 2, 7), (17, 1, 0, 0)),  # q is 3 modulo 4
        blocks((1, 20, 2, 9), (1, 13, 0, 0)),  # 13 is no order
        blocks((1, 20, 1, 9), (13, 1, 0, 0)),
        blocks((1, 24, 1, 3), (9, 1, 0, 0)),  # six times the base
        blocks((1, 2, 1, 3), (31, 1, 0, 0)),  # half the base
        blocks((1, 6, 2, 2), (27, 1, 0, 0)), blocks((1, 4, 1, 0), (29, 1, 0, 0)),
        seed(None), seed(0), seed(0.0), seed(""), seed("-1"), seed("+1"), seed(" 1"), seed("1 "),
        seed("1e3"), seed("0x1"), seed("1.0"), seed("1_0"), seed("١"), seed("²"), seed("a"),
        seed("00"), seed("01"), seed(str(2**64)), seed("9" * 5000), seed(["0"]),
    ],
}  # fmt: skip
CASES = [(key, value) for key, values in BAD_VALUES.items() for value in values]


@pytest.mark.parametrize(("key", "value"), CASES, ids=lambda value: f"{value!r:.60}")
def test_each_parameter_has_its_domain(good, tmp_path, key, value):
    def change(pvq):
        assert canonical(pvq["tensors"][T][key]) != canonical(value)
        pvq["tensors"][T][key] = value

    path = forge(good, tmp_path / "a", change)
    with pytest.raises(MetadataError, match=r"^tensor 'é\.weight'|^entry 'é\.weight_"):
        parse(read_header(path))
    refused(path, MetadataError, tmp_path)


@pytest.mark.parametrize(("key", "value"), CASES, ids=lambda value: f"{value!r:.60}")
def test_the_oracle_refuses_the_same_parameters(good, tmp_path, key, value):
    path = forge(good, tmp_path / "a", lambda pvq: pvq["tensors"][T].update({key: value}))
    with pytest.raises(MetadataError):
        oracle.read(path.read_bytes())


@pytest.mark.parametrize(
    ("key", "value"),
    [("shape", [1] * 5000 + [17, 33])],
    ids=lambda value: f"{value!r:.20}",
)  # fmt: skip
def test_numbers_that_no_machine_can_work_with_are_refused(good, tmp_path, key, value):
    path = forge(good, tmp_path / "a", lambda pvq: pvq["tensors"][T].update({key: value}))
    refused(path, MetadataError, tmp_path)


@pytest.mark.parametrize(("key", "value"), [("block", 4), ("tail_k", 1), ("order", "blocked")])
def test_parameters_of_other_codings_are_refused(good, tmp_path, key, value):
    """A block without the blocked order, a tail's pulses without a tail, an order's block."""
    source = good.with_name("plain-good.safetensors")
    path = forge(source, tmp_path / "a", lambda p: p["tensors"]["u.weight"].update({key: value}))
    refused(path, MetadataError, tmp_path)


@pytest.mark.parametrize("key", KEYS)
def test_each_parameter_must_be_there(good, tmp_path, key):
    path = forge(good, tmp_path / "a", lambda pvq: pvq["tensors"][T].pop(key))
    refused(path, MetadataError, tmp_path)


@pytest.mark.parametrize("value", [None, 1, "x", [], {}])
def test_a_tensor_must_be_an_object_of_its_keys(good, tmp_path, value):
    path = forge(good, tmp_path / "a", lambda pvq: pvq["tensors"].update({T: value}))
    refused(path, MetadataError, tmp_path)


def test_a_tensor_must_have_no_other_key(good, tmp_path):
    path = forge(good, tmp_path / "a", lambda pvq: pvq["tensors"][T].update(more=1))
    refused(path, MetadataError, tmp_path)


@pytest.mark.parametrize("key", TOP[1:])
def test_each_key_of_the_metadata_must_be_there(good, tmp_path, key):
    path = forge(good, tmp_path / "a", lambda pvq: pvq.pop(key))
    refused(path, MetadataError, tmp_path)


BAD_TOP = [
    ("more", 1),
    *[("writer", value) for value in (None, 1, [], {})],
    *[("header_sha256", value) for value in
      (None, 1, "", "0" * 63, "0" * 65, "A" * 64, "g" * 64, "é" * 64, "\ud800" * 64, ["0" * 64])],
    *[("source_metadata", value) for value in (None, "", [], [["a", "b"]], {"a": 1}, {"a": None})],
    *[("sha256", value) for value in (None, "", [], {}, {"norm": "0" * 64})],
    *[("tensors", value) for value in (None, "", [], ["a"], 1)],
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), BAD_TOP, ids=lambda value: f"{value!r:.40}")
def test_each_key_of_the_metadata_has_its_type(good, tmp_path, key, value):
    path = forge(good, tmp_path / "a", lambda pvq: pvq.update({key: value}))
    refused(path, MetadataError, tmp_path)


@pytest.mark.parametrize("value", [None, 1, "", "0" * 63, "A" * 64, "g" * 64, ["0" * 64]])
def test_each_hash_must_be_a_hash(good, tmp_path, value):
    path = forge(good, tmp_path / "a", lambda pvq: pvq["sha256"].update(norm=value))
    refused(path, MetadataError, tmp_path)


@pytest.mark.parametrize("name", ["norm", f"{T}_index"])
def test_each_entry_must_have_a_hash(good, tmp_path, name):
    path = forge(good, tmp_path / "a", lambda pvq: pvq["sha256"].pop(name))
    refused(path, MetadataError, tmp_path)


def test_each_hash_must_have_an_entry(good, tmp_path):
    path = forge(good, tmp_path / "a", lambda pvq: pvq["sha256"].update(other="0" * 64))
    refused(path, MetadataError, tmp_path)


@pytest.mark.parametrize("value", [0, 2, -1, 2**70, "1", "", None, [], {}, False, True, 1.0, 0.5])
def test_another_version_is_refused(good, tmp_path, value):
    path = forge(good, tmp_path / "a", lambda pvq: pvq.update(format_version=value))
    refused(path, (VersionError, MetadataError), tmp_path)


@pytest.mark.parametrize("value", [0, 2, 2**70])
def test_another_version_is_told_from_broken_metadata(good, tmp_path, value):
    path = forge(good, tmp_path / "a", lambda pvq: pvq.update(format_version=value, new_key=[]))
    with pytest.raises(VersionError, match=f"format_version must be 1, got {value}"):
        load(path)


def test_the_version_must_be_there(good, tmp_path):
    path = forge(good, tmp_path / "a", lambda pvq: pvq.pop("format_version"))
    refused(path, (VersionError, MetadataError), tmp_path)


BAD_TEXTS = {
    "empty": "", "not JSON": "{", "a list": "[]", "null": "null", "a number": "0", "a string": '""',
    "NaN": '{"format_version":NaN}', "twice": '{"format_version":1,"format_version":1}',
    "deep": '{"format_version":' + "[" * 200_000 + "]" * 200_000 + "}", "null byte": "\0",
    "long number": '{"format_version":' + "1" * 5000 + "}", "half a pair": '{"\\ud800":0}',
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_the_metadata_must_be_a_json_object(good, tmp_path, name):
    path = forge(good, tmp_path / "a", outer=lambda outer: outer.update(pvq=BAD_TEXTS[name]))
    refused(path, (MetadataError, VersionError), tmp_path)


def test_a_file_without_metadata_is_not_compressed(good, tmp_path):
    path = forge(good, tmp_path / "a", outer=lambda outer: outer.pop("pvq"))
    with pytest.raises(MetadataError, match="isn't compressed"):
        load(path)


def recased(pvq):
    """The object with the same values in another form."""
    return json.dumps(json.loads(pvq), separators=(",", ": "), sort_keys=True)


OTHER_FORMS = {
    "another format": lambda outer: outer.update(format="np"),
    "no format": lambda outer: outer.pop("format"),
    "another string": lambda outer: outer.update(more="x"),
    "spaces in the object": lambda outer: outer.update(pvq=recased(outer["pvq"])),
}


@pytest.mark.parametrize("name", OTHER_FORMS)
def test_the_metadata_have_one_form(good, tmp_path, name):
    path = forge(good, tmp_path / "a", outer=OTHER_FORMS[name])
    with pytest.raises(FormatError):
        oracle.read(path.read_bytes())
    with pytest.raises(FormatError):
        load(path)


# Frames of compressed files that break section 9.1, all hashes right


def reframed(good, target, order=lambda names: names, dumps=canonical):
    """Write the good file with its data in another order, or its JSON in another form."""
    header, data = split(good.read_bytes())
    names = sorted(
        (name for name in header if name != "__metadata__"),
        key=lambda name: header[name]["data_offsets"],
    )
    moved = b""
    for name in order(names):
        content = data[slice(*header[name]["data_offsets"])]
        header[name]["data_offsets"] = [len(moved), len(moved) + len(content)]
        moved += content
    pvq = json.loads(header["__metadata__"]["pvq"])
    pvq["header_sha256"] = "0" * 64
    header["__metadata__"]["pvq"] = canonical(pvq)
    target.write_bytes(with_right_hash(dumps(header).encode(), moved))
    return target


def test_reframing_without_changes_gives_a_good_file(good, tmp_path):
    assert verify(reframed(good, tmp_path / "a")).problems == []


def backwards(header):
    return json.dumps(dict(sorted(header.items(), reverse=True)), separators=(",", ":"))


def last_escape(header, other):
    """Canonical JSON but for its last é, in the name of an entry."""
    return other.join(canonical(header).rsplit("\\u00e9", 1))


OTHER_FRAMES = {
    "order of the data": {"order": lambda names: names[::-1]},
    "spaces": {"dumps": lambda header: json.dumps(header, sort_keys=True)},
    "lines": {"dumps": lambda header: canonical(header)[:-1] + "\n}"},
    "not ASCII": {"dumps": lambda header: last_escape(header, "é")},
    "order of the keys": {"dumps": backwards},
    "escapes": {"dumps": lambda header: last_escape(header, "\\u00E9")},
}


@pytest.mark.parametrize("name", OTHER_FRAMES)
def test_compressed_files_have_one_frame(good, tmp_path, name):
    path = reframed(good, tmp_path / "a", **OTHER_FRAMES[name])
    with pytest.raises(HeaderError):
        oracle.read(path.read_bytes())
    refused(path, HeaderError, tmp_path)


# Entries


def set_entry(name, dtype, shape, content):
    return lambda entries: entries.update({name: [dtype, list(shape), content]})


@pytest.mark.parametrize("part", PARTS)
def test_each_entry_of_a_tensor_must_be_there(good, tmp_path, part):
    path = forge(good, tmp_path / "a", entries=lambda entries: entries.pop(f"{T}_{part}"))
    with pytest.raises(MetadataError, match=f"entry 'é.weight_{part}' must be there"):
        load(path)
    refused(path, MetadataError, tmp_path)


@pytest.mark.parametrize(
    ("part", "dtype"),
    [("index", "I8"), ("index", "BOOL"), ("gain", "I8"), ("row_norm", "BF16"), ("row_norm", "U16"),
     ("levels", "I32"), ("levels", "U32")],
)  # fmt: skip
def test_each_entry_of_a_tensor_has_its_type(good, tmp_path, part, dtype):
    def change(entries):
        entries[f"{T}_{part}"][0] = dtype

    refused(forge(good, tmp_path / "a", entries=change), MetadataError, tmp_path)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("shape", ["longer", "shorter", "two-dimensional", "flat"])
def test_each_entry_of_a_tensor_has_its_shape(good, tmp_path, part, shape):
    dtype, old, content = entries_of(good)[f"{T}_{part}"]
    size = len(content) // np.prod(old, dtype=int)
    if shape == "longer":
        new, content = [*old[:-1], old[-1] + 1], content + bytes(size * int(np.prod(old[:-1])))
    elif shape == "shorter":
        new, content = [*old[:-1], old[-1] - 1], content[: -size * int(np.prod(old[:-1]))]
    elif shape == "two-dimensional":
        new = [1, *old]
    else:
        new = [int(np.prod(old))] if len(old) > 1 else [*old, 1]
    change = set_entry(f"{T}_{part}", dtype, new, content)
    refused(forge(good, tmp_path / "a", entries=change), MetadataError, tmp_path)


def test_a_tensor_is_not_both_compressed_and_plain(good, tmp_path):
    change = set_entry(T, "F32", (1,), bytes(4))
    refused(forge(good, tmp_path / "a", entries=change), MetadataError, tmp_path)


def test_an_entry_that_no_hash_accounts_for_is_refused(good, tmp_path):
    path = forge(
        good, tmp_path / "a",
        pvq=lambda pvq: pvq["sha256"].pop("stranger"),
        entries=set_entry("stranger", "U8", (1,), b"x"),
    )  # fmt: skip
    refused(path, MetadataError, tmp_path)


# Values at the border that are allowed


@pytest.mark.parametrize(
    ("key", "value"),
    [("rotation", seed(str(2**64 - 1))), ("rotation", None), ("rotation", blocks((33, 1, 0, 0))),
     ("rotation", blocks((1, 20, 1, 19), (13, 1, 0, 0))), ("dtype", "BF16"), ("dtype", "F64"),
     ("rotation", blocks((1, 20, 2, 9), (1, 12, 1, 11), (1, 1, 0, 0))), ("block", 1), ("block", 40),
     ("block", 2**31 - 1), ("levels", "quantile"), ("levels", "fitted"), ("norm_exponent", 0),
     ("norm_exponent", -551), ("norm_exponent", 497), ("shape", [17, 1, 33])],
    ids=lambda value: f"{value!r:.60}",
)  # fmt: skip
def test_what_the_spec_allows_is_read_as_the_oracle_reads_it(good, tmp_path, key, value):
    path = forge(good, tmp_path / "a", lambda pvq: pvq["tensors"][T].update({key: value}))
    decompress(path, tmp_path / "b")
    ref = oracle.decode_file(path.read_bytes())[T]
    assert raw(tmp_path / "b")[T] == ref


# Absurd numbers


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 32, "k": 2**31 - 1},
        {"n": 33, "k": 2**31 - 1, "tail_k": 0},
        {"shape": [1, 2**61], "rotation": None},
        {"shape": [2**61, 1], "n": 1, "tail_k": 0, "rotation": None},
        {"shape": [1, 2**61], "n": 4096, "k": 2**31 - 1, "tail_k": 0, "rotation": None},
        {"shape": [1, 2**61 - 1], "n": 4096, "k": 2**31 - 1, "tail_k": 2**31 - 1, "rotation": None},
        {"shape": [2**30, 2**31], "n": 1, "k": 2**31 - 1, "tail_k": 0, "gain_bits": 8,
         "rotation": None},
        {"shape": [17, 2**31], "n": 4096, "k": 2**31 - 1, "tail_k": 0,
         "rotation": blocks((1, 2**30, 0, 0), (1, 2**30, 0, 0))},
    ],
    ids=str,
)  # fmt: skip
def test_absurd_numbers_are_refused_at_once(good, tmp_path, changes):
    path = forge(good, tmp_path / "a", lambda pvq: pvq["tensors"][T].update(changes))
    began = time.perf_counter()
    tracemalloc.start()
    try:
        refused(path, MetadataError, tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - began < 5
    assert peak < 20_000_000


def made(target, shape, n, k, order="fischer", dtype="F16", norm=0.0, level=0.0):
    """Write a file of one tensor whose rows, levels and indices are all the same."""
    rows, cols = shape
    groups = rows * (cols // n)
    parts = {
        "x_levels": ["F32", [1, 2], struct.pack("<2f", level, level)],
        "x_row_norm": ["F16", [rows], struct.pack("<e", norm) * rows],
        "x_gain": ["U8", [-(-groups // 8)], bytes(-(-groups // 8))],
        "x_index": ["U8", None, bytes(-(-groups * index_bits(n, k) // 8))],
    }
    parts["x_index"][1] = [len(parts["x_index"][2])]
    item = {
        "shape": list(shape), "dtype": dtype, "n": n, "k": k, "tail_k": 0, "order": order,
        "block": 4 if order == "blocked" else 0, "gain_bits": 1, "levels": "lloyd-max",
        "norm_exponent": 0, "rotation": None,
    }  # fmt: skip
    pvq = {"format_version": 1, "writer": "x", "source_metadata": {}, "tensors": {"x": item}}
    target.write_bytes(frame({"__metadata__": {"pvq": canonical(pvq)}}))
    return forge(target, target, entries=lambda entries: entries.update(parts))


BOMBS = {
    "blocked, many pulses": ((1, 8), 8, 10**6, "blocked"),
    "fischer, many pulses": ((1, 2), 2, 2 * 10**7, "fischer"),
    "opus, many pulses": ((1, 4), 4, 10**7, "opus"),
    "blocked, pulses just within the memory": ((1, 8), 8, 450_000, "blocked"),
    "fischer, pulses just within the memory": ((1, 2), 2, 5_000_000, "fischer"),
    "most pulses": ((1, 1), 1, 2**31 - 1, "fischer"),
    "most pulses in the largest group": ((1, 4096), 4096, 2**31 - 1, "blocked"),
}
WATCHED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from pvq_ref.cli import main
code = main(["verify", sys.argv[1]])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
sys.exit(f"{peak} MiB" if peak > 1024 else code)
"""


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_never_ask_for_much(tmp_path, name):
    """Neither time nor memory, nor a traceback, whatever numbers of spec section 12 they name."""
    path = made(tmp_path / "a.safetensors", *BOMBS[name])
    assert path.stat().st_size < 10_000_000
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, path], timeout=30, capture_output=True, text=True
    )
    assert done.returncode in (1, 3), done.stderr[-500:]
    assert done.stderr.startswith("pvq-ref: ")


def test_inspection_reads_no_more_than_headers(tmp_path):
    path = made(tmp_path / "a.safetensors", (1, 2**20), 4096, 1)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")  # padding and hash are wrong now
    assert describe(open_model(path)).weights == 2**20


# Hashes


def test_a_changed_header_is_an_integrity_error(good, tmp_path):
    content = good.read_bytes()
    assert content.count(b'\\"norm_exponent\\":-1') == 1
    path = tmp_path / "a"
    path.write_bytes(content.replace(b'\\"norm_exponent\\":-1', b'\\"norm_exponent\\":-2'))
    refused(path, IntegrityError, tmp_path)


def test_a_changed_space_of_the_header_is_an_integrity_error(good, tmp_path):
    content = bytearray(good.read_bytes())
    last = header_length(content) - 1
    assert content[last] == ord(" ")
    content[last] = ord("\n")
    (tmp_path / "a").write_bytes(content)
    refused(tmp_path / "a", (IntegrityError, HeaderError), tmp_path)


@pytest.mark.parametrize("digits", ["0" * 64, "f" * 64])
def test_another_hash_of_the_header_is_an_integrity_error(good, tmp_path, digits):
    content = good.read_bytes().replace(pvq_of(good)["header_sha256"].encode(), digits.encode())
    (tmp_path / "a").write_bytes(content)
    refused(tmp_path / "a", IntegrityError, tmp_path)


@pytest.mark.parametrize("name", [*(f"{T}_{part}" for part in PARTS), *PLAIN])
def test_another_hash_of_an_entry_is_an_integrity_error(good, tmp_path, name):
    path = forge(good, tmp_path / "a", lambda pvq: pvq["sha256"].update({name: "0" * 64}))
    with pytest.raises(IntegrityError, match=f"entry '{name}' must have SHA-256 0000"):
        load(path)
    refused(path, IntegrityError, tmp_path)


@pytest.mark.parametrize("name", [*(f"{T}_{part}" for part in PARTS), *PLAIN])
def test_each_changed_entry_is_an_integrity_error(good, tmp_path, name):
    content = bytearray(good.read_bytes())
    header, _ = split(content)
    place = header_length(content) + header[name]["data_offsets"][0]
    content[place] ^= 1
    (tmp_path / "a").write_bytes(content)
    refused(tmp_path / "a", IntegrityError, tmp_path)


# The first of several faults counts


def set_levels(value):
    def change(found):
        found[f"{T}_levels"][2] = struct.pack("<f", value) + found[f"{T}_levels"][2][4:]

    return change


FAULTS = {  # in the order of spec section 11: where the fault is, what it is, and the error
    "JSON": ("outer", lambda outer: outer.update(pvq=outer["pvq"] + " "), MetadataError),
    "version": ("pvq", lambda pvq: pvq.update(format_version=2), VersionError),
    "key": ("pvq", lambda pvq: pvq.update(writer=1), MetadataError),
    "hash of the header": ("pvq", lambda pvq: pvq.update(header_sha256="1" * 64), IntegrityError),
    "tensor": ("pvq", lambda pvq: pvq["tensors"][T].update(k=0), MetadataError),
    "hash of an entry": ("pvq", lambda pvq: pvq["sha256"].update({f"{T}_gain": "1" * 64}),
                         IntegrityError),
    "payload": ("entries", set_levels(float("nan")), PayloadError),
}  # fmt: skip
PAIRS = [(a, b) for i, a in enumerate(FAULTS) for b in list(FAULTS)[i + 1 :]]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_first_of_two_faults_counts(good, tmp_path, first, second):
    changes = {"pvq": [], "entries": [], "outer": []}
    for name in (first, second):
        place, change, _ = FAULTS[name]
        changes[place].append(change)

    def all_of(place):
        return lambda value: [change(value) for change in changes[place]]

    path = forge(good, tmp_path / "a", **{place: all_of(place) for place in changes})
    error = FAULTS[first][2]
    with pytest.raises(error):
        oracle.read(path.read_bytes())
    refused(path, error, tmp_path)


# Payloads outside their range, all hashes right


def forge_payload(good, target, part, change):
    def entries(found):
        found[f"{T}_{part}"][2] = change(bytearray(found[f"{T}_{part}"][2]))

    return forge(good, target, entries=entries)


def put(place, values, form):
    def change(content):
        struct.pack_into(form, content, place, *values)
        return bytes(content)

    return change


def set_last_bit(content):
    assert content[-1] >> 7 == 0, "the test needs a sequence that ends within a byte"
    content[-1] |= 0x80
    return bytes(content)


NAN, INF = float("nan"), float("inf")
BAD_PAYLOADS = {
    "padding of the index": ("index", set_last_bit),
    "padding of the gain": ("gain", set_last_bit),
    "level NaN": ("levels", put(12, [NAN], "<f")),
    "last level infinite": ("levels", put(28, [INF], "<f")),
    "first level minus infinity": ("levels", put(0, [-INF], "<f")),
    "levels descend": ("levels", put(0, [0.5, 0.25], "<2f")),
    "levels of tails descend": ("levels", put(32 + 24, [3.0, 2.0], "<2f")),
    "negative norm": ("row_norm", put(2, [-1.0], "<e")),
    "norm of minus zero": ("row_norm", put(2, [-0.0], "<e")),
    "norm NaN": ("row_norm", put(0, [NAN], "<e")),
    "norm infinite": ("row_norm", put(32, [INF], "<e")),
}


@pytest.mark.parametrize("name", BAD_PAYLOADS)
def test_payloads_outside_their_range_are_payload_errors(good, tmp_path, name):
    path = forge_payload(good, tmp_path / "a", *BAD_PAYLOADS[name])
    with pytest.raises(PayloadError):
        oracle.read(path.read_bytes())
    refused(path, PayloadError, tmp_path)


def first_index_too_large(content):
    content[:20] = b"\xff" * 20
    return bytes(content)


def test_an_index_that_is_too_large_is_a_payload_error(good, tmp_path):
    path = forge_payload(good, tmp_path / "a", "index", first_index_too_large)
    with pytest.raises(PayloadError):
        oracle.read(path.read_bytes())
    with pytest.raises(PayloadError):
        decompress(path, tmp_path / "b")
    assert names_in(tmp_path) == ["a"]
    with pytest.raises(PayloadError, match="index"):
        dequantize(load(path)[T])
    assert any("index" in problem for problem in verify(path).problems)


GOOD_PAYLOADS = {
    "equal levels": ("levels", put(0, [1.0] * 16, "<16f")),
    "negative levels": ("levels", put(0, [-2.0, -1.0], "<2f")),
    "levels of the whole range": ("levels", put(0, [-3.4e38, *[0.0] * 6, 3.4e38], "<8f")),
    "zero norm": ("row_norm", put(0, [0.0], "<e")),
    "largest norm": ("row_norm", put(0, [65504.0], "<e")),
    "least norm": ("row_norm", put(0, [2.0**-24], "<e")),
}


@pytest.mark.parametrize("name", GOOD_PAYLOADS)
def test_payloads_at_the_border_are_decoded_as_the_oracle_does(good, tmp_path, name):
    path = forge_payload(good, tmp_path / "a", *GOOD_PAYLOADS[name])
    decompress(path, tmp_path / "b")
    ref = oracle.decode_file(path.read_bytes())[T]
    assert raw(tmp_path / "b")[T] == ref


def test_bfloat16_is_rounded_once(tmp_path):
    """Halfway between two numbers of bfloat16, and a little more than binary32 can tell."""
    halfway = 1 + 2**-8
    norm, level = next(
        (norm, level)
        for norm in (1 + i / 1024 for i in range(1, 1024))
        for level in [float(np.float32(halfway / norm))]
        if 0 < norm * level - halfway < 2**-25
    )
    path = made(tmp_path / "a", (1, 2), 2, 1, dtype="BF16", norm=norm, level=level)
    decompress(path, tmp_path / "b")
    ref = oracle.decode_file(path.read_bytes())["x"]
    assert struct.pack("<H", 0x3F81) in ref[2]  # 1 + 2^-7, above
    assert raw(tmp_path / "b")["x"] == ref
