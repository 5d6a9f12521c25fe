#!/usr/bin/env python3
"""Measure products with a compressed matrix, and its decompression, beside unranking alone.

    python bench/speed_matmul.py [--rows N] [--cols N] [--bits R] [--repetitions N]

The matrix is normal numbers. Timed are public calls on one thread: `matmul` with one vector and
with eight, `dequantize` to float16, and `unrank` of the same indices, which all of them contain.
The products are checked against the decoded matrix first.
"""

import argparse
import os

import numpy as np

import report
from pvq_ref import dequantize, matmul, quantize, unrank
from pvq_ref.counting import bits
from pvq_ref.groups import parts
from pvq_ref.packing import unpack_from
from timing import medians

SEED = 20241016
TOLERANCE = 1e-10  # relative, far above the bound in the docstring of `matmul` for these sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=768)
    parser.add_argument("--cols", type=int, default=4096)
    parser.add_argument("--bits", type=float, default=3.25)
    parser.add_argument("--repetitions", type=int, default=15)
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    t = quantize(rng.standard_normal((options.rows, options.cols)), options.bits)
    x = rng.standard_normal((options.cols, 8))
    one, *tails = parts(t.allotment)
    if tails:
        raise SystemExit(f"cols must be a multiple of {t.grid.n}")

    ref, got = dequantize(t) @ x, matmul(t, x)
    single = np.stack([matmul(t, column) for column in x.T], axis=1)
    scale = np.linalg.norm(dequantize(t), axis=1)[:, None] * np.linalg.norm(x, axis=0)
    if max(np.max(np.abs(got - ref) / scale), np.max(np.abs(single - ref) / scale)) > TOLERANCE:
        raise SystemExit("wrong result: matmul differs from the decoded product")
    layout = (0, one.per_row, t.allotment.row_index_bits)
    index = unpack_from(t.index, bits(one.n, one.k), options.rows * one.per_row, layout)

    times = medians(
        {
            "unrank": lambda: unrank(index, one.n, one.k, t.coding.order, threads=1),
            "matmul, one vector": lambda: matmul(t, x[:, 0], threads=1),
            "matmul, eight vectors": lambda: matmul(t, x, threads=1),
            "dequantize to float16": lambda: dequantize(t, np.float16, threads=1),
        },
        options.repetitions,
    )
    print(f"One thread, {options.rows} × {options.cols}, ({one.n},{one.k}) {t.coding.order}.")
    print(f"{report.made_with('numpy', 'numba')}, load average {os.getloadavg()[0]:.1f};")
    print(f"`{report.command(__file__)}`\n")
    rows = []
    for name, seconds in times.items():
        rate = options.rows * options.cols / seconds / 1e6
        rows.append([name, f"{rate:.0f}", f"{times['unrank'] / seconds:.2f}"])
    print(report.table(["", "million weights per second", "beside unrank"], rows))


if __name__ == "__main__":
    main()
