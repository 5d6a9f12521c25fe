#!/usr/bin/env python3
"""Measure the squared error of a Gaussian source, coded with whole bits for index and gain.

    python bench/gaussian.py [--groups N] [--json FILE] [--markdown FILE]

The source is rows of 65536 independent normal numbers of variance 1, cut into groups of n. A group
becomes B(n,k) bits of index and some bits of gain (spec section 1), together at most n times the
rate. Of all divisions into index and gain the one of least predicted error (spec section 8.6) is
measured, on numbers that the prediction hasn't seen. Gains are in units of sqrt(65536), the root of
a row's mean squared norm. Row norms and levels aren't counted: all rows share them.

Beside it stand the paper's search and levels, scalar quantizers (scalar.py), and the least error of
any code at that rate, 4^-rate (Shannon 1959).
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import report
from pvq_ref import search, search_project
from pvq_ref.counting import bits, most_pulses
from pvq_ref.gain import (
    MAX_GAIN_BITS,
    SAMPLE,
    BetaLaw,
    cosines,
    design_levels,
    law_levels,
    nearest_levels,
    optimal_gains,
)
from scalar import lloyd_max_error, uniform_error

Floats = NDArray[np.float64]
Points = NDArray[np.int32]

GROUP_SIZES = (8, 16, 32, 64, 128)
RATES = (2.0, 3.0, 3.25, 4.0)  # coded bits per weight
COLS = 1 << 16  # weights of a row
ROW_NORM = math.sqrt(COLS)
CHUNK_ROWS = 8  # rows in memory at once
SEED = 20241016
LIMITS = {  # by n: the greatest errors that pass, one for each of RATES
    32: (0.1008, 0.0250, 0.0178, 0.0062),
    64: (0.0983, 0.0250, 0.0176, 0.0062),
}
TOLERANCE = 0.02  # relative, of the prediction
ROUNDING = 1e-12  # relative, far above the rounding errors of sums of 128 products
PACKAGES = ("numpy", "scipy", "numba")


@dataclass(frozen=True)
class Split:
    """Pulses and gain bits of a group, and the predicted error per weight."""

    n: int
    k: int
    gain_bits: int
    predicted: float

    @property
    def coded_rate(self) -> float:
        """Whole bits per weight."""
        return (bits(self.n, self.k) + self.gain_bits) / self.n

    def levels(self, design: str) -> NDArray[np.float32]:
        """Return levels of the gain, in units of the row norm."""
        return design_levels(design, self.n, self.k, COLS, self.gain_bits)


@dataclass(frozen=True)
class Case:
    """One group size at one rate. Errors are means per weight of a source of variance 1."""

    rate: float
    split: Split
    groups: int
    measured: float
    standard_error: float
    paper_search: float  # in place of the exact search
    paper_levels: float  # in place of Lloyd–Max levels
    paper_both: float
    missed: float  # part of the groups where the paper's search doesn't find the best cosine


# ---------------------------------------------------------------- choosing


def predicted_error(design: str, n: int, k: int, gain_bits: int) -> float:
    """Return the expected error per weight (spec section 8.6)."""
    law, cosine = BetaLaw(n, COLS), cosines(n, k)
    gain = law.distortion(law_levels(design, law, gain_bits))
    return COLS / n * (law.mean_square * (1 - cosine.mean_square) + cosine.mean**2 * gain)


def choose(design: str, n: int, rate: float) -> Split:
    """Return the split of least predicted error whose whole bits are at most n · rate."""
    splits = []
    for gain_bits in range(MAX_GAIN_BITS + 1):
        k = most_pulses(n, math.floor(n * rate) - gain_bits)
        if k > 0:
            splits.append(Split(n, k, gain_bits, predicted_error(design, n, k, gain_bits)))
    return min(splits, key=lambda split: split.predicted)


# ---------------------------------------------------------------- measuring


def sample(n: int, groups: int) -> Iterator[Floats]:
    """Yield groups (some, n) of whole rows, in all at least `groups`; the same in each call."""
    generator = np.random.default_rng([SEED, n])
    rows = -(-groups * n // COLS)
    for first in range(0, rows, CHUNK_ROWS):
        yield generator.standard_normal((min(CHUNK_ROWS, rows - first) * (COLS // n), n))


def check_points(y: Points, k: int) -> None:
    """Exit unless every row of y is a point of the pyramid."""
    if np.any(np.abs(y.astype(np.int64)).sum(axis=1) != k):
        raise SystemExit(f"n = {y.shape[1]}, k = {k}: a search left the pyramid")


def missed_groups(w: Floats, exact: Points, near: Points) -> NDArray[np.bool]:
    """Return where the near points have the larger error at the optimal gain; exit if smaller."""
    gap = optimal_gains(w, exact) ** 2 - optimal_gains(w, near) ** 2
    gap /= np.sum(w * w, axis=1)
    if np.any(gap < -ROUNDING):
        raise SystemExit(
            f"n = {w.shape[1]}: the paper's search found less error than the exact one"
        )
    return np.asarray(gap > ROUNDING)


def group_errors(w: Floats, y: Points, levels: NDArray[np.float32]) -> Floats:
    """Return the squared error of each group, rebuilt from y and the nearest level."""
    fields = nearest_levels(optimal_gains(w, y) / ROW_NORM, levels)
    scale = levels.astype(np.float64)[fields] * ROW_NORM / np.linalg.norm(y, axis=1)
    return np.asarray(np.sum((w - scale[:, None] * y) ** 2, axis=1))


def measure_chunk(w: Floats, split: Split) -> Floats:
    """Return (5, groups): the four errors of a Case in its order, and whether it is missed."""
    exact, near = search(w, split.k), search_project(w, split.k)
    check_points(exact, split.k)
    check_points(near, split.k)
    lloyd_max, quantile = split.levels("lloyd-max"), split.levels("quantile")
    errors = [
        group_errors(w, exact, lloyd_max),
        group_errors(w, near, lloyd_max),
        group_errors(w, exact, quantile),
        group_errors(w, near, quantile),
    ]
    return np.stack([*errors, missed_groups(w, exact, near).astype(np.float64)])


def measure(n: int, rate: float, groups: int) -> Case:
    """Choose by prediction, then measure."""
    split = choose("lloyd-max", n, rate)
    found = np.concatenate([measure_chunk(w, split) for w in sample(n, groups)], axis=1)
    measured, paper_search, paper_levels, paper_both = (float(row.mean()) / n for row in found[:4])
    return Case(
        rate=rate,
        split=split,
        groups=found.shape[1],
        measured=measured,
        standard_error=float(found[0].std(ddof=1)) / n / math.sqrt(found.shape[1]),
        paper_search=paper_search,
        paper_levels=paper_levels,
        paper_both=paper_both,
        missed=float(found[4].mean()),
    )


# ---------------------------------------------------------------- validating


def failures(case: Case) -> Iterator[str]:
    """Yield what is wrong with the figures of a case."""
    split, got = case.split, case.measured
    where = f"n = {split.n} at {case.rate:g} bits: error {got:.5f}"
    if not split.coded_rate <= case.rate:
        yield f"{where} takes {split.coded_rate} coded bits"
    if not got > 4.0**-split.coded_rate:
        yield f"{where} is below {4.0**-split.coded_rate:.5f}, the least of any code"
    if not abs(got / split.predicted - 1) <= TOLERANCE:
        yield f"{where} is not within {100 * TOLERANCE:g} % of the predicted {split.predicted:.5f}"
    limit = dict(zip(RATES, LIMITS.get(split.n, ()), strict=False)).get(case.rate, math.inf)
    if not got <= limit:
        yield f"{where} is above the limit {limit:.4f}"


# ---------------------------------------------------------------- reporting


def main_table(cases: Sequence[Case]) -> str:
    """Return errors by group size and rate, with the limit and the scalar quantizers below."""
    whole = [int(rate) if rate.is_integer() else 0 for rate in RATES]
    rows = [
        [f"n = {n}", *(f"{case.measured:.4f}" for case in cases if case.split.n == n)]
        for n in GROUP_SIZES
    ]
    rows += [
        ["least of any code, 4^-rate", *(f"{4.0**-rate:.4f}" for rate in RATES)],
        ["Lloyd–Max scalar", *(f"{lloyd_max_error(rate):.4f}" if rate else "" for rate in whole)],
        ["uniform scalar", *(f"{uniform_error(rate):.4f}" if rate else "" for rate in whole)],
    ]
    return report.table(["", *(f"{rate:g} bits" for rate in RATES)], rows)


def detail_row(case: Case) -> list[str]:
    """Return the cells of one case."""
    split = case.split
    others = (case.paper_search, case.paper_levels, case.paper_both)
    return [
        *(f"{split.n}", f"{case.rate:g}", f"{split.k}", f"{split.gain_bits}"),
        *(f"{split.predicted:.5f}", f"{case.measured:.5f}"),
        f"{100 * case.standard_error / case.measured:.2f} %",
        *(f"{error:.5f}" for error in others),
        f"{100 * case.missed:.1f} %",
    ]


def detail_table(cases: Sequence[Case]) -> str:
    """Return all that was measured, one row for each case."""
    head = "n|rate|k|gain bits|predicted|measured|±|paper's search|paper's levels|both|missed"
    return report.table(head.split("|"), [detail_row(case) for case in cases])


def same_choices(cases: Sequence[Case]) -> int:
    """Return in how many cases the paper's levels would choose the same split."""
    splits = [(choose("quantile", case.split.n, case.rate), case.split) for case in cases]
    return sum((a.k, a.gain_bits) == (b.k, b.gain_bits) for a, b in splits)


