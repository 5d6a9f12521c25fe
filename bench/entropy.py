#!/usr/bin/env python3
"""Measure the entropy of indices and gains beside their fixed widths.

    python bench/entropy.py [COMPRESSED…] [--markdown FILE]

First for a Gaussian source, where the measure of `pvq_ref.entropy` is compared with the entropy of
the indices themselves (where they are few enough to be counted), with another code, and with
theory; then for compressed models. It exits with 1 where they don't agree.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from math import e, lgamma, log, log2, pi
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import report
from pvq_ref import count, rank, search
from pvq_ref.counting import bits
from pvq_ref.entropy import (
    NOTHING,
    Entropy,
    entropy_of_counts,
    entropy_of_norms,
    squared_norms,
)
from pvq_ref.inspection import entropies
from pvq_ref.model import open_model

PACKAGES = ("numpy", "numba")
SEED = 20241016
GROUPS = 400_000
COUNTED = 1 << 15  # points up to which the indices themselves are counted
SMOOTHING = 0.05  # added to every count of the code by coordinates
PYRAMIDS = (
    (2, 4), (4, 5), (8, 6), (8, 14), (8, 100), (16, 11), (16, 28), (16, 100),
    (32, 21), (32, 55), (32, 96), (32, 190), (64, 42), (64, 111), (128, 221),
)  # fmt: skip


@dataclass(frozen=True)
class Gaussian:
    """Bits of an index of a Gaussian source; direct is None where points are too many."""

    n: int
    k: int
    direct: float | None
    norms: float
    coordinates: float
    limit: float

    @property
    def log2_count(self) -> float:
        """log2 V(n,k)."""
        return log2(count(self.n, self.k))

    @property
    def spare(self) -> float:
        """What log2 V has above the entropy."""
        return self.log2_count - self.norms


def by_coordinates(y: NDArray[np.int32], k: int) -> float:
    """Return the bits of a code for one coordinate after the other.

    |y_j| is coded with its frequencies where as many coordinates and pulses are left; they are
    counted on one half of the vectors, and the other half is coded. A sign takes one bit.
    """
    magnitudes = np.abs(y)
    half = len(y) // 2
    total = float((magnitudes[half:] > 0).sum()) / (len(y) - half)
    left = np.full(len(y), k)
    possible = np.tril(np.ones((k + 1, k + 1)))
    for j in range(y.shape[1] - 1):  # the last coordinate takes what is left
        seen = np.zeros((k + 1, k + 1))
        np.add.at(seen, (left[:half], magnitudes[:half, j]), 1.0)
        seen += SMOOTHING * possible
        share = seen / seen.sum(axis=1, keepdims=True)
        total -= float(np.log2(share[left[half:], magnitudes[half:, j]]).mean())
        left = left - magnitudes[:, j]
    return total


def limit(x: NDArray[np.float64]) -> float:
    """Return log2 V less the entropy for many pulses: log2 of the densities' ratio.

    V is about 2^n k^(n-1) / (n-1)!, and a direction falls to y with probability k / (S ||y||^n);
    y is about k x/|x|, with |x| the l1 norm.
    """
    n = x.shape[1]
    log2_sphere = 1 + n / 2 * log2(pi) - lgamma(n / 2) / log(2)
    ratio = np.abs(x).sum(axis=1) / np.sqrt((x * x).sum(axis=1))
    return n + n * float(np.log2(ratio).mean()) - lgamma(n) / log(2) - log2_sphere


def measure(n: int, k: int, groups: int) -> Gaussian:
    """Measure one pyramid."""
    x = np.random.default_rng([SEED, n]).standard_normal((groups, n))
    y = search(x, k)
    norms = entropy_of_norms(n, k, squared_norms(y))
    assert norms is not None
    direct = None
    if count(n, k) <= COUNTED:
        direct = entropy_of_counts(np.unique(rank(y)[:, 0], return_counts=True)[1])
    return Gaussian(n, k, direct, norms, by_coordinates(y, k), limit(x))


def failures(case: Gaussian) -> list[str]:
    """Return what is wrong with the figures of one pyramid."""
    name = f"n = {case.n}, k = {case.k}:"
    wrong = []
    if case.direct is not None and abs(case.norms - case.direct) > 0.01:
        wrong.append(f"{name} {case.norms} bits must be within 0.01 of {case.direct}")
    if not -0.02 < case.coordinates - case.norms < 0.003 * case.norms:
        wrong.append(f"{name} a code by coordinates must be alike, got {case.coordinates}")
    if not 0 < case.spare < 1.01 * case.limit:
        wrong.append(f"{name} log2 V must be above by at most {case.limit}, got {case.spare}")
    if case.k >= 6 * case.n and case.spare < 0.97 * case.limit:
        wrong.append(f"{name} log2 V must be above by nearly {case.limit}, got {case.spare}")
    return wrong


def gaussian_table(cases: Sequence[Gaussian]) -> str:
    """Return the figures of a Gaussian source, in bits."""
    head = ["n", "k", "B", "log2 V", "counted", "by norms", "by coordinates",
            "spare a weight", "limit"]  # fmt: skip
    rows = [
        [
            str(c.n), str(c.k), str(bits(c.n, c.k)), f"{c.log2_count:.3f}",
            "" if c.direct is None else f"{c.direct:.3f}", f"{c.norms:.3f}",
            f"{c.coordinates:.3f}", f"{c.spare / c.n:.4f}", f"{c.limit / c.n:.4f}",
        ]
        for c in cases
    ]  # fmt: skip
    return report.table(head, rows)


def model_table(models: dict[str, dict[str, Entropy]]) -> str:
    """Return the figures of models, in bits per weight."""
    head = ["model", "indices", "log2 V", "their entropy", "least and most", "gains",
            "their entropy", "together", "entropy"]  # fmt: skip
    rows = []
    for name, found in models.items():
        rates = {k: v or 0.0 for k, v in sum(found.values(), NOTHING).per_weight().items()}
        each = [one.per_weight()["index_entropy"] or 0.0 for one in found.values()]
        index, gain = rates["index_entropy"], rates["gain_entropy"]
        rows.append([
            f"{name}, {len(found)} tensors", f"{rates['index_width']:.4f}",
            f"{rates['index_log2']:.4f}", f"{index:.4f}", f"{min(each):.4f} to {max(each):.4f}",
            f"{rates['gain_width']:.4f}", f"{gain:.4f}",
            f"{rates['index_width'] + rates['gain_width']:.4f}", f"{index + gain:.4f}",
        ])  # fmt: skip
    return report.table(head, rows)


def page(cases: Sequence[Gaussian], models: dict[str, dict[str, Entropy]], groups: int) -> str:
    """Return the page of results."""
    infinite = log2(2 * e**0.5 / pi)
    return f"""# Entropy of the indices

