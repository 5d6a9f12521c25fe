#!/usr/bin/env python3
"""Check on the rows of a real model the law that the gain levels rest on.

    python bench/beta_law.py MODEL_DIR [--group N] [--per-kind N] [--markdown FILE]

If a rotated row is uniform on a sphere, the norm r of n of its cols weights, in units of the row's
norm, obeys r² ~ Beta(n/2, (cols-n)/2) (spec section 5.2). For some matrices of each kind, spread
over the depth of the model, r of all whole groups is compared with the law, with rows rotated (spec
section 6) and as they are. The Kolmogorov–Smirnov distance is the largest difference between two
distribution functions, the sample's and the law's. Then the level designs of spec section 5.4 are
compared with Lloyd–Max levels, by the law and on the optimal gains of the rotated rows, at the k
that an encoder takes for 3.25 bits per weight.

--markdown FILE writes a result page, and beside it a picture, FILE with .svg for its suffix.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import report
from beta_law_picture import Panel, Shown, draw, save_svg
from model_rows import Sample, layers, measure, spread
from pvq_ref import PVQError
from pvq_ref.gain import (
    FITTED,
    BetaLaw,
    cosines,
    design_levels,
    fitted_levels,
    law_levels,
    nearest_levels,
)
from pvq_ref.model import Model, open_model
from registry import file_sha256

Floats = NDArray[np.float64]

RATE = 3.25  # bits per weight that k is chosen for
GAIN_BITS = (2, 3, 4)
OPTIMUM = "lloyd-max"
DESIGNS = ("quantile", "panter-dite", "panter-dite-centroids")  # of the law; then FITTED
TYPICAL = math.sqrt(math.pi / 2) * math.log(2)  # mean of Kolmogorov's law of sqrt(size) · distance
UNLIKELY = 1.95  # exceeded by a thousandth of it
SEED, CHECKED = 20241016, 100_000  # of the sample that the distance is checked on
PACKAGES = ("numpy", "scipy", "numba", "matplotlib")

# ---------------------------------------------------------------- comparing


def distance(norms: Floats, law: BetaLaw) -> float:
    """Return the Kolmogorov–Smirnov distance of a sample from the law."""
    expected = law.cdf(np.sort(norms))
    steps = np.arange(norms.size + 1) / norms.size
    return float(max(np.max(steps[1:] - expected), np.max(expected - steps[:-1])))


def levels_for(sample: Sample, design: str, gain_bits: int) -> NDArray[np.float32]:
    if design == FITTED:
        return fitted_levels(sample.gains, gain_bits)
    law = sample.layer.law
    return design_levels(design, law.n, sample.layer.k, law.cols, gain_bits)


def gain_error(samples: Sequence[Sample], design: str, gain_bits: int) -> float:
    """Return the sum of (g* - nearest level)² over all groups."""
    total = 0.0
    for sample in samples:
        levels = levels_for(sample, design, gain_bits)
        nearest = levels.astype(np.float64)[nearest_levels(sample.gains, levels)]
        total += float(np.sum((sample.gains - nearest) ** 2))
    return total


def expected_error(samples: Sequence[Sample], gain_bits: int) -> float:
    """Return what the law expects of that sum for Lloyd–Max levels (spec section 8.6)."""
    return sum(
        sample.gains.size
        * cosines(sample.layer.n, sample.layer.k).mean ** 2
        * sample.layer.law.distortion(law_levels(OPTIMUM, sample.layer.law, gain_bits))
        for sample in samples
    )


def law_excess(law: BetaLaw, design: str, gain_bits: int) -> float:
    """Return by which part a design's error is above that of Lloyd–Max levels, by the law."""
    best = law.distortion(law_levels(OPTIMUM, law, gain_bits))
    return law.distortion(law_levels(design, law, gain_bits)) / best - 1


# ---------------------------------------------------------------- validating


def check_law(law: BetaLaw) -> None:
    """Exit unless the density is the law's, and the distance tells this law from another."""
    low, high = law.quantile([0.1, 0.9])
    r = np.linspace(low, high, 100_000)
    if not abs(float(np.trapezoid(law.density(r), r)) - 0.8) <= 1e-6:
        raise SystemExit(f"the density must be that of the distribution function: {law}")
    square = np.random.default_rng(SEED).beta(law.n / 2, (law.cols - law.n) / 2, CHECKED)
    norms = np.sqrt(square)
    same, other = (distance(x, law) * math.sqrt(CHECKED) for x in (norms, 1.05 * norms))
    if not same < UNLIKELY < other:
        raise SystemExit(f"the distance must be small for samples of the law, and only then: {law}")
    if min(law_excess(law, design, bits) for design in DESIGNS for bits in GAIN_BITS) < 0.0:
        raise SystemExit(f"Lloyd–Max levels must be the best: {law}")


