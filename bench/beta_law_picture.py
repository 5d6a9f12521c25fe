"""The picture of beta_law.py: histograms of group norms, the law's density, and gain levels."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pvq_ref.gain import BetaLaw, law_levels

Floats = NDArray[np.float64]

GAIN_BITS = 3
BINS = 45  # of a histogram, over the SHOWN part of the law
SHOWN = 0.999  # part of the law and of the kind that the horizontal axis has room for
TAILS = ((1.0 - SHOWN) / 2, (1.0 + SHOWN) / 2)
FILL, OUTLINE, INK = "#9ecae1", "#d95f02", "#222222"


@dataclass(frozen=True)
class Panel:
    """Norms of groups, in units of their row's: all of them, and those of one kind of matrix."""

    title: str
    norms: Floats
    kind: str
    norms_of_kind: Floats


@dataclass(frozen=True)
class Shown:
    """Two panels, one beside the other, and the law that both are compared with."""

    law: BetaLaw
    panels: tuple[Panel, Panel]


def histogram(norms: Floats, law: BetaLaw) -> tuple[Floats, Floats]:
    """Return densities and bin edges that cover every norm; exit unless they integrate to 1."""
    width = float(np.diff(law.quantile(TAILS))[0]) / BINS
    edges = np.arange(0.0, float(norms.max()) + 2 * width, width)
    density = np.histogram(norms, edges)[0] / (norms.size * np.diff(edges))
    if not abs(float(np.sum(density * np.diff(edges))) - 1.0) <= 1e-9:
        raise SystemExit("a histogram must integrate to 1")
    return density, edges


def _note_beyond(axes: Axes, panel: Panel, low: float, high: float) -> None:
    """Say which part of the groups the axis has no room for."""
    parts = [
        f"{100 * np.mean((norms < low) | (norms > high)):.2f} % of {name}"
        for name, norms in (("all groups", panel.norms), (panel.kind, panel.norms_of_kind))
        if np.any((norms < low) | (norms > high))
    ]
    if parts:
        note = "\n".join(["beyond the axis:", *parts])
        axes.text(0.98, 0.6, note, transform=axes.transAxes, ha="right", fontsize=8)


def _draw_panel(axes: Axes, panel: Panel, law: BetaLaw, low: float, high: float) -> None:
    axes.stairs(*histogram(panel.norms, law), fill=True, color=FILL, label="all matrices")
    axes.stairs(
        *histogram(panel.norms_of_kind, law),
        color=OUTLINE,
        linewidth=1.3,
        label=f"{panel.kind} alone",
    )
    r = np.linspace(low, high, 500)
    axes.plot(r, law.density(r), color=INK, linewidth=1.3, label="Beta law")
    levels = law_levels("lloyd-max", law, GAIN_BITS)
    axes.vlines(levels, 0.0, law.density(levels), color=INK, linewidth=0.8, linestyle=(0, (4, 2)))
    label = f"its {levels.size} Lloyd–Max levels"
    marks = np.zeros(levels.size)
    axes.plot(levels, marks, "^", color=INK, markersize=5, clip_on=False, zorder=3, label=label)
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel(f"r = norm of a group of {law.n} / norm of its row  (no unit)")
    axes.spines[["top", "right"]].set_visible(False)
    _note_beyond(axes, panel, low, high)


def _ends(shown: Shown) -> tuple[float, float]:
    """Return the ends of the horizontal axis."""
    ends = [np.quantile(panel.norms_of_kind, TAILS) for panel in shown.panels]
    ends.append(shown.law.quantile(TAILS))
    return max(1e-3, min(float(low) for low, _ in ends)), max(float(high) for _, high in ends)


def draw(shown: Shown) -> Figure:
    """Return one panel beside the other, on the same axes."""
    low, high = _ends(shown)
    figure = Figure(figsize=(9.0, 4.0), layout="constrained", facecolor="white")
    both = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, panel in zip(both, shown.panels, strict=True):
        _draw_panel(axes, panel, shown.law, low, high)
    both[0].set_xlim(low, high)
    both[0].set_ylim(bottom=0.0)
    both[0].locator_params(axis="x", nbins=5)
    both[0].set_ylabel("density  (per unit of r)")
    handles, labels = both[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def save_svg(figure: Figure, path: Path) -> None:
    """Write a picture whose bytes depend on nothing but its content."""
    with mpl.rc_context({"svg.hashsalt": "pvq_ref"}):
        figure.savefig(path, format="svg", metadata={"Date": None})
