#!/usr/bin/env python3
"""Compress a checkpoint larger than memory: peak memory, throughput, kills, shards.

    python bench/large.py FOLDER PAGE [--gigabytes 8] [--kills 3]

Writes a sharded BF16 checkpoint of random weights into FOLDER, unless it is there: a quarter of it
is one matrix, a quarter the experts of a mixture in one tensor of three dimensions, the rest layers
of a Llama-like model. It is compressed, decompressed and verified in processes that
tell their peak of memory; compressed again with kills (SIGKILL at random moments, each followed by
`--resume`); and by two shards at once with `merge`. All outputs must have the same bytes. Beside
it, a model with the shapes of SmolLM2-135M. FOLDER needs about three times the checkpoint's size.
"""

import argparse
import random
import shutil
import signal
import subprocess
from pathlib import Path

import report
import synthetic
from registry import file_sha256

COLS, BIG_COLS = 4096, 8192


def quarter(total: int, cols: int) -> int:
    """Return the rows of a matrix that takes a quarter of so many bytes, a multiple of 8."""
    return max(8, total // 4 // (2 * cols) // 8 * 8)


def make_large(folder: Path, total: int) -> None:
    """Write the checkpoint, unless it is there."""
    if folder.exists():
        return
    expert_rows = max(8, quarter(total, COLS) // 16 // 8 * 8)
    hidden = COLS if total >= 4 << 30 else 1024
    layer = sum(a * b for a, b in synthetic.layers(1, hidden, 3 * hidden, hidden // 4).values())
    count = max(2, total // 2 // (2 * layer))
    files: list[synthetic.Shapes] = [
        {"model.big.weight": (quarter(total, BIG_COLS), BIG_COLS)},
        {"model.layers.0.mlp.experts.down_proj": (16, expert_rows, COLS)},
    ]
    for first in range(0, count, 8):
        some = min(8, count - first)
        files.append(synthetic.layers(some, hidden, 3 * hidden, hidden // 4, first))
    aside = folder.with_name(folder.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    synthetic.write_model(aside, files)
    aside.rename(folder)


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a folder."""
    return {path.name: file_sha256(path) for path in sorted(folder.iterdir())}


def compare(out: Path, ref: dict[str, str]) -> None:
    """Stop unless an output has the bytes of the reference, and remove it."""
    if hashes(out) != ref:
        raise SystemExit(f"{out} has other bytes than the undisturbed run's")
    shutil.rmtree(out)


def with_kills(source: Path, out: Path, kills: int, seconds: float, rng: random.Random) -> int:
    """Compress with kills at random moments, all of them in seven tenths of the time that it takes
    undisturbed; return how many struck.
    """
    struck = 0
    for _ in range(kills):
        child = synthetic.start("compress", source, out, "-q", "--resume")
        try:
            child.communicate(timeout=rng.uniform(0.1, 0.7) * seconds / kills)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.communicate()
            struck += 1
        if out.exists():
            return struck
    synthetic.run("compress", source, out, "-q", "--resume")
    return struck


def with_shards(source: Path, out: Path, threads: int) -> tuple[float, synthetic.Measured]:
    """Compress with two shards at once; return their time, and what merging took."""
    children = [
        synthetic.start("compress", source, out, "-q", f"--shard={i}/2", f"-j{threads}")
        for i in (1, 2)
    ]
    seconds = max(synthetic.finish(child)[0].seconds for child in children)
    return seconds, synthetic.run("merge", source, out, "-q")


def weights_of(folder: Path) -> int:
    """Return the weights of a BF16 checkpoint."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) // 2


def main() -> None:
    """Make the checkpoints, run, compare, and write the page."""
    parser = argparse.ArgumentParser(description="Compress a checkpoint larger than memory.")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("page", type=Path, metavar="PAGE")
    parser.add_argument("--gigabytes", type=float, default=8.5, help="(default %(default)s)")
    parser.add_argument("--small-layers", type=int, default=30, help="of the model beside it")
    parser.add_argument("--kills", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    large, small = given.folder / "large", given.folder / "small"
    make_large(large, int(given.gigabytes * 1e9))
    if not small.exists():
        synthetic.write_model(small, [synthetic.layers(given.small_layers, 576, 1536, 192)])
    out, back = given.folder / "out", given.folder / "back"
    for leftover in (out, back, given.folder / "out.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
    threads = f"-j{given.threads}"
    synthetic.run("compress", small, out, "-q")  # compiles
    synthetic.run("verify", out, "-q", "--against", small)
    shutil.rmtree(out)

    rows = []

    def told(what: str, weights: int, took: synthetic.Measured) -> None:
        rows.append([
            what, f"{weights:,}", f"{took.peak / 1e6:.0f} MB",
            f"{(took.peak - took.before) / 1e6:.0f} MB", f"{took.seconds:.1f}",
            f"{1e9 * took.seconds / weights:.1f} ns",
        ])  # fmt: skip
        print(" | ".join(rows[-1]), flush=True)

    weights = weights_of(large)
    told(
        "compress, SmolLM2's shapes", weights_of(small),
        synthetic.run("compress", small, out, "-q", threads),
    )  # fmt: skip
    shutil.rmtree(out)
    first = synthetic.run("compress", large, out, "-q", threads)
    told("compress", weights, first)
    ref = hashes(out)
    told("verify", weights, synthetic.run("verify", out, "-q", threads))
    told("decompress", weights, synthetic.run("decompress", out, back, "-q", threads))
    shutil.rmtree(back)
    shutil.rmtree(out)
    rng = random.Random(given.seed)
    struck = with_kills(large, out, given.kills, first.seconds, rng)
    compare(out, ref)
    seconds, merging = with_shards(large, out, max(1, given.threads // 2))
    compare(out, ref)
    told("merge", weights, merging)
    files = [path.stat().st_size for path in large.glob("*.safetensors")]
    matrix = 2 * BIG_COLS * quarter(int(given.gigabytes * 1e9), BIG_COLS)
    head = "run", "weights", "peak memory", "above the imports", "seconds", "per weight"
    text = f"""# A checkpoint larger than memory

Made by `{report.command("large.py")}` on {report.made_with("numpy", "numba")}, {given.threads}
threads, `--max-memory` as by default (256M).
Checkpoint: random BF16 weights, {sum(files) / 1e9:.2f} GB in {len(files)} files of at most
{max(files) / 1e9:.2f} GB, among them one matrix of {matrix / 1e9:.2f} GB and experts in one tensor
of three dimensions.

{report.table(head, rows)}

Peak memory is the process's own (VmHWM), everything included; the column beside it is what came on
top of Python with all imports. With {struck} of {given.kills} kills at random moments before its
end, each followed by `--resume`, and by two shards at once ({seconds:.1f} s, threads for each:
{max(1, given.threads // 2)}) with `merge`, the output had the same bytes.
"""
    report.write_page(given.page, text)


if __name__ == "__main__":
    main()
