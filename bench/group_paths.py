#!/usr/bin/env python3
"""Code layers in groups of several sizes, with several paths and sweeps, and compare their losses.

    python bench/group_paths.py MODEL HESSIANS PAGE [--bits 2.25] [--rows 192]

MODEL is a folder with matrices of 576 and 1536 columns, HESSIANS of pvq-ref calibrate. Some rows of
some layers are coded towards their own weights, so that all ways stand on the same inputs; beside
them Lloyd-Max levels of a quarter bit more, with the same feedback.
"""

import argparse
from pathlib import Path

import numpy as np

import report
from baselines import Setting
from pvq_ref.compensated import PATHS
from pvq_ref.container import Reader
from pvq_ref.gain import Floats
from pvq_ref.hessians import Hessians, layer_of
from pvq_ref.model import open_model
from quality_list import MIXED
from quality_methods import Method, Pvq, Scalar

LAYERS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
BLOCKS = (5, 15, 25)
WAYS = (  # group, paths, sweeps; the first is what the others stand beside
    (64, 1, 0), (128, 1, 0), (192, 1, 0),
    (64, 16, 0), (128, 16, 0), (192, 16, 0),
    (64, 16, 4), (128, 16, 4), (192, 16, 4), (288, 16, 4),
    (128, 32, 4), (192, 32, 4), (192, 64, 4),
)  # fmt: skip


def loss(method: Method, w: Floats, hessian: Floats) -> tuple[float, int]:
    """Return tr(E H Eᵀ) / tr(W H Wᵀ) of coded weights, and their bits."""
    decoded, bits = method.code(w, hessian, "F32", threads=1)
    error = decoded - w
    return float(np.sum((error @ hessian) * error) / np.sum((w @ hessian) * w)), bits


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description="Groups, paths and sweeps by their losses.")
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("hessians", type=Path, metavar="HESSIANS")
    parser.add_argument("page", type=Path, metavar="PAGE")
    parser.add_argument("--bits", type=float, default=2.25, help="of the file (%(default)s)")
    parser.add_argument("--rows", type=int, default=192, help="of each layer (%(default)s)")
    given = parser.parse_args()
    model, hessians = open_model(given.model), Hessians(given.hessians)
    files = {entry.name: file for file, entry in model.entries()}
    pairs = []
    for name in (f"model.layers.{block}.{layer}.weight" for block in BLOCKS for layer in LAYERS):
        with Reader(model.file(files[name])) as reader:
            w = reader.read(name)[: given.rows].astype(np.float64)
        pairs.append((w, hessians.read(layer_of(name), w.shape[1]).astype(np.float64)))
    weights = sum(w.size for w, _ in pairs)
    ways: dict[str, Method] = {
        f"{group} | {paths} | {sweeps}": Pvq(given.bits, group, paths=paths, sweeps=sweeps)
        for group, paths, sweeps in WAYS
    }
    ways[f"Lloyd-Max | {PATHS} | 0"] = Scalar(Setting(MIXED, rotate=True), feedback=True)
    rows, first = [], np.zeros(0)
    for name, method in ways.items():
        found = [loss(method, *pair) for pair in pairs]
        logs = np.log([one for one, _ in found])
        first = logs if not len(first) else first
        rate = sum(bits for _, bits in found) / weights
        ratios = np.exp(logs - first)
        rows.append([
            *name.split(" | "), f"{rate:.3f}", f"{np.exp(np.mean(logs - first)):.4f}",
            f"{ratios.min():.3f} to {ratios.max():.3f}",
        ])  # fmt: skip
        print(" | ".join(rows[-1]), flush=True)
    head = ["group", "paths", "sweeps", "bits", "loss", "of single layers"]
    report.write_page(
        given.page,
        f"""# Groups, paths and sweeps at {given.bits:g} bits

Made by `python bench/group_paths.py MODEL HESSIANS PAGE` on {report.made_with("numpy", "numba")}.
MODEL is {report.noted(given.model)}; HESSIANS comes from
`pvq-ref calibrate MODEL --text wiki.txt --part 0:0.5 --tokens 8192 -o HESSIANS`. The first
{given.rows} rows of {len(pairs)} layers (blocks {", ".join(map(str, BLOCKS))}:
{", ".join(LAYERS)}) are coded towards their own weights. *loss* is
tr(E H Eᵀ) / tr(W H Wᵀ) on the calibration's tokens, beside that of the first line, the geometric
mean; *bits* is of the file. Lloyd-Max: five and six levels in turn, with the same rotation and
feedback.

{report.table(head, rows)}
""",
    )


if __name__ == "__main__":
    main()
