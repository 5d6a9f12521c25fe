"""Tensors larger than the memory that may be used: rows come and go, the bytes are the same."""

import subprocess
import sys
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pvq_ref import compress, decompress, dequantize, groups, load, quantize
from pvq_ref.container import Reader
from pvq_ref.errors import DomainError, IntegrityError, PayloadError
from pvq_ref.finishing import finish, table_width
from pvq_ref.groups import Coding, even_rows, row_blocks, rows_per_range
from pvq_ref.memory import DEFAULT_MEMORY, FIXED, PER_WEIGHT, Limits, memory_size
from pvq_ref.parsing import parse
from pvq_ref.rates import allot
from pvq_ref.stored import decoded
from pvq_ref.verification import verify
from tests.models import entries_of, flip, forge

SHAPES = [(1003, 40), (37, 577), (3, 50, 64), (8, 8), (2, 2000)]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A file of odd shapes: tails, rows of zeros, fitted levels."""
    rng = np.random.default_rng(0)
    tensors = {f"{i}.weight": rng.standard_normal(shape) for i, shape in enumerate(SHAPES)}
    tensors["0.weight"][5:900] = 0.0
    tensors["1.weight"] *= np.exp(rng.standard_normal(577))
    path = tmp_path_factory.mktemp("odd") / "m.safetensors"
    save_file({name: w.astype(np.float32) for name, w in tensors.items()}, path)
    compress(path, path.with_name("ref"), 4, rotate=False)
    decompress(path.with_name("ref"), path.with_name("back"))
    return path


def least(cols):
    """The smallest limit that allows such rows."""
    return FIXED + 8 * cols * PER_WEIGHT


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("memory", [least(2000), least(2000) * 2, DEFAULT_MEMORY])
def test_bytes_do_not_depend_on_the_limit(odd, tmp_path, threads, memory):
    how = {"threads": threads, "max_memory": memory}
    compress(odd, tmp_path / "c", 4, rotate=False, **how)
    decompress(tmp_path / "c", tmp_path / "d", **how)
    assert (tmp_path / "c").read_bytes() == odd.with_name("ref").read_bytes()
    assert (tmp_path / "d").read_bytes() == odd.with_name("back").read_bytes()
    assert verify(tmp_path / "c", odd, **how).problems == []


def test_pieces_give_what_a_tensor_in_memory_gives(odd, tmp_path, monkeypatch):
    """Blocks of eight rows, put together, are the fields that `quantize` makes at once."""
    monkeypatch.setattr(groups, "BLOCK", 1)
    monkeypatch.setattr(groups, "RANGE", 1)
    compress(odd, tmp_path / "c", 4, rotate=False)
    monkeypatch.undo()
    got = load(tmp_path / "c")
    with Reader(odd) as reader:
        for name, t in got.items():
            ref = quantize(reader.read(name), 4, rotate=False)
            for part in ("index", "gain", "row_norm", "levels"):
                assert getattr(t, part).tobytes() == getattr(ref, part).tobytes()
            assert (t.design, t.norm_exponent) == (ref.design, ref.norm_exponent)
    assert {t.design for t in got.values()} == {"lloyd-max", "fitted"}


@pytest.mark.parametrize("step", [8, 16, 10_000])
def test_stored_ranges_are_the_rows_of_the_tensor(odd, monkeypatch, step):
    monkeypatch.setattr(Limits, "ranges", lambda self, rows, cols: (step, 2))
    path = odd.with_name("ref")
    with Reader(path) as reader:
        meta = parse(reader.header)
        for name, t in load(path).items():
            pieces = list(decoded(reader, {name: meta.tensors[name]}, meta, Limits()))
            assert [start for _, start, _ in pieces] == list(range(0, t.grid.rows, step))
            got = np.concatenate([rows for _, _, rows in pieces])
            assert got.tobytes() == dequantize(t, np.float32).tobytes()


def test_a_field_that_changed_since_it_was_checked_is_noticed(odd, tmp_path):
    path = tmp_path / "c"
    path.write_bytes(odd.with_name("ref").read_bytes())
    with Reader(path) as reader:
        meta = parse(reader.header)
        entry = reader.header.entries["0.weight_row_norm"]
        flip(path, reader.header.data_start + entry.start)
        with pytest.raises(IntegrityError, match=r"0\.weight_row_norm"):
            list(decoded(reader, {"0.weight": meta.tensors["0.weight"]}, meta, Limits()))


def test_errors_count_rows_of_the_whole_tensor(odd, tmp_path, monkeypatch):
    def all_ones(found):
        raw = bytearray(found["0.weight_index"][2])
        raw[len(raw) // 2 :] = b"\xff" * (len(raw) - len(raw) // 2 - 1) + raw[-1:]
        found["0.weight_index"][2] = bytes(raw)

    monkeypatch.setattr(Limits, "ranges", lambda self, rows, cols: (8, 1))
    forge(odd.with_name("ref"), tmp_path / "c", entries=all_ones)
    with pytest.raises(PayloadError, match=r"rows 496 to 503: "):
        decompress(tmp_path / "c", tmp_path / "d")


# Limits


@pytest.mark.parametrize(("text", "size"), [
    ("1000", 1000), ("256M", 1 << 28), ("1g", 1 << 30), ("3K", 3072), ("2T", 2 << 40),
    ("5MiB", 5 << 20), ("7GB", 7 << 30),
])  # fmt: skip
def test_sizes(text, size):
    assert memory_size(text) == size


@given(
    st.integers(0, 100_000), st.integers(1, 100_000), st.integers(1, 300),
    st.integers(FIXED, 1 << 33),
)  # fmt: skip
def test_ranges_keep_to_the_limit(rows, cols, threads, memory):
    limits = Limits(threads, memory)
    needed = FIXED + min(8, max(1, rows)) * cols * PER_WEIGHT
    if needed > memory:
        with pytest.raises(DomainError, match=f"max_memory must be {needed} or more"):
            limits.ranges(rows, cols)
        return
    step, used = limits.ranges(rows, cols)
    assert 1 <= used <= threads
    assert step % 8 == 0
    assert step > 0
    assert FIXED + used * min(step, max(1, rows)) * cols * PER_WEIGHT <= memory


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_blocks_cover_all_rows_and_begin_at_whole_bytes(rows, cols):
    blocks = row_blocks(rows, cols)
    assert blocks[0][0] == 0
    assert blocks[-1][1] == rows
    assert all(a[1] == b[0] for a, b in pairwise(blocks))
    assert all(start % 8 == 0 and stop > start for start, stop in blocks)
    assert all((stop - start) * cols <= max(groups.BLOCK, 8 * cols) for start, stop in blocks)


def test_rows_that_do_not_fit_are_refused_at_once(tmp_path):
    save_file({"w": np.ones((8, 100_000), np.float16)}, tmp_path / "m")
    with pytest.raises(DomainError, match=r"max_memory must be .* rows of 100000 columns"):
        compress(tmp_path / "m", tmp_path / "c", max_memory=FIXED + (1 << 20))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


# Memory, measured: of the child alone, since what `getrusage` says is inherited from the parent.

CHILD = """
import re, sys
import numba, scipy.linalg, scipy.special  # which are imported late
import pvq_ref.cli, pvq_ref.checkpoint, pvq_ref.verification

