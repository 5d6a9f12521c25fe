#!/usr/bin/env python3
"""Measure a model's way into a compressed file and back, stage by stage and as a whole.

    python bench/speed_stages.py MODEL [--repetitions N]

MODEL is a folder that bench/fetch_smollm2.py makes, or any other. One thread is timed by CPU time,
two by the clock on the wall. Stages run on all tensors of the model in turn; their fields must be
those of the compressed file, whose tensors must decode to what decompression writes. libopus's
search and decoder at (32,7) run a few times between the others. Whole calls run in processes of
their own, so that their peak memory can be told: above that of the same process when all is
imported. Each is compared with what libopus did just before and after it, and two threads with one
just before. Feedback is measured with a second moment whose spectrum decays.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import TypeVar

import numpy as np

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))  # for tests.peers

import report
from pvq_ref import dequantize, load, matmul, quantize, quantize_with_feedback
from pvq_ref.container import Reader, Writer, header_bytes, layout
from pvq_ref.counting import bits
from pvq_ref.encoding import row_norms
from pvq_ref.finishing import finish, table_width
from pvq_ref.gain import group_gains
from pvq_ref.groups import parts, rows_per_range
from pvq_ref.metadata import PARTS, entries_of
from pvq_ref.model import open_model
from pvq_ref.packing import pack_into
from pvq_ref.plan import Settings, TensorPlan, make_plan
from pvq_ref.ranking import rank_unchecked
from pvq_ref.searching import search_unchecked
from pvq_ref.tensor import PVQTensor
from tests.peers.libopus import Libopus, MissingError, build
from timing import medians, process_environment

Value = TypeVar("Value")
SEED = 20241016
TURNS = 7  # of whole calls
PEER_ROWS = 1 << 14
SEARCH, DECODE = "op_pvq_search_c (32,7)", "decode_pulses (32,7)"
MODELS = (("SmolLM2-135M", 0.135e9), ("1 billion", 1e9), ("8 billion", 8e9), ("70 billion", 70e9))
CHILD = """
import re, sys, time
import numba, scipy.linalg, scipy.special
from pvq_ref import compress, decompress

def peak():  # not getrusage's, which has that of the process before exec
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", file.read())[1])

call, source, target, threads = sys.argv[1:]
before = peak()
wall, own = time.perf_counter(), time.process_time()
{"compress": compress, "decompress": decompress}[call](source, target, threads=int(threads))
print(time.perf_counter() - wall, time.process_time() - own,
      peak() - before)
"""


class Stages:
    """CPU seconds of stages, added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def __call__(self, name: str, work: Callable[[], Value]) -> Value:
        begin = time.thread_time()
        value = work()
        self.seconds[name] += time.thread_time() - begin
        return value


def check(true: bool, what: str) -> None:
    if not true:
        raise SystemExit(f"wrong result: {what}")


