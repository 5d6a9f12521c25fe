#!/usr/bin/env python3
"""Draw the figures of docs/guide.md: plain SVG, the same bytes on every machine.

python bench/guide_figures.py [FOLDER]      docs/figures if no folder is named
"""

import sys
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import atan2, cos, degrees, hypot, sin, sqrt
from pathlib import Path

import numpy as np

from pvq_ref import rank, search, search_project
from pvq_ref.gain import BetaLaw, law_levels
from pvq_ref.oracle.counting import enumerate_pyramid

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "figures"
INK, GREY, PALE, BLUE, ORANGE, GREEN = (
    "#222222", "#777777", "#d5d5d5", "#1f77b4", "#d95f02", "#1b7f4d"
)  # fmt: skip
Pair = tuple[float, float]


class Canvas:
    """An SVG picture, drawn in coordinates of its own: scale pixels a unit, y upwards."""

    def __init__(self, width: int, height: int, origin: Pair, scale: Pair) -> None:
        self.origin, self.scale = origin, scale
        self.lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
            f' width="{width}" height="{height}" font-family="Helvetica, Arial, sans-serif"'
            f' font-size="13" fill="{INK}">',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        ]

    def at(self, point: Pair) -> Pair:
        """Return the pixel of a point."""
        x = self.origin[0] + self.scale[0] * point[0]
        return x, self.origin[1] - self.scale[1] * point[1]

    def curve(
        self, points: Sequence[Pair], color: str = INK, width: float = 1.5, dash: str = ""
    ) -> None:
        """Draw straight lines from point to point."""
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(self.at, points))
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.lines.append(
            f'<polyline points="{places}" fill="none" stroke="{color}"'
            f' stroke-width="{width:g}"{dashes}/>'
        )

    def arrow(self, start: Pair, end: Pair, color: str = INK, width: float = 1.5) -> None:
        """Draw an arrow whose head ends at `end`."""
        self.curve([start, end], color, width)
        (x0, y0), (x1, y1) = self.at(start), self.at(end)
        along = atan2(y1 - y0, x1 - x0)
        wings = " ".join(
            f"{x1 - 9 * cos(along + turn):.1f},{y1 - 9 * sin(along + turn):.1f}"
            for turn in (-0.35, 0.35)
        )
        self.lines.append(f'<polygon points="{x1:.1f},{y1:.1f} {wings}" fill="{color}"/>')

    def dot(
        self, point: Pair, color: str = INK, radius: float = 4.5, *, open: bool = False
    ) -> None:
        """Draw a disc, or a ring."""
        x, y = self.at(point)
        look = f'fill="#ffffff" stroke="{color}" stroke-width="1.5"' if open else f'fill="{color}"'
        self.lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" {look}/>')

    def text(
        self, point: Pair, words: str, shift: Pair = (0, 0), color: str = INK, anchor: str = "start"
    ) -> None:
        """Write words at a point, moved by `shift` pixels (y upwards)."""
        x, y = self.at(point)
        words = words.replace("&", "&amp;").replace("<", "&lt;")
        self.lines.append(
            f'<text x="{x + shift[0]:.1f}" y="{y - shift[1] + 4.5:.1f}" fill="{color}"'
            f' text-anchor="{anchor}">{words}</text>'
        )

    def svg(self) -> str:
        """Return the picture."""
        return "\n".join([*self.lines, "</svg>", ""])


def _circle(radius: float, first: float = 0.0, last: float = 360.0) -> list[Pair]:
    angles = np.radians(np.linspace(first, last, 73))
    return [(radius * cos(angle), radius * sin(angle)) for angle in angles]


def _diamond(k: int) -> list[Pair]:
    return [(k, 0), (0, k), (-k, 0), (0, -k), (k, 0)]


def _axes(canvas: Canvas, reach: float) -> None:
    for end in ((reach, 0.0), (0.0, reach)):
        canvas.curve([(-end[0], -end[1]), end], PALE, 1)
    canvas.text((reach, 0), "y₁", (0, -12), GREY, "middle")
    canvas.text((0, reach), "y₂", (0, 10), GREY, "middle")