def page(cases: Sequence[Case]) -> str:
    """Return the result page."""
    fewest = min(case.groups for case in cases)
    apart = max(abs(case.measured / case.split.predicted - 1) for case in cases)
    limits = "\n".join(
        f"  - n = {n}: {', '.join(f'{limit:.4f}' for limit in limits)}"
        for n, limits in LIMITS.items()
    )
    return f"""# Squared error of a Gaussian source

Mean squared error per weight of independent normal numbers of variance 1, at whole coded bits per
weight: the B(n,k) bits of an index and the bits of a gain, together at most n times the rate
([spec](../spec.md), section 1). The search is the exact one; gains are the optimal ones, rounded
to Lloyd–Max levels. Each figure is measured on {fewest:,} groups or more.

{main_table(cases)}

The last three rows: what no code of this rate can go below (Shannon); single weights rounded to
the 2^rate best levels (Lloyd, Max); single weights rounded to 2^rate levels at equal distances, the
best ones that are symmetric about zero. At 3.25 bits 2^rate isn't a whole number.

## Each case

The number of pulses k and of gain bits is the one of least *predicted* error (section 8.6), which
rests on a sample of {SAMPLE} normal numbers of its own. *±* is the standard error of the measured
mean. Prediction and measurement differ by {100 * apart:.1f} % at most.

Beside it, on the same numbers and with the same k and gain bits:

- *paper's search*: project, round, fix (section 4.2) in place of the exact search. *missed* is
  the part of the groups where it doesn't find the best cosine.
- *paper's levels*: gain levels of equal probability in place of Lloyd–Max levels. Their own best
  choice of k and gain bits is the same in {same_choices(cases)} of the {len(cases)} cases.
- *both* together.

{detail_table(cases)}

## How it was measured

    {report.command(__file__)}

Nothing was written before these checks had passed:

- every vector found has l1 norm k;
- on no group has the exact search a larger error than the paper's, each at its optimal gain;
- every measured error is above 4^-rate, and within {100 * TOLERANCE:g} % of the prediction;
- at {", ".join(f"{rate:g}" for rate in RATES)} bits it is at most
{limits}

The groups are cut from rows of {COLS} numbers of NumPy's default generator, its seed {SEED} and n.
Gains are in units of the root of {COLS}, and levels are those of the law for such rows. Row norms
and levels aren't counted: all rows share them.

{report.made_with(*PACKAGES)}.
"""


