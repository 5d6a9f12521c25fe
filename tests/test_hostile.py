"""What files from strangers can't do (docs/hostile.md): take time, memory, or pass for others."""

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pvq_ref import compress, decompress, dequantize, load
from pvq_ref.container import FREE_HEADER, MAX_HEADER, Reader, header_limit, read_header
from pvq_ref.counting import bits, count
from pvq_ref.decoding import MAX_COLS
from pvq_ref.errors import (
    CapacityError,
    HeaderError,
    IntegrityError,
    MetadataError,
    OutputError,
    PayloadError,
    PVQError,
)
from pvq_ref.inspection import describe, entropies
from pvq_ref.model import open_model
from pvq_ref.oracle import frame as oracle
from pvq_ref.parsing import parse
from pvq_ref.rates import Allotment, Grid
from pvq_ref.verification import verify
from pvq_ref.widths import check_width, check_work
from tests.models import canonical, entries_of, flip, forge, frame, header_length, make_file

# A process of its own has limits of its own: 200 MiB above its imports, 2 s of the processor. It
# does first what a good file takes, so that kernels are loaded, and then forks for each file.
WATCHED = """
import os, resource, sys, time
from pathlib import Path
from pvq_ref.checkpoint import decompress
from pvq_ref.errors import PVQError
from pvq_ref.hessians import Hessians
from pvq_ref.model import open_model
from pvq_ref.inspection import describe
from pvq_ref.verification import verify
good, *paths = sys.argv[1:]
verify(good, threads=1)
size = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if "VmData" in line)
resource.setrlimit(resource.RLIMIT_DATA, (size + (200 << 20),) * 2)
def attempt(path, name, call):
    began = time.process_time()
    try:
        problems = call()
        kind = "problems" if problems else "read"
    except PVQError as error:
        kind = type(error).__name__
    print(Path(path).stem, name, kind, time.process_time() - began, flush=True)
for path in paths:
    child = os.fork()
    if child:
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{path} ended badly")
        continue
    attempt(path, "inspect", lambda: describe(open_model(path)) and None)
    attempt(path, "verify", lambda: verify(path, threads=1).problems)
    attempt(path, "decompress", lambda: decompress(path, path + ".out", threads=1))
    attempt(path, "hessians", lambda: Hessians(path) and None)
    sys.exit(0)
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A compressed file of two matrices, one of them with a tail, and two other tensors."""
    folder = tmp_path_factory.mktemp("hostile")
    make_file(folder / "source.safetensors")
    compress(folder / "source.safetensors", folder / "good.safetensors", 4)
    return folder / "good.safetensors"


