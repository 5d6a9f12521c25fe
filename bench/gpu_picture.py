"""The picture of bench/gpu.py: time against batch for the first shape, and speed for all shapes."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gpu_page import half

MARKS = {16: "o", 32: "s", 64: "^"}
COLORS = {
    (2.25, "tree"): "#1b7f4d", (3.25, "tree"): "#1f77b4", (3.25, "fixed"): "#7b3294",
    (4.25, "fixed"): "#c51b7d",
}  # fmt: skip
INK, ORANGE = "#222222", "#d95f02"


Kind = tuple[float, int, str]  # rate, n, form


def _kind(row: dict[str, Any]) -> Kind:
    return row["rate"], row["n"], row["form"]


def _kinds(rows: list[dict[str, Any]]) -> list[Kind]:
    """Return the kinds that are drawn, in the order of the rows."""
    found = dict.fromkeys(_kind(row) for row in rows)
    return [one for one in found if (one[0], one[2]) in COLORS and one[1] in MARKS]


def _style(kind: Kind) -> dict[str, Any]:
    rate, n, form = kind
    label = f"{rate} bits, n = {n}" + ("" if form == "tree" else f", {form}")
    return {"label": label, "color": COLORS[rate, form], "marker": MARKS[n]}


def _batches(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Draw times of the first shape against the batch."""
    shape = rows[0]["rows"], rows[0]["cols"]
    mine = [row for row in rows if (row["rows"], row["cols"]) == shape]
    for kind in _kinds(mine):
        points = [(row["batch"], row["us"]["pvq"]) for row in mine if _kind(row) == kind]
        axes.plot(*zip(*points, strict=True), markersize=4, **_style(kind))
    rivals = {row["batch"]: row for row in mine}
    points = [(b, half(row)) for b, row in sorted(rivals.items()) if half(row) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), color=INK, linestyle="--", label="half precision")
    points = [
        (b, row["us"]["four bits"]) for b, row in sorted(rivals.items()) if "four bits" in row["us"]
    ]
    if points:
        axes.plot(*zip(*points, strict=True), color=ORANGE, linestyle=":", label="4-bit integers")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("batch  (columns)")
    axes.set_ylabel("time of a product  (µs)")
    axes.set_title(f"{shape[0]} × {shape[1]}", fontsize=10)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.legend(fontsize=8, frameon=False)


def _speeds(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Draw, for all shapes at batch 1, how many times faster than half precision."""
    shapes = list(dict.fromkeys((row["rows"], row["cols"]) for row in rows))
    for kind in _kinds(rows):
        points = [
            (shapes.index((row["rows"], row["cols"])), (half(row) or 0) / row["us"]["pvq"])
            for row in rows
            if _kind(row) == kind and row["batch"] == 1
        ]
        if points:
            axes.plot(*zip(*points, strict=True), linestyle="none", **_style(kind))
    axes.axhline(1, color=INK, linestyle="--", linewidth=1)
    axes.set_xticks(range(len(shapes)), [f"{r}\n× {c}" for r, c in shapes], fontsize=8)
    axes.set_xlim(-0.5, len(shapes) - 0.5)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("time of half precision / time of ours")
    axes.set_title("batch 1, marks as on the left", fontsize=10)


def save(found: dict[str, Any], path: Path) -> None:
    """Write the picture as SVG, whose bytes depend on nothing but what was found."""
    rows = [row for row in found["rows"] if "failure" not in row]
    figure = Figure(figsize=(9.0, 4.0), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    if rows:
        _batches(left, rows)
        _speeds(right, rows)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    with mpl.rc_context({"svg.hashsalt": "pvq_ref"}):
        figure.savefig(path, format="svg", metadata={"Date": None})