def pyramid() -> str:
    """Draw P(2,2) with ranks, and the directions of P(2,4)."""
    canvas = Canvas(720, 340, (185, 178), (52, 52))
    _axes(canvas, 2.5)
    canvas.curve(_diamond(2), GREY)
    for y in enumerate_pyramid(2, 2):
        canvas.dot(y, BLUE)
        side = 1 if y[0] > 0 else -1
        shift = (12 * side, -13 if y[1] < 0 else 12)
        anchor = "start" if side > 0 else "end"
        place = int(rank(np.array([y], np.int32))[0, 0])
        canvas.text(y, f"{place}: ({y[0]},{y[1]})".replace("-", "−"), shift, INK, anchor)
    canvas.text((-3.3, 2.6), "P(2,2)", (0, 8))

    canvas.origin, canvas.scale = (545, 178), (26, 26)
    _axes(canvas, 5.0)
    canvas.curve(_circle(4.6), PALE, 1, "4 3")
    canvas.curve(_diamond(4), GREY)
    for y in enumerate_pyramid(2, 4):
        factor = 4.6 / hypot(*y)
        canvas.curve([(0, 0), (factor * y[0], factor * y[1])], PALE, 1)
        canvas.dot((factor * y[0], factor * y[1]), ORANGE, 3)
        canvas.dot(y, BLUE, 3.5)
    canvas.text((-5.9, 5.2), "P(2,4)", (0, 8))
    return canvas.svg()


def plane_search() -> str:
    """Draw the plane for x = (11,4), k = 2: where the projection goes, and what is nearest."""
    x, k = (11.0, 4.0), 2
    row = np.array([x])
    exact, rounded = (tuple(f(row, k)[0].tolist()) for f in (search, search_project))
    share = (k * x[0] / sum(x), k * x[1] / sum(x))
    canvas = Canvas(660, 470, (50, 425), (165, 165))
    for end, name in (((2.75, 0), "y₁"), ((0, 2.3), "y₂")):
        canvas.curve([(0, 0), end], PALE, 1)
        canvas.text(end, name, (5, 7), GREY)
    canvas.curve([(2, 0), (0, 2)], GREY)
    canvas.curve(_circle(2.0, 0, 90), PALE, 1, "4 3")
    canvas.curve([(0, 0), (sqrt(2), sqrt(2))], PALE, 1.5, "5 3")
    canvas.arrow((0, 0), (11 * 0.225, 4 * 0.225), INK, 2)
    canvas.text((11 * 0.225, 4 * 0.225), "x = (11,4), any length", (8, 6))

    angle, wrong = degrees(atan2(x[1], x[0])), degrees(atan2(rounded[1], rounded[0]))
    canvas.curve(_circle(1.02, 0, angle), GREEN, 2)
    canvas.text((0.86 * cos(0.17), 0.86 * sin(0.17)), f"{angle:.1f}°", (0, 0), GREEN, "middle")
    canvas.curve(_circle(0.8, angle, wrong), ORANGE, 2)
    canvas.text(
        (0.63 * cos(0.57), 0.63 * sin(0.57)), f"{wrong - angle:.1f}°", (0, 0), ORANGE, "middle"
    )

    start = (share[0] - 0.02, share[1] + 0.02)
    canvas.arrow(start, (rounded[0] + 0.05, rounded[1] - 0.05), ORANGE, 2)
    canvas.dot(share, INK, 5, open=True)
    canvas.text(share, f"projection ({share[0]:.2f}, {share[1]:.2f})", (12, -4))
    for y in ((0, 2), rounded, exact):
        color = {exact: GREEN, rounded: ORANGE}.get(y, BLUE)
        canvas.dot(y, color, 6)
    canvas.text(rounded, "(1,1): nearest to the projection", (10, 10), ORANGE)
    canvas.text(exact, "(2,0): nearest to x in angle", (-20, -20), GREEN, "middle")
    canvas.text((0, 2), "(0,2)", (10, 8), BLUE)
    return canvas.svg()