def watched(good, paths):
    """{name: {way of reading: error}} of files, each within the limits."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, good, *paths], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-1000:]
    found = {path.stem: {} for path in paths}
    for line in done.stdout.splitlines():
        name, way, kind, seconds = line.rsplit(" ", 3)
        assert kind == "read" or float(seconds) < 2, line
        found[name][way] = kind
    return found


# Headers


def cut(text):
    """Whole items of a long text."""
    return text[: text.rindex(b",")]


HUNDRED = MAX_HEADER // 8 * 8
MANY = b",".join(
    b'"%06x":{"data_offsets":[0,0],"dtype":"U8","shape":[0]}' % i for i in range(60_000)
)
LONG_HEADERS = {
    "lists": b"{" + b'"a":[' + b"[]," * (HUNDRED // 3 - 10) + b"1]}",
    "one string": b'{"__metadata__":{"a":"' + b"x" * (HUNDRED - 100) + b'"}}',
    "entries": b"{" + b",".join([MANY] * (HUNDRED // len(MANY) - 1)) + b"}",
}


def test_long_headers_are_refused_unread(good, tmp_path):
    """A hundred megabytes of JSON, before data that they could be the header of: none."""
    paths = []
    for name, text in LONG_HEADERS.items():
        paths.append(tmp_path / f"{name}.safetensors")
        paths[-1].write_bytes(struct.pack("<Q", len(text)) + text)
    ref = {"inspect": "HeaderError", "verify": "problems", "decompress": "HeaderError",
           "hessians": "HeaderError"}  # fmt: skip
    assert watched(good, paths) == dict.fromkeys(LONG_HEADERS, ref)


DENSE = {
    "lists": b'{"a":[' + b"[]," * 690_000 + b"1]}",
    "objects": b'{"a":[' + b'{"a":1},' * 259_000 + b"1]}",
    "entries": b"{" + cut(MANY)[: FREE_HEADER - 400].rsplit(b",", 3)[0] + b"}",
    "metadata": b'{"__metadata__":{'
    + b",".join(b'"%x":""' % i for i in range(180_000))
    + b',"pvq":"{}"}}',
}


def test_dense_headers_take_no_more_than_promised(good, tmp_path):
    """As many values as the largest header before no data can have."""
    paths = []
    for name, text in DENSE.items():
        paths.append(tmp_path / f"{name}.safetensors")
        paths[-1].write_bytes(frame(text))
        assert FREE_HEADER * 0.9 < len(text) <= FREE_HEADER
    for name, ways in watched(good, paths).items():
        assert ways["verify"] == "problems", name
        assert {ways["inspect"], ways["decompress"]} <= {"HeaderError", "MetadataError"}, name


def test_a_header_is_far_shorter_than_the_data():
    assert [header_limit(size) for size in (0, 15, 16, 1 << 20, 1 << 40)] == [
        FREE_HEADER, FREE_HEADER, FREE_HEADER + 1, FREE_HEADER + (1 << 16), MAX_HEADER
    ]  # fmt: skip


@pytest.mark.parametrize("beyond", [0, 8])
def test_reader_and_oracle_have_the_same_limit(tmp_path, beyond):
    data = bytes(160)
    header = {"a": {"dtype": "U8", "shape": [160], "data_offsets": [0, 160]}}
    text = canonical(header).encode().ljust(header_limit(160) // 8 * 8 + beyond)
    content = struct.pack("<Q", len(text)) + text + data
    (tmp_path / "a").write_bytes(content)
    if not beyond:
        assert list(read_header(tmp_path / "a").entries) == ["a"]
        assert oracle.read_header(content)[0] == header
        return
    with pytest.raises(HeaderError, match="must have at most 2097162 bytes"):
        read_header(tmp_path / "a")
    with pytest.raises(HeaderError):
        oracle.read_header(content)


def test_no_longer_header_is_written(tmp_path):
    save_file({"w": np.ones((4, 64), np.float32)}, tmp_path / "m", {"a": "x" * FREE_HEADER})
    with pytest.raises((HeaderError, OutputError), match="must have at most"):
        compress(tmp_path / "m", tmp_path / "c", 4)


# Numbers that a file names


def named(good, target, changes):
    return forge(good, target, lambda pvq: pvq["tensors"]["a.weight"].update(changes))


def sized(good, target, rows, cols, n, k, order="fischer", block=0, index=b"\0"):
    """A file whose tensor has these numbers, all sizes as they follow, and indices all alike."""
    tail = cols % n
    tail_bits = bits(tail, 1) if tail else 0
    size = -(-rows * (cols // n * bits(n, k) + tail_bits) // 8)

    def entries(found):
        levels = 1 + (tail > 0)
        found["a.weight_index"] = ["U8", [size], (index * (size // len(index) + 1))[:size]]
        found["a.weight_gain"] = ["U8", [0], b""]
        found["a.weight_row_norm"] = ["F16", [rows], bytes(2 * rows)]
        found["a.weight_levels"] = ["F32", [levels, 1], bytes(4 * levels)]

    changes = {"shape": [rows, cols], "n": n, "k": k, "tail_k": int(tail > 0), "gain_bits": 0,
               "order": order, "block": block, "rotation": None}  # fmt: skip
    return forge(good, target, lambda p: p["tensors"]["a.weight"].update(changes), entries)


@pytest.mark.parametrize(
    "changes",
    [{"n": 65536, "k": 10**9}, {"n": 32, "k": 10**9}, {"k": 2**31 - 1, "tail_k": 2**31 - 1},
     {"shape": [24, 2**31 - 1], "n": 4096, "k": 2**31 - 1, "rotation": None},
     {"shape": [2**40, 4096], "n": 4096, "k": 1, "tail_k": 0, "rotation": None}],
    ids=str,
)  # fmt: skip
def test_numbers_that_the_payload_does_not_bear_out_are_refused_uncounted(
    good, tmp_path, monkeypatch, changes
):
    path = named(good, tmp_path / "a.safetensors", changes)

    def counting(n, k):
        raise AssertionError(f"V({n},{k}) must not be counted")

    monkeypatch.setattr("pvq_ref.rates.bits", counting)
    for call in (
        lambda: describe(open_model(path)),
        lambda: load(path),
        lambda: decompress(path, tmp_path / "b"),
    ):
        with pytest.raises(MetadataError):
            call()
    assert verify(path).problems


BOMBS = {
    "blocks of one": (1, 2, 2, 100_000, "blocked", 1),
    "many pulses": (3, 8, 8, 300_000, "blocked", 4),
    "one coordinate": (2, 64, 1, 10**6, "opus", 0),
    "a large group": (1, 4096, 4096, 2000, "fischer", 0),
    "the largest group": (1, 4096, 4096, 2**31 - 1, "blocked", 4),
    "a long row": (1, 1 << 22, 4096, 1, "fischer", 0),
}


def test_what_no_compression_needs_is_a_capacity_error(good, tmp_path):
    paths = []
    for name, numbers in BOMBS.items():
        paths.append(sized(good, tmp_path / f"{name}.safetensors", *numbers))
        assert paths[-1].stat().st_size < 40_000
    for name, ways in watched(good, paths).items():
        assert (ways["verify"], ways["decompress"]) == ("problems", "CapacityError"), name


def test_large_tables_and_long_rows_keep_the_promise(good, tmp_path):
    """Of (128,4000) the tables take seconds, but an index that isn't below V is found at once; a
    row of groups of one takes the most for a column.
    """
    names = {"fischer": 0, "opus": 0, "blocked": 4}
    paths = [
        sized(good, tmp_path / f"{order}.x", 2, 256, 128, 4000, order, block, b"\xff")
        for order, block in names.items()
    ]
    paths.append(sized(good, tmp_path / "row.x", 1, MAX_COLS, 1, 1))
    found = watched(good, paths)
    assert found["row"]["decompress"] == found["row"]["verify"] == "read"
    assert {found[order]["decompress"] for order in names} <= {"PayloadError", "CapacityError"}
    assert found["blocked"]["decompress"] == "PayloadError"


def test_no_tensor_is_compressed_that_would_not_be_read(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {"w": rng.standard_normal((8, 64)).astype(np.float16),
               "long": np.zeros((2, MAX_COLS + 1), np.float16)}  # fmt: skip
    save_file(tensors, tmp_path / "m")
    compress(tmp_path / "m", tmp_path / "c", 4)
    assert describe(open_model(tmp_path / "c")).tensors.keys() == {"w"}
    assert verify(tmp_path / "c").problems == []


def test_many_pyramids_of_one_file_take_no_time():
    """A header within its limit has room for thousands, each of which takes milliseconds."""
    one = [Allotment(Grid(1, 4096, 4096), 2**31 - 1, 0, 0)]
    check_work(one * 5000)  # the same one is counted once
    with pytest.raises(CapacityError, match="steps to count"):
        check_work([Allotment(Grid(1, 4096, 4096), 2**31 - 1 - i, 0, 0) for i in range(50)])


@pytest.mark.parametrize("n", [1, 2, 3, 8, 31, 32, 128, 1000, 4096])
@pytest.mark.parametrize("k", [1, 2, 7, 56, 221, 5000, 10**6, 2**31 - 1])
@pytest.mark.parametrize("rows", [1, 5, 10**6])
def test_right_widths_are_never_refused(n, k, rows):
    allotment = Allotment(Grid(rows, 2 * n + (n > 2), n), k, int(n > 2), 0)
    name = "x"
    entry = type("Entry", (), {"size": allotment.index_size})
    check_width(name, allotment, {"x_index": entry})
    wrong = [4 * allotment.index_size + rows * (n + 9)]
    if n >= 8 and rows > 1:
        wrong.append(allotment.index_size // 4)
    for size in wrong:
        with pytest.raises(MetadataError, match="'x_index' must have the bytes"):
            check_width(name, allotment, {"x_index": type("Entry", (), {"size": size})})


def test_the_bounds_of_widths_hold_everywhere():
    """For all small pyramids, where V is counted too."""
    for n in range(1, 24):
        for k in range(1, 60):
            a = Allotment(Grid(1000, n, n), k, 0, 0)
            check_width("x", a, {"x_index": type("Entry", (), {"size": a.index_size})})
            assert a.index_size == -(-1000 * (count(n, k) - 1).bit_length() // 8)


# Reading no more than what is asked for


def test_inspection_reads_the_header_and_no_byte_more(good, tmp_path, monkeypatch):
    """With everything after the header cut off by a hole, and every read counted."""
    content = good.read_bytes()
    path = tmp_path / "a.safetensors"
    path.write_bytes(content[: header_length(content)])
    os.truncate(path, len(content))  # zeros, that no hash fits
    ref = describe(open_model(good))
    assert verify(path).problems

    def no(*arguments):
        raise AssertionError("a payload must not be read")

    monkeypatch.setattr(Reader, "read_bytes", no)
    monkeypatch.setattr(os, "pread", no)
    got = describe(open_model(path))
    assert got.as_json() == ref.as_json()


# Hashes


def test_decompression_checks_every_hash_before_it_decodes(good, tmp_path, monkeypatch):
    """Whatever entry is damaged, nothing of the file is decoded or written."""
    content = good.read_bytes()
    header = json.loads(content[8 : header_length(content)])

    def no(*arguments, **named):
        raise AssertionError("nothing may be decoded")

    for name, one in header.items():
        if name == "__metadata__":
            continue
        start, stop = one["data_offsets"]
        for place in {start, (start + stop) // 2, stop - 1} if stop > start else ():
            path = tmp_path / "a.safetensors"
            path.write_bytes(content)
            flip(path, header_length(content) + place, place % 8)
            with monkeypatch.context() as patch:
                patch.setattr("pvq_ref.stored.decode_rows", no)
                with pytest.raises(IntegrityError, match=f"'{name}'"):
                    decompress(path, tmp_path / "b")
            assert not (tmp_path / "b").exists()
            assert verify(path).problems


@pytest.mark.parametrize("name", ["a.weight_index", "a.weight_row_norm", "norm.weight"])
def test_what_decompresses_has_hashes_that_hold(good, tmp_path, name):
    """A changed file is taken only with new hashes, and then verify takes it too."""

    def change(found):
        found[name][2] = bytes(len(found[name][2]))

    path = forge(good, tmp_path / "a.safetensors", entries=change)
    assert verify(path).problems == []
    decompress(path, tmp_path / "b")
    hashes = parse(read_header(good)).hashes
    old = forge(good, tmp_path / "c.safetensors", lambda p: p["sha256"].update(hashes), change)
    assert verify(old).problems
    with pytest.raises(IntegrityError):
        decompress(old, tmp_path / "d")


def test_a_file_that_changes_under_verification_is_read_by_the_header_that_was_checked(
    good, tmp_path, monkeypatch
):
    path = tmp_path / "a.safetensors"
    path.write_bytes(good.read_bytes())
    checked = parse

    def parse_and_swap(header):
        found = checked(header)
        path.write_bytes(frame({}))
        return found

    monkeypatch.setattr("pvq_ref.parsing.parse", parse_and_swap)
    problems = verify(path).problems
    assert problems
    assert all("must not change while it is read" in p for p in problems)


# The whole of an error


def test_messages_are_short_whatever_the_names_are(good, tmp_path):
    long = "n" * 100_000

    def rename(pvq):
        pvq["tensors"][long] = pvq["tensors"].pop("a.weight")

    path = forge(good, tmp_path / "a.safetensors", rename)
    with pytest.raises(MetadataError) as raised:
        load(path)
    assert len(str(raised.value)) < 1000


def test_messages_are_short_whatever_the_types_are(tmp_path):
    entry = {"dtype": "x" * 100_000, "shape": [1], "data_offsets": [0, 1]}
    head = json.dumps({"w": entry}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + b"\0")
    with pytest.raises(HeaderError) as raised:
        load(path)
    assert len(str(raised.value)) < 1000


def test_names_move_no_cursor(good, tmp_path):
    """What a file calls its tensors is printed in one line, without control characters."""
    tensors = {"\x1b[2Ja\r\nb": np.ones((8, 64), np.float32)}
    save_file(tensors, tmp_path / "m.safetensors")
    done = []
    for arguments in (["compress", "m.safetensors", "c.safetensors"], ["inspect", "c.safetensors"]):
        done.append(subprocess.run([sys.executable, "-m", "pvq_ref", *arguments], cwd=tmp_path,
                                   capture_output=True, text=True))  # fmt: skip
        assert done[-1].returncode == 0
        assert "\x1b" not in done[-1].stdout + done[-1].stderr
    assert r"\x1b[2Ja\r\nb" in done[-1].stdout


def test_nothing_that_reads_files_unpickles_evaluates_or_connects():
    """The modules that read what others wrote, by their imports and calls."""
    folder = Path(parse.__code__.co_filename).parent
    names = "container parsing model folders widths verification inspection hessians checkpoint"
    for name in f"{names} output tasks allocation decoding".split():
        text = (folder / f"{name}.py").read_text()
        for word in ("pickle", "marshal", "eval(", "exec(", "socket", "urllib", "allow_pickle"):
            assert word not in text, (name, word)


def test_entropies_of_broken_payloads_are_errors(good, tmp_path):
    def change(found):
        found["a.weight_index"][2] = b"\xff" * len(found["a.weight_index"][2])

    path = forge(good, tmp_path / "a.safetensors", entries=change)
    with pytest.raises(PayloadError):
        entropies(open_model(path))
    with pytest.raises(PVQError):
        dequantize(load(path)["a.weight"])
    assert entries_of(path).keys() == entries_of(good).keys()


def test_errors_come_within_two_seconds_of_the_clock(good, tmp_path):
    path = named(good, tmp_path / "a.safetensors", {"k": 10**9})
    verify(good)
    began = time.perf_counter()
    assert verify(path).problems
    assert time.perf_counter() - began < 2
