"""Group norms and optimal gains of the matrices of a model, rotated and as they are.

n is the size of a group, k its pulses; norms and gains are in units of the norm of the row.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pvq_ref import search
from pvq_ref.container import Entry, Reader
from pvq_ref.gain import BetaLaw, optimal_gains
from pvq_ref.model import Model
from pvq_ref.rates import allot
from pvq_ref.rotation import Rotation
from pvq_ref.selection import reason_to_leave

Floats = NDArray[np.float64]

KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # first ones
RANGE = 1 << 22  # weights in memory at once
ROUNDING = 1e-12  # relative, far above the rounding errors of sums over a row


@dataclass(frozen=True)
class Layer:
    """One matrix of a model: its file, its entry there, and how it is cut."""

    path: Path
    entry: Entry
    n: int
    k: int

    @property
    def kind(self) -> str:
        """The name of its module, without its place in the model."""
        return self.entry.name.removesuffix(".weight").split(".")[-1]

    @property
    def depth(self) -> list[int]:
        """The numbers in its name."""
        return [int(digits) for digits in re.findall(r"\d+", self.entry.name)]

    @property
    def law(self) -> BetaLaw:
        """The law of its group norms."""
        return BetaLaw(self.n, self.entry.shape[1])


@dataclass(frozen=True)
class Sample:
    """All groups of a layer, (groups,) each, in units of the norms of their rows."""

    layer: Layer
    rotated: Floats  # norms r of groups of rotated rows
    plain: Floats  # norms r of groups of rows as they are
    gains: Floats  # optimal gains g* of groups of rotated rows


# ---------------------------------------------------------------- choosing layers


def layers(model: Model, n: int, rate: float) -> list[Layer]:
    """Return the matrices that an encoder takes, with its k, if a row is longer than a group."""
    found = []
    for file, entry in model.entries():
        if reason_to_leave(entry) is None and len(entry.shape) == 2 and entry.shape[1] > n:
            allotment = allot(*entry.shape, rate, n)
            if allotment is not None:
                found.append(Layer(model.file(file), entry, n, allotment.k))
    return found


def spread(found: Sequence[Layer], per_kind: int) -> list[Layer]:
    """Return `per_kind` layers of each kind, evenly spaced from the first to the last."""
    kinds = sorted({layer.kind for layer in found} - set(KINDS))
    chosen = []
    for kind in (*KINDS, *kinds):
        same = sorted((layer for layer in found if layer.kind == kind), key=lambda x: x.depth)
        places = np.linspace(0, len(same) - 1, min(per_kind, len(same)))
        chosen += [same[round(place)] for place in places]
    return chosen


# ---------------------------------------------------------------- measuring


def cut(x: Floats, n: int) -> Floats:
    """Return the whole groups (rows · cols // n, n) of rows."""
    return np.ascontiguousarray(x[:, : x.shape[1] // n * n]).reshape(-1, n)


def row_norms(x: Floats) -> Floats:
    return np.asarray(np.linalg.norm(x, axis=1))


def measure_rows(x: Floats, layer: Layer, rotation: Rotation) -> Floats:
    """Return (3, groups): norms rotated, norms as they are, and gains, of rows that aren't zero."""
    norms = row_norms(x)
    turned = x.copy()
    rotation.forward(turned)
    if np.any(np.abs(row_norms(turned) / norms - 1) > ROUNDING):
        raise SystemExit(f"{layer.entry.name}: the rotation changed the norm of a row")
    groups = cut(turned, layer.n)
    y = search(groups, layer.k)
    if np.any(np.abs(y.astype(np.int64)).sum(axis=1) != layer.k):
        raise SystemExit(f"{layer.entry.name}: the search left the pyramid")
    found = np.stack([row_norms(groups), row_norms(cut(x, layer.n)), optimal_gains(groups, y)])
    if np.any(found[2] > found[0] * (1 + ROUNDING)):
        raise SystemExit(f"{layer.entry.name}: a gain is above the norm of its group")
    return np.asarray(found / np.repeat(norms, x.shape[1] // layer.n))


def measure(layer: Layer) -> Sample:
    """Measure a layer, some rows at a time."""
    rows, cols = layer.entry.shape
    rotation, step = Rotation.of(cols), max(1, RANGE // cols)
    found = []
    with Reader(layer.path) as reader:
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            x = reader.read_rows(layer.entry.name, start, stop).astype(np.float64)
            found.append(measure_rows(x[row_norms(x) > 0.0], layer, rotation))
    rotated, plain, gains = np.concatenate(found, axis=1)
    if rotated.size == 0:
        raise SystemExit(f"{layer.entry.name}: all rows are zero")
    return Sample(layer, rotated, plain, gains)