def hull() -> str:
    """Draw the plane of a = <X,z> and b = ||z||² for X = (7,4,2), k = 5."""
    X, k = (7, 4, 2), 5
    points = {
        z: (sum(u * v for u, v in zip(X, z, strict=True)), sum(v * v for v in z))
        for z in enumerate_pyramid(3, k)
        if min(z) >= 0
    }
    best = tuple(search(np.array([X], float), k)[0].tolist())
    scales = [s / 1000 + 0.0005 for s in range(3000)]  # never a scale at which two points tie
    corners = [max(points, key=lambda z: 2 * s * points[z][0] - points[z][1]) for s in scales]
    vertices = list(dict.fromkeys(corners))
    canvas = Canvas(850, 450, (-210, 470), (28, 16))
    for a in (10, 15, 20, 25, 30, 35):
        canvas.curve([(a, 4), (a, 26)], "#eeeeee", 1)
        canvas.text((a, 4), f"{a}", (0, -10), GREY, "middle")
    for b in (5, 10, 15, 20, 25):
        canvas.curve([(9.5, b), (36.5, b)], "#eeeeee", 1)
        canvas.text((9.5, b), f"{b}", (-8, 0), GREY, "end")
    canvas.text((36.5, 4), "a = ⟨X,z⟩", (0, -26), GREY, "end")
    canvas.text((9.5, 26), "b = ‖z‖²", (-22, 12), GREY)
    a, b = points[best]
    top = a * a / b
    for quality, color, dash in ((top, GREEN, ""), (50, GREY, "5 4"), (35, GREY, "5 4")):
        ends = np.linspace(9.5, min(36.5, sqrt(25.5 * quality)), 60)
        curve = [(u, u * u / quality) for u in ends if u * u / quality >= 4]
        canvas.curve(curve, color, 1.5, dash)
        label = "a²/b = 729/11" if quality == top else f"a²/b = {quality:g}"
        if quality == top:
            canvas.text(curve[len(curve) // 5], label, (10, -12), color)
        else:
            canvas.text(curve[-1], label, (0, 12), color, "middle")
    canvas.curve([points[z] for z in vertices], BLUE, 2)
    for z, point in points.items():
        if z in vertices:
            color = GREEN if z == best else BLUE
            canvas.dot(point, color, 6)
            shift = (18, -30) if z == (4, 1, 0) else (10, -8)  # beyond the green curve
            canvas.text(point, "({},{},{})".format(*z), shift, color)
        else:
            canvas.dot(point, GREY, 3.5, open=True)
    for low, high in pairwise(vertices):
        (a0, b0), (a1, b1) = points[low], points[high]
        s = Fraction(b1 - b0, 2 * (a1 - a0))
        middle = ((a0 + a1) / 2, (b0 + b1) / 2)
        side = 1 if s > 1 else -1  # where there is room
        canvas.text(middle, f"s = {s}", (8 * side, -8 * side), BLUE, "start" if s > 1 else "end")
    return canvas.svg()


def gain() -> str:
    """Draw the density of r for n = 2 of 4 columns, and two levels by three designs."""
    law = BetaLaw(2, 4)
    canvas = Canvas(520, 330, (50, 200), (420, 85))
    canvas.curve([(0, 0), (1.06, 0)], GREY, 1)
    canvas.curve([(0, 0), (0, 2.1)], GREY, 1)
    for r in (0, 0.25, 0.5, 0.75, 1):
        canvas.curve([(r, 0), (r, -0.05)], GREY, 1)
        canvas.text((r, 0), f"{r:g}", (0, -14), GREY, "middle")
    canvas.text((1.06, 0), "r", (6, 0), GREY)
    canvas.curve([(0, 0), (1, 2), (1, 0)], BLUE, 2)
    canvas.text((0.93, 1.86), "density 2r", (-10, 2), BLUE, "end")
    for line, (design, color) in enumerate(
        (("quantile", ORANGE), ("panter-dite", INK), ("lloyd-max", GREEN))
    ):
        levels = law_levels(design, law, 1).tolist()
        height = -0.52 - 0.33 * line
        middle = sum(levels) / 2
        canvas.curve([(0, height), (1, height)], PALE, 1)
        canvas.curve([(middle, height - 0.1), (middle, height + 0.1)], color, 1.5)
        for level in levels:
            canvas.dot((level, height), color, 5)
            canvas.text((level, height), f"{level:.3f}", (0, 12), color, "middle")
        canvas.text((0, height), design, (0, 10), color)
    return canvas.svg()


def figures() -> dict[str, str]:
    """Return the text of every figure by its file name."""
    return {
        "pyramid.svg": pyramid(),
        "search.svg": plane_search(),
        "hull.svg": hull(),
        "gain.svg": gain(),
    }


def main(argv: Sequence[str]) -> None:
    """Write the figures."""
    folder = Path(argv[0]) if argv else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in figures().items():
        (folder / name).write_text(text, encoding="utf-8")
        print(folder / name)


if __name__ == "__main__":
    main(sys.argv[1:])