def encode(reader: Reader, t: TensorPlan, design: str, stage: Stages) -> dict[str, np.ndarray]:
    """Return the fields of a tensor, made stage by stage as `pvq_ref.encoding` does."""
    assert t.coding is not None
    a, coding, name = t.coding.allotment, t.coding, t.entry.name
    index, filled = np.zeros(a.index_size, np.uint8), 0
    table = np.empty((a.grid.rows, table_width(a)))
    step = rows_per_range(a.grid.cols)
    for start in range(0, a.grid.rows, step):
        stop = min(start + step, a.grid.rows)
        rows = stage("read", lambda: reader.read_rows(name, start, stop))  # noqa: B023
        x = stage("widen", lambda: rows.astype(np.float64))  # noqa: B023
        if coding.rotation is not None:
            stage("rotate", lambda: coding.rotation.forward(x))  # noqa: B023
        lines = table[start:stop]
        lines[:, 0] = stage("gain", lambda: row_norms(x, start))  # noqa: B023
        piece = np.zeros(-(-len(x) * a.row_index_bits // 8), np.uint8)
        for part in parts(a):
            w = part.columns(x)
            y = stage("search", lambda: search_unchecked(w, part.k))  # noqa: B023
            gain, lost = stage("gain", lambda: group_gains(w, y))  # noqa: B023
            lost = np.maximum(lost, 0.0).reshape(-1, part.per_row)
            lines[:, 1 + part.level_row] = np.sum(lost, axis=1)
            first = 1 + a.level_rows + part.first_gain
            lines[:, first : first + part.per_row] = gain.reshape(-1, part.per_row)
            tables = part.tables(coding)
            fields = stage("rank", lambda: rank_unchecked(y, tables, coding.order))  # noqa: B023
            place = (part.first_bit, part.per_row, a.row_index_bits)
            width = bits(part.n, part.k)
            stage("pack", lambda: pack_into(piece, fields, width, place))  # noqa: B023
        index[filled : filled + piece.size] = piece
        filled += piece.size

    def ending() -> dict[str, np.ndarray]:
        end = finish(lambda: iter([table]), coding, design)
        return {"gain": end.gain(table), "row_norm": end.row_norm(table), "levels": end.levels}

    return {"index": index, **stage("gain", ending)}


def stages(model: Path, packed: Path, folder: Path) -> tuple[dict[str, float], int]:
    """Return the CPU seconds of each stage on the whole model, and its compressed weights."""
    plan, ref, stage = make_plan(open_model(model), Settings()), load(packed), Stages()
    opened = open_model(model)
    for number, t in enumerate(plan.compressed):
        assert t.coding is not None
        with Reader(opened.file(t.file)) as reader:
            got = encode(reader, t, "auto", stage)
        tensor = ref[t.entry.name]
        assert isinstance(tensor, PVQTensor)
        for part in PARTS:
            check(np.array_equal(got[part], getattr(tensor, part)), f"{part} of {t.entry.name}")
        entries = layout(entries_of(t.entry.name, t.entry.shape, t.coding.allotment))
        head = header_bytes(entries, {})

        def write(got=got, entries=entries, head=head, t=t, number=number) -> None:
            with Writer(folder / f"{number}", entries, len(head)) as writer:
                for part in PARTS:
                    writer.write(f"{t.entry.name}_{part}", [got[part]])
                writer.finish(head)

        stage("write", write)
        (folder / f"{number}").unlink()
    return stage.seconds, plan.weights


def child(call: str, source: Path, target: Path, threads: int) -> tuple[float, float, float]:
    """Run a public call in a process: wall seconds, CPU seconds, MB above its imports."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, call, str(source), str(target), str(threads)],
        env=process_environment(), check=True, capture_output=True, text=True,
    )  # fmt: skip
    wall, own, peak = map(float, done.stdout.split())
    return wall, own, peak * 1024 / 1e6


@dataclass(frozen=True)
class Turn:
    """A whole call on one thread and on two, and libopus's coordinates/s around that on one."""

    one: tuple[float, float, float]
    two: tuple[float, float, float]
    peer: float | None


def whole_calls(model: Path, folder: Path, peer: Libopus | None) -> dict[str, list[Turn]]:
    """Compress and decompress a few times."""
    calls = {} if peer is None else peer_calls(peer)

    def of_peer(name: str) -> float | None:
        return PEER_ROWS * 32 / medians({name: calls[name]}, 9)[name] if calls else None

    # What isn't in the cache yet is compiled here, which takes time and memory.
    warm = folder / "warm packed", folder / "warm plain"
    for call, *there in (("compress", model, warm[0]), ("decompress", *warm)):
        child(call, *there, 1)
    for path in warm:
        shutil.rmtree(path)
    measured: dict[str, list[Turn]] = {"compress": [], "decompress": []}
    for turn in range(TURNS):
        for call, name in (("compress", SEARCH), ("decompress", DECODE)):
            runs, rates = {}, [of_peer(name)]
            for threads in (1, 2):
                packed, plain = folder / f"packed{turn}{threads}", folder / f"plain{turn}{threads}"
                there = (model, packed) if call == "compress" else (packed, plain)
                runs[threads] = child(call, *there, threads)
                rates.append(of_peer(name))
            known = [rate for rate in rates[:2] if rate is not None]
            measured[call].append(Turn(runs[1], runs[2], mean(known) if known else None))
        for threads in (1, 2):
            packed, plain = folder / f"packed{turn}{threads}", folder / f"plain{turn}{threads}"
            sums = [(path / "SHA256SUMS").read_bytes() for path in (folder / "packed01", packed)]
            check(sums[0] == sums[1], "threads change the compressed folder")
            if (turn, threads) != (0, 1):
                shutil.rmtree(packed)
                shutil.rmtree(plain)
    return measured


def calls_row(call: str, turns: list[Turn], weights: int) -> list[str]:
    """Return a row of the table of whole calls: medians over turns."""
    beside = [weights / turn.one[1] / turn.peer for turn in turns if turn.peer is not None]
    wall = [median(weights / run[0] for run in runs) / 1e6
            for runs in ([t.one for t in turns], [t.two for t in turns])]  # fmt: skip
    return [
        call,
        f"{median(weights / turn.one[1] for turn in turns) / 1e6:.1f}",
        f"{median(beside):.2f}" if beside else "",
        *(f"{rate:.1f}" for rate in wall),
        f"{median(turn.one[0] / turn.two[0] for turn in turns):.2f}",
        f"{max(max(turn.one[2], turn.two[2]) for turn in turns):.0f}",
    ]


def same_as_decoded(packed: Path, plain: Path) -> None:
    """Check decompressed files against `dequantize`."""
    opened = open_model(plain)
    where = {entry.name: file for file, entry in opened.entries()}
    for name, t in load(packed).items():
        with Reader(opened.file(where[name])) as reader:
            got = reader.read(name)
        ref = dequantize(t, got.dtype) if isinstance(t, PVQTensor) else t
        check(got.tobytes() == ref.tobytes(), f"{name} decompressed")


def wall_of(arguments: list[str], cache: str) -> float:
    """Return the wall seconds of the command line."""
    command = [sys.executable, "-m", "pvq_ref", *arguments]
    begin = time.perf_counter()
    subprocess.run(command, env=process_environment(cache), check=True, capture_output=True)
    return time.perf_counter() - begin


def start(folder: Path, packed: Path) -> list[list[str]]:
    """Return rows: what the command line takes to start, compiling and not."""
    from safetensors.numpy import save_file

    tiny, out = folder / "tiny.safetensors", folder / "out.safetensors"
    weight = np.random.default_rng(SEED).standard_normal((64, 256)).astype(np.float16)
    save_file({"layers.0.mlp.up_proj.weight": weight}, tiny)
    compress = ["compress", str(tiny), str(out), "--force"]
    cache = str(folder / "cache")
    rows = [
        ["warmup, empty cache", f"{wall_of(['warmup'], str(folder / 'other cache')):.1f}"],
        ["compress of a small file, empty cache", f"{wall_of(compress, cache):.1f}"],
    ]
    for name, arguments in (
        ("compress of a small file", compress),
        ("inspect", ["inspect", str(packed)]),
        ("--help", ["--help"]),
    ):
        rows.append([name, f"{median(wall_of(arguments, cache) for _ in range(5)):.2f}"])
    return rows


def second_moment(cols: int) -> np.ndarray:
    """Return E[x xᵀ] of inputs with a decaying spectrum, in directions of its own."""
    rng = np.random.default_rng([SEED, cols])
    x = rng.standard_normal((2 * cols, cols)) / np.arange(1, cols + 1) ** 0.5
    x = x @ rng.standard_normal((cols, cols))
    return x.T @ x / len(x)


def peer_calls(peer: Libopus) -> dict[str, Callable[[], object]]:
    """Return libopus's search and decoder on rows of 32, checked."""
    x = np.random.default_rng(SEED).standard_normal((PEER_ROWS, 32))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    y = search_unchecked(x.astype(np.float64), 7)
    index, total = peer.encode(y, 7)
    index, back = np.array(index, np.uint32), np.zeros_like(y)
    check(np.array_equal(peer.decode(index, 32, 7)[0], y), "libopus decodes")
    return {
        SEARCH: lambda: peer.search(x, 7, back),
        DECODE: lambda: peer.decode(index, 32, 7, back, total),
    }


def contenders(peer: Libopus | None) -> tuple[dict[str, Callable[[], object]], dict[str, int]]:
    """Return calls on one thread, and the weights of each."""
    rng = np.random.default_rng(SEED)
    calls = {} if peer is None else peer_calls(peer)
    sizes = dict.fromkeys(calls, PEER_ROWS * 32)

    def add(name: str, size: int, call: Callable[[], object]) -> None:
        calls[name], sizes[name] = call, size

    for rows, cols in ((1536, 576), (1536, 1536)):
        w = rng.standard_normal((rows, cols)).astype(np.float16)
        h, t, v = second_moment(cols), quantize(w), rng.standard_normal(cols)
        got, ref = matmul(t, v), dequantize(t) @ v
        check(np.allclose(got, ref, rtol=0, atol=1e-9 * float(np.abs(ref).max())), "a product")
        shape = f"{rows} × {cols}"
        add(f"quantize, {shape}", w.size, lambda w=w: quantize(w, threads=1))
        add(f"dequantize, {shape}", w.size, lambda t=t: dequantize(t, np.float16, threads=1))
        add(f"matmul, {shape}", w.size, lambda t=t, v=v: matmul(t, v, threads=1))
        for how in ("plain", "weighted"):
            one = quantize_with_feedback(w, h, search=how, threads=1)
            two = quantize_with_feedback(w, h, search=how, threads=2)
            check(np.array_equal(one[0].index, two[0].index), f"{how} feedback on two threads")
            check(one[1].coded < one[1].without, f"{how} feedback helps")
            add(
                f"{how} feedback, {shape}", w.size,
                lambda w=w, h=h, how=how: quantize_with_feedback(w, h, search=how, threads=1),
            )  # fmt: skip
    return calls, sizes


def costs(repetitions: int) -> str:
    """Return what compression takes by group and rate: measured rates, and hours of one thread."""
    w = np.random.default_rng(SEED).standard_normal((256, 4096)).astype(np.float16)
    calls, names = {}, {}
    for n, rate in ((16, 2), (32, 2), (32, 3.25), (32, 4.25), (64, 3.25), (128, 3.25)):
        t = quantize(w, rate, n)
        names[f"{n} {rate}"] = [str(n), str(t.allotment.k), f"{rate:g}"]
        calls[f"{n} {rate}"] = lambda n=n, rate=rate: quantize(w, rate, n, threads=1)
    rows = []
    for name, seconds in medians(calls, repetitions).items():
        hours = [f"{size * seconds / w.size / 3600:.2f}" for _, size in MODELS]
        rows.append([*names[name], f"{w.size / seconds / 1e6:.0f}", *hours])
    head = ["n", "k", "bits", "million weights/s", *(f"{name}, hours" for name, _ in MODELS)]
    return report.table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--repetitions", type=int, default=5, metavar="N")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            peer = build(name)
        except MissingError as missing:
            peer = None
            print(f"without libopus: {missing}", file=sys.stderr)
        measured = whole_calls(options.model, folder, peer)
        packed = folder / "packed01"
        same_as_decoded(packed, folder / "plain01")
        stages(options.model, packed, folder)  # kernels are loaded
        seconds, weights = stages(options.model, packed, folder)
        calls, sizes = contenders(peer)
        times = medians(calls, options.repetitions)
        started = start(folder, packed)
        cost = costs(options.repetitions)

    rates = {name: sizes[name] / one / 1e6 for name, one in times.items()}
    print(f"{weights:,} weights. {report.made_with('numpy', 'numba', 'scipy')},")
    print(f"load average {os.getloadavg()[0]:.1f}; `{report.command(__file__)}`\n")
    every = sum(seconds.values())
    rows = [
        [stage, f"{1e9 * one / weights:.1f}", f"{one / every:.0%}"]
        for stage, one in seconds.items()
    ]
    print(
        report.table(
            ["stage", "ns per weight", "share"],
            [*rows, ["all", f"{1e9 * every / weights:.1f}", ""]],
        )
    )
    rows = [calls_row(call, turns, weights) for call, turns in measured.items()]
    head = [
        "public call, million weights/s", "CPU, one thread", "beside libopus", "wall, one thread",
        "wall, two", "two beside one", "peak MB above imports",
    ]  # fmt: skip
    print(f"\n{report.table(head, rows)}")
    search = rates.get(SEARCH)
    rows = [
        [name, f"{rate:.1f}", f"{rate / search:.2f}" if search else ""]
        for name, rate in rates.items()
    ]
    head = ["one thread", "million weights/s", "beside op_pvq_search_c"]
    print(f"\n{report.table(head, rows)}")
    print(f"\n{report.table(['command line', 'wall seconds'], started)}\n\n{cost}")


if __name__ == "__main__":
    main()
