#!/usr/bin/env python3
"""Measure what a second thread brings on models of several sizes, everything included.

    python bench/speed_threads.py [--turns N] [MILLIONS ...]

For each number of million weights a folder of random BF16 matrices, 2048 and 5632 columns wide, is
compressed and decompressed on one thread and on two, in turn, in processes of their own; what comes
out must be the same. Wall seconds are medians, ratios the median over turns.
"""

import argparse
import filecmp
import os
import shutil
import tempfile
from pathlib import Path
from statistics import median

import report
from speed_stages import check, child
from synthetic import Shapes, write_model

WEIGHTS = "model-00001-of-00001.safetensors"
LAYER = {"q_proj": (2048, 2048), "up_proj": (5632, 2048), "down_proj": (2048, 5632)}


def shapes(weights: int) -> Shapes:
    """Return the shapes of as many layers as come nearest to a number of weights."""
    layer = sum(rows * cols for rows, cols in LAYER.values())
    return {
        f"model.layers.{number}.{name}.weight": shape
        for number in range(max(1, round(weights / layer)))
        for name, shape in LAYER.items()
    }


def measure(millions: int, turns: int, folder: Path) -> list[list[str]]:
    """Return the rows of one size."""
    model, seconds = folder / "model", dict[tuple[str, int], list[float]]()
    weights = write_model(model, [shapes(millions * 10**6)])
    for turn in range(turns + 1):
        for threads in (1, 2):
            packed, plain = folder / f"packed{threads}", folder / f"plain{threads}"
            for call, source, target in (
                ("compress", model, packed),
                ("decompress", packed, plain),
            ):
                wall, _, _ = child(call, source, target, threads)
                if turn > 0:  # the first may compile kernels
                    seconds.setdefault((call, threads), []).append(wall)
        for kind, name in (("packed", "SHA256SUMS"), ("plain", WEIGHTS)):
            one, two = ((folder / f"{kind}{threads}" / name) for threads in (1, 2))
            check(filecmp.cmp(one, two, shallow=False), f"threads change what is {kind}")
        for path in folder.glob("p*"):
            shutil.rmtree(path)
    shutil.rmtree(model)
    rows = []
    for call in ("compress", "decompress"):
        one, two = seconds[call, 1], seconds[call, 2]
        ratio = median(a / b for a, b in zip(one, two, strict=True))
        rates = [f"{weights / median(times) / 1e6:.1f}" for times in (one, two)]
        rows.append([call, f"{weights / 1e6:.0f}", *rates, f"{ratio:.2f}"])
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("millions", type=int, nargs="*", default=[100, 800], metavar="MILLIONS")
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="runs of each")
    args = parser.parse_args()
    rows = []
    for millions in args.millions:
        with tempfile.TemporaryDirectory() as name:
            rows += measure(millions, args.turns, Path(name))
    print(f"{report.made_with('numpy', 'numba')}, load average {os.getloadavg()[0]:.1f};")
    print(f"`{report.command(__file__)}`\n")
    head = ["wall, million weights/s", "million weights", "one thread", "two", "two beside one"]
    print(report.table(head, rows))


if __name__ == "__main__":
    main()