def as_json(cases: Sequence[Case]) -> str:
    """Return all figures and what made them."""
    whole = [int(rate) for rate in RATES if rate.is_integer()]
    content = {
        "command": report.command(__file__),
        "versions": report.versions(*PACKAGES),
        "processor": report.processor(),
        "seed": SEED,
        "cols": COLS,
        "cases": [{**asdict(case), "coded_rate": case.split.coded_rate} for case in cases],
        "lloyd_max_scalar": {rate: lloyd_max_error(rate) for rate in whole},
        "uniform_scalar": {rate: uniform_error(rate) for rate in whole},
    }
    return json.dumps(content, indent=1) + "\n"


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Measure the squared error of a Gaussian source at whole coded bits."
    )
    parser.add_argument(
        "--groups",
        type=int,
        default=100_000,
        metavar="N",
        help=f"groups of each size, rounded up to rows of {COLS} weights (default: %(default)s; "
        "fewer may miss the limits by chance)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a result page there")
    given = parser.parse_args()
    if given.groups < 1:
        parser.error(f"--groups must be at least 1, got {given.groups}")
    return given


def main() -> None:
    """Measure, validate, and only then print and write."""
    given = arguments()
    cases = [measure(n, rate, given.groups) for n in GROUP_SIZES for rate in RATES]
    wrong = [line for case in cases for line in failures(case)]
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(main_table(cases), detail_table(cases), report.made_with(*PACKAGES), sep="\n\n")
    if given.json is not None:
        report.write_page(given.json, as_json(cases))
    if given.markdown is not None:
        report.write_page(given.markdown, page(cases))


if __name__ == "__main__":
    main()
