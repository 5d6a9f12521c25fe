"""The picture of quality_report.py: perplexity against the rate in the file, a line a family.

What is shown is how far it is above the original's, in a logarithmic scale: small losses count.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, PercentFormatter

RATES = (2.0, 5.0)  # that the axis has room for
EXCESS = (0.005, 3.0)  # of the perplexity over the original's, relative, likewise
STYLES = {
    "PVQ": ("#d95f02", "o"),
    "like TurboQuant, with feedback": ("#1b9e77", "v"),
    "like TurboQuant": ("#66c2a5", "^"),
    "GPTQ, rotated": ("#1f78b4", "s"),
    "GPTQ": ("#a6cee3", "D"),
    "round to nearest, rotated": ("#6a3d9a", "P"),
    "round to nearest": ("#b2a2d2", "X"),
}


@dataclass(frozen=True)
class Point:
    """One configuration: bits per weight in the file, perplexity over the original's."""

    family: str
    rate: float
    ratio: float


def best(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other of fewer bits matches, by rate."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda one: (one.rate, one.ratio)):
        if not kept or point.ratio < kept[-1].ratio:
            kept.append(point)
    return kept


def seen(point: Point) -> bool:
    """Return whether the axes have room for a point."""
    low, high = EXCESS
    return RATES[0] <= point.rate <= RATES[1] and low <= point.ratio - 1 <= high


def draw(points: Sequence[Point]) -> Figure:
    """Return the picture: all points, and lines through the best of each family."""
    figure = Figure(figsize=(8.0, 5.0), layout="constrained", facecolor="white")
    axes = figure.subplots()
    for family, (color, marker) in STYLES.items():
        own = [point for point in points if point.family == family]
        shown = [point for point in own if seen(point)]
        if own:
            beyond = "" if len(shown) == len(own) else f" ({len(own) - len(shown)} beyond the axes)"
            axes.plot(
                [one.rate for one in best(shown)],
                [one.ratio - 1 for one in best(shown)],
                color=color,
                linewidth=1.4,
            )
            axes.plot(
                [one.rate for one in shown],
                [one.ratio - 1 for one in shown],
                marker,
                color=color,
                markersize=4.5,
                label=family + beyond,
            )
    axes.set_yscale("log")
    axes.set_xlim(*RATES)
    axes.set_ylim(*EXCESS)
    axes.yaxis.set_major_locator(FixedLocator([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("bits per weight in the file")
    axes.set_ylabel("perplexity above the original's")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return figure