# ---------------------------------------------------------------- reporting


def kind_table(samples: Sequence[Sample]) -> str:
    """Return distances by kind of layer."""
    rows = []
    for kind in dict.fromkeys(sample.layer.kind for sample in samples):
        same = [sample for sample in samples if sample.layer.kind == kind]
        rotated = [distance(sample.rotated, sample.layer.law) for sample in same]
        plain = [distance(sample.plain, sample.layer.law) for sample in same]
        alone = [TYPICAL / math.sqrt(sample.rotated.size) for sample in same]
        figures = (np.mean(rotated), max(rotated), np.mean(alone), np.mean(plain), max(plain))
        cols = sorted({sample.layer.law.cols for sample in same})
        rows.append(
            [kind, f"{len(same)}", ", ".join(map(str, cols)), *(f"{x:.4f}" for x in figures)]
        )
    head = "kind|tensors|cols|rotated: mean|max|sampling alone|as they are: mean|max"
    return report.table(head.split("|"), rows)


def excess_table(samples: Sequence[Sample]) -> str:
    """Return gain errors above that of Lloyd–Max levels, by the law and measured."""
    rows = []
    for cols in sorted({sample.layer.law.cols for sample in samples}):
        same = [sample for sample in samples if sample.layer.law.cols == cols]
        for gain_bits in GAIN_BITS:
            best = gain_error(same, OPTIMUM, gain_bits)
            row = [f"{cols}", f"{gain_bits}", f"{best / expected_error(same, gain_bits):.3f}"]
            for design in DESIGNS:
                by_law = law_excess(same[0].layer.law, design, gain_bits)
                measured = gain_error(same, design, gain_bits) / best - 1
                row += [f"{100 * by_law:z.1f} %", f"{100 * measured:z.1f} %"]
            fitted = gain_error(same, FITTED, gain_bits) / best - 1
            rows.append([*row, f"{100 * fitted:z.1f} %"])
    head = ["cols", "gain bits", f"{OPTIMUM}: measured / law"]
    head += [part for design in DESIGNS for part in (f"{design}: law", "measured")]
    return report.table([*head, f"{FITTED}: measured"], rows)


def tensor_table(samples: Sequence[Sample]) -> str:
    """Return the distances of each tensor."""
    rows = []
    for sample in samples:
        entry, law = sample.layer.entry, sample.layer.law
        pair = (distance(sample.rotated, law), distance(sample.plain, law))
        shape = " × ".join(map(str, entry.shape))
        size = f"{sample.rotated.size}"
        rows.append([entry.name, shape, size, f"{sample.layer.k}", *(f"{x:.4f}" for x in pair)])
    return report.table(["tensor", "shape", "groups", "k", "rotated", "as it is"], rows)


def choose_shown(samples: Sequence[Sample]) -> Shown:
    """Return what to draw: the law with most groups, and its kind that begins farthest from it."""
    sizes = dict.fromkeys((sample.layer.law for sample in samples), 0)
    for sample in samples:
        sizes[sample.layer.law] += sample.rotated.size
    law = max(sizes, key=sizes.__getitem__)
    same = [sample for sample in samples if sample.layer.law == law]
    kind = max(same, key=lambda sample: distance(sample.plain, law)).layer.kind
    some = [sample for sample in same if sample.layer.kind == kind]

    def panel(title: str, name: str) -> Panel:
        norms, norms_of_kind = (
            np.concatenate([getattr(sample, name) for sample in part]) for part in (same, some)
        )
        return Panel(title, norms, kind, norms_of_kind)

    turned = panel(f"rows of {law.cols} weights, rotated", "rotated")
    return Shown(law, (turned, panel("the same rows as they are", "plain")))


def origin(model: Model) -> dict[str, object]:
    """Return what bench/fetch_smollm2.py says of a model that it made, {} for others."""
    path = model.path / "SOURCE.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return known if {"note", "dtype", "rotate"} <= known.keys() else {}