A file stores each index in B(n,k) bits, whatever it is. How much could an entropy coder save? An
index of a hundred bits never comes twice, so its frequency can't be counted. `pvq_ref.entropy`
measures this instead: the entropy of b = ||y||², counted, and the mean of log2 N(b), where N(b) is
the number of points with that b. By the chain rule that is an upper bound on the entropy of the
indices, and the size that an ideal coder reaches which knows the frequencies of b and nothing else.
`pvq-ref inspect --entropy` prints it for every tensor, and the entropy of the gains.

## A Gaussian source

Bits of an index, of groups of normal numbers, {groups:,} for each pyramid.

{gaussian_table(cases)}

- *counted*: the entropy of the indices themselves, where points are few enough.
- *by norms*: the measure above. It is within 0.01 bits of *counted*.
- *by coordinates*: another code, as a check. It codes |y_1|, |y_2|, … with the frequencies that
  each has where as many pulses are left, counted on one half of the groups and measured on the
  other, and one bit for a sign. Its tables are larger, and so it loses more to what it must learn.
- *spare a weight*: log2 V less the entropy, over n. *limit*: the same for many pulses, by theory:
  a pyramid has equally many points everywhere on its sides, but the directions of normal numbers
  are dense in their middle. For n without end it is log2(2 √e / π) = {infinite:.4f} bits, the
  divergence of a normal variable from a Laplacian one of the same mean magnitude.

So on a Gaussian source, and on weights that a rotation makes like one, log2 V is at most
{infinite:.2f} bits a weight above the entropy; to that comes the part of a bit by which B is above
log2 V. An entropy coder could take both back, but then a group would no longer have its fixed place
in the file.

## Models

Bits per weight. *least and most* are those of single tensors.

{model_table(models)}

The models are those of `bench/fetch_smollm2.py`, the rotated one made with `--rotate 1`, compressed
by `pvq-ref compress` at its default of 3.25 bits.

## How it was measured

    {report.command(__file__)}

Nothing was written before these checks had passed, for every pyramid: *by norms* is within 0.01
bits of *counted*; *by coordinates* isn't more than 0.02 bits below it, nor 0.3 % above; the spare
bits are above 0 and at most 1 % above their limit, and with 6 pulses a weight and more not 3 %
below it.

The source is NumPy's default generator, its seed {SEED} and n. {report.made_with(*PACKAGES)}.
"""


def main() -> None:
    """Measure, validate, and only then print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, metavar="COMPRESSED")
    parser.add_argument("--groups", type=int, default=GROUPS, metavar="N")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a result page there")
    given = parser.parse_args()
    cases = [measure(n, k, given.groups) for n, k in PYRAMIDS]
    wrong = [line for case in cases for line in failures(case)]
    models = {path.name: entropies(open_model(path)) for path in given.models}
    print(gaussian_table(cases), model_table(models), sep="\n\n")
    if wrong:
        raise SystemExit("\n".join(wrong))
    if given.markdown is not None:
        report.write_page(given.markdown, page(cases, models, given.groups))


if __name__ == "__main__":
    main()
