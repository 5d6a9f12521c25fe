#!/usr/bin/env python3
"""Give each group of a row its own rate, by what its errors cost, and see what that brings.

    python bench/column_rates.py MODEL HESSIANS [--rows 256]

Later groups of a row have fewer columns left that could make up for their errors, so the metric M
of spec section 7.2 has a larger determinant there. High-rate theory would give group i ½ log2 of
|M_i|^(1/n) over its geometric mean more bits. The format has one number of pulses for all whole
groups, so this codes rows without a file: same bits in all, same levels, no sweeps, once with equal
rates and once with rates of their own. MODEL is a folder, HESSIANS of pvq-ref calibrate.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

import report
from pvq_ref.container import Reader
from pvq_ref.counting import bits, most_pulses
from pvq_ref.curvature import Curvature, curvature
from pvq_ref.feedback import Rows, feed_back, steps
from pvq_ref.gain import Floats, design_levels
from pvq_ref.hessians import Hessians, layer_of
from pvq_ref.model import open_model
from pvq_ref.rates import Allotment, Grid
from pvq_ref.rotation import Rotation

LAYERS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
BLOCKS = (0, 9, 19, 29)
GROUP, GAIN_BITS, TARGET = 32, 3, 3.25


def pulses(curved: Curvature, grid: Grid, own: bool) -> list[int]:
    """Return the pulses of each group of a row, at the same number of bits in all."""
    n, count = grid.n, grid.whole
    width = int(TARGET * n) - GAIN_BITS
    if not own:
        return [most_pulses(n, width)] * count
    logs = 2 * np.log2(np.diag(curved.factor)).reshape(count, n).mean(axis=1)
    wanted = width + n / 2 * (logs - logs.mean())
    widths = np.floor(wanted).astype(int)
    for place in np.argsort(widths - wanted)[: width * count - widths.sum()]:
        widths[place] += 1
    return [most_pulses(n, int(one)) for one in widths]


def relative_loss(w: Floats, curved: Curvature, grid: Grid, own: bool) -> tuple[float, float]:
    """Return tr(E H Eᵀ) / tr(W H Wᵀ) and the bits of indices per weight."""
    chosen = pulses(curved, grid, own)
    a = Allotment(grid, chosen[0], 0, GAIN_BITS)
    course = steps(curved, a)
    for number, k in enumerate(chosen):
        slot = course[number].slot
        part = replace(slot.part, k=k, level_row=number)
        course[number] = replace(course[number], slot=replace(slot, part=part))
    levels = [
        design_levels("lloyd-max", grid.n, k, grid.cols, GAIN_BITS).astype(np.float64)
        for k in chosen
    ]
    units = np.linalg.norm(w, axis=1)
    rows = Rows(w, units, a, levels)
    feed_back(rows, course, "weighted")
    rate = sum(bits(grid.n, k) for k in chosen) / grid.cols
    return curved.loss(rows.error) / curved.loss(w), rate


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="Rates by column against equal ones.")
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("hessians", type=Path, metavar="HESSIANS")
    parser.add_argument("--rows", type=int, default=256, help="rows of each layer")
    given = parser.parse_args()
    model, hessians = open_model(given.model), Hessians(given.hessians)
    files = {entry.name: file for file, entry in model.entries()}
    rows, ratios = [], []
    for block in BLOCKS:
        for layer in LAYERS:
            name = f"model.layers.{block}.{layer}.weight"
            with Reader(model.file(files[name])) as reader:
                w = reader.read(name)[: given.rows].astype(np.float64)
            cols = w.shape[1]
            rotation = Rotation.of(cols)
            rotation.forward(w)
            curved = curvature(hessians.read(layer_of(name), cols), cols, rotation)
            grid = Grid(len(w), cols, GROUP)
            equal, own = (relative_loss(w, curved, grid, own) for own in (False, True))
            assert own[1] <= equal[1]
            ratios.append(own[0] / equal[0])
            rows.append([name, f"{equal[1]:.4f}", f"{equal[0]:.6f}", f"{own[0]:.6f}"])
            rows[-1].append(f"{ratios[-1]:.4f}")
    print(report.table(("layer", "index bits", "equal rates", "own rates", "ratio"), rows))
    print(f"\ngeometric mean of the ratios {np.exp(np.mean(np.log(ratios))):.4f}")


if __name__ == "__main__":
    main()