def peak():
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", file.read())[1]) * 1024

before = peak()
code = pvq_ref.cli.main(sys.argv[1:])
print(peak() - before)
sys.exit(code)
"""
LIMIT = 128 << 20


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A file with two tensors larger than LIMIT, one of them to be copied."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    row = rng.standard_normal((64, 4096))
    tensors = {
        "w": np.tile(row, (72, 1)) * rng.standard_normal((72 * 64, 1)),
        "copied": np.zeros((40 << 20), np.float32),
    }
    assert min(w.nbytes for w in tensors.values()) > LIMIT
    save_file(tensors, folder / "m")
    # Many small groups: their gains alone would take more than LIMIT if they were held together.
    # And kernels are compiled here, which takes memory of its own.
    compress(folder / "m", folder / "c", 6.0, group=4)
    decompress(folder / "c", folder / "d")
    return folder


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("command", ["compress", "decompress", "verify"])
def test_memory_keeps_to_the_limit(large, tmp_path, command):
    paths = {
        "compress": [large / "m", tmp_path / "c"],
        "decompress": [large / "c", tmp_path / "d"],
        "verify": [large / "c", "--against", large / "m"],
    }[command]
    options = ["-q", "--max-memory=128M", "-j4"]
    options += ["--bits=6", "--group=4"] if command == "compress" else []
    child = subprocess.run(
        [sys.executable, "-c", CHILD, command, *map(str, paths), *options],
        capture_output=True, text=True,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    assert 0 < int(child.stdout.splitlines()[-1]) <= LIMIT
    ref = {"compress": large / "c", "decompress": large / "d"}.get(command)
    if ref is not None:
        assert entries_of(paths[1]) == entries_of(ref)


@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_four_threads_end_together(rows, cols):
    step, most = even_rows(rows, cols), rows_per_range(cols)
    assert step % 8 == 0
    assert 8 <= step <= most
    busiest = -(-rows // step // 4) * step  # rows of the thread that has most of the ranges
    rounds = -(-rows // (4 * most))
    assert busiest <= rows / 4 + 8 * rounds  # each range is rounded up to eight rows


def test_ranges_of_real_shapes():
    cut = [(576, 576, 144), (192, 576, 48), (1536, 576, 384), (576, 1536, 144)]
    assert [even_rows(rows, cols) for rows, cols, _ in cut] == [step for _, _, step in cut]


def test_levels_are_chosen_without_all_gains_in_memory():
    blocks, rows = 64, 128
    a = allot(blocks * rows, 4096, 3.25, 16)
    coding = Coding(a, "blocked", 4, None)
    block = np.random.default_rng(0).uniform(0.5, 1.5, (rows, table_width(a)))

    def tables(count):
        return lambda: (block * 1.0 for _ in range(count))  # each in memory of its own

    finish(tables(2), coding, "auto")  # compiles
    tracemalloc.start()
    try:
        finish(tables(blocks), coding, "auto")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < blocks * block.nbytes / 2