def commands(model: Model) -> str:
    """Return the commands that lead to the page."""
    lines, known = [report.command(__file__)], origin(model)
    if known:
        options = f" --dtype {known['dtype']}"
        options += "" if known["rotate"] is None else f" --rotate {known['rotate']}"
        lines.insert(0, f"python bench/fetch_smollm2.py {model.path}{options}")
    return "\n".join(f"    {line}" for line in lines)


def weights(model: Model) -> str:
    """Return a list of the weight files."""
    note = origin(model).get("note")
    lines = [f"- {note}"] if note else []
    lines += [f"- `{file}`, SHA-256 {file_sha256(model.file(file))}" for file in model.headers]
    return "\n".join(lines)


def page(model: Model, samples: Sequence[Sample], shown: Shown, picture: str) -> str:
    """Return the result page."""
    drawn, cols, n = shown.panels[0], shown.law.cols, shown.law.n
    return f"""# Norms of groups, and the law of the gain levels

Gain levels rest on an assumption: a rotated row is uniform on a sphere, so that the norm r of n of
its cols weights, in units of the row's norm, obeys r² ~ Beta(n/2, (cols-n)/2)
([spec](../spec.md), sections 5.2 and 6). Here it is checked for n = {n} on {len(samples)} matrices
of a real model.

![Density of r in rotated rows and in rows as they are, and the law]({picture})

Above are the matrices with {cols} columns, {drawn.norms.size:,} groups in all. The outline is
{drawn.kind} on its own, the kind that lies farthest from the law as it is. Triangles and dashed
lines are the 8 Lloyd–Max levels that the law gives for r at 3 gain bits.

## Distance from the law

The Kolmogorov–Smirnov distance: the largest difference between the distribution function of r in
one tensor and that of the law; mean and maximum over tensors. *sampling alone* is the mean distance
of as many independent numbers that obey the law.

{kind_table(samples)}

## What the designs of levels lose

The mean squared error of the gains above that of Lloyd–Max levels, for levels of the designs of
section 5.4: by the law, and measured on the optimal gains of the rotated rows. k is what an encoder
takes at {RATE:g} bits per weight, see the last table. The third column is the measured error of
Lloyd–Max levels over the one that the law expects. *{FITTED}* levels are fitted to each tensor's
gains.

{excess_table(samples)}

## Each tensor

{tensor_table(samples)}

## How it was measured

{commands(model)}

The weights:

{weights(model)}

Nothing was written before these checks had passed:

- the density belongs to the distribution function, and each histogram integrates to 1;
- {CHECKED:,} random numbers of the law are close to it by the distance above, and the same numbers
  made larger by 5 % are not;
- by the law, no design is better than Lloyd–Max levels;
- the rotation keeps the norm of every row;
- every vector that the search found has l1 norm k, and no gain is above the norm of its group.

{report.made_with(*PACKAGES)}.
"""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Compare the norms of the groups of a model's rows with the Beta law."
    )
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", help="folder of the model")
    parser.add_argument(
        "--group", type=int, default=32, metavar="N", help="size of a group (default: %(default)s)"
    )
    parser.add_argument(
        "--per-kind",
        type=int,
        default=4,
        metavar="N",
        help="matrices of each kind, from the first to the last (default: %(default)s)",
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write a result page, and a picture beside it"
    )
    given = parser.parse_args()
    for option in ("group", "per_kind"):
        if getattr(given, option) < 1:
            parser.error(f"--{option.replace('_', '-')} must be at least 1")
    return given


def main() -> None:
    """Measure, validate, and only then print and write."""
    given = arguments()
    try:
        model = open_model(given.model)
        samples = [
            measure(layer) for layer in spread(layers(model, given.group, RATE), given.per_kind)
        ]
    except PVQError as error:
        raise SystemExit(str(error)) from None
    if not samples:
        raise SystemExit(f"{given.model}: no matrix has rows of more than {given.group} weights")
    for law in {sample.layer.law for sample in samples}:
        check_law(law)
    shown = choose_shown(samples)
    figure = draw(shown)
    tables = (kind_table(samples), excess_table(samples), tensor_table(samples))
    print(*tables, report.made_with(*PACKAGES), sep="\n\n")
    if given.markdown is not None:
        picture = given.markdown.with_suffix(".svg")
        report.write_page(given.markdown, page(model, samples, shown, picture.name))
        save_svg(figure, picture)


if __name__ == "__main__":
    main()
