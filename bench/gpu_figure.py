#!/usr/bin/env python3
"""Draw the figure of docs/gpu.md: one group's way from its bits to its product.

NUMBA_ENABLE_CUDASIM=1 python bench/gpu_figure.py [FOLDER]      docs/figures if no folder is named
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from guide_figures import BLUE, FOLDER, GREEN, GREY, INK, ORANGE, PALE, Canvas
from pvq_ref import search
from pvq_ref.cuda.coding import TreeLayout, encode
from pvq_ref.cuda.tree import LEAF, Split, Tree

K, GAIN_BITS, GAIN, SEED = 28, 3, 4, 3


def _box(canvas: Canvas, x: float, y: float, width: float, words: str, color: str = INK) -> None:
    corners = [(x, y), (x + width, y), (x + width, y - 26), (x, y - 26), (x, y)]
    canvas.curve(corners, color, 1.2)
    canvas.text((x + width / 2, y - 13), words, (0, 0), color, "middle")


def _split(tree: Tree, m: int, j: int, code: int) -> tuple[Split, int, int]:
    """Return a node's interval and the codes of its halves."""
    found = next(s for s in tree.splits(m, j) if s.start <= code < s.start + (1 << s.size))
    other = tree.width(m // 2, j - found.a) or 0
    rest = code - found.start
    return found, rest >> other, rest & ((1 << other) - 1)


def _bits(code: int, width: int) -> str:
    return format(code, f"0{width}b")


def figure() -> str:
    """Return the figure of the integers that the search finds for 16 normal numbers."""
    tree = Tree(16, K, 15)
    layout = TreeLayout(tree, GAIN_BITS)
    y = search(np.random.default_rng(SEED).standard_normal((1, 16)), K)
    code = int(encode(y, tree)[0][0, 1])
    canvas = Canvas(980, 430, (20, 410), (1, 1))
    text = _bits(code, tree.bits)
    whole = text + _bits(GAIN, layout.bits - tree.bits)
    planes = [whole[:32], whole[32:48], whole[48:]]
    x = 0.0
    for words, name in zip(planes, ("plane of 32 bits", "of 16", "of 8"), strict=True):
        width = 8.2 * len(words) + 12
        _box(canvas, x, 385, width, words, BLUE)
        canvas.text((x + width / 2, 385), name, (0, 10), GREY, "middle")
        x += width + 14
    canvas.text(
        (x + 4, 372), f"the last {layout.bits - tree.bits} bits: level {GAIN}", (0, 0), GREY
    )
    split, one, two = _split(tree, 16, K, code)
    canvas.arrow((210, 357), (210, 331), GREY)
    _box(canvas, 60, 329, 300, f"16 coordinates, {K} pulses: first bits {text[: tree.guess]}", INK)
    canvas.text(
        (372, 316),
        f"one look-up: a = {split.a} pulses in the first half, and two shifts",
        (0, 0),
        GREY,
    )
    at = 0
    for half, (j, part) in enumerate(((split.a, one), (K - split.a, two))):
        left = 20 + 400 * half
        width = tree.width(8, j) or 0
        node, first, second = _split(tree, 8, j, part)
        begins = _bits(part, width)[: tree.guess]
        canvas.arrow((150 + 120 * half, 303), (left + 130, 273), GREY)
        _box(canvas, left, 271, 300, f"8 coordinates, {j} pulses: {begins}…, a = {node.a}", INK)
        for quarter, (a, place) in enumerate(((node.a, first), (j - node.a, second))):
            where = left - 10 + 195 * quarter
            block = y[0, at : at + LEAF]
            if tuple(tree.blocks[tree.first[a] + place]) != tuple(block):
                raise SystemExit("the figure decodes something else")
            canvas.arrow((left + 80 + 120 * quarter, 245), (where + 80, 215), GREY)
            _box(canvas, where, 213, 170, f"block {place} of {a} pulses", ORANGE)
            canvas.arrow((where + 80, 187), (where + 80, 161), GREY)
            values = ", ".join(str(v) for v in block).replace("-", "−")
            _box(canvas, where, 159, 170, f"({values})", GREEN)
            canvas.arrow((where + 80, 133), (where + 80, 107), GREY)
            at += LEAF
    canvas.text((790, 200), "look-up:", (0, 0), GREY)
    canvas.text((790, 146), "one word", (0, 0), GREY)
    _box(
        canvas,
        10,
        105,
        765,
        "dp4a with four high bytes and four low bytes of x: two exact sums",
        BLUE,
    )
    canvas.arrow((392, 79), (392, 57), GREY)
    _box(canvas, 120, 55, 545, "(256 · high + low) · level / ‖y‖, added to the row's sum", INK)
    canvas.curve([(0, 18), (0, 18)], PALE, 1)
    canvas.text(
        (392, 14), "norm of the row · scale of x, once for each row", (0, 0), GREY, "middle"
    )
    return canvas.svg()


def main(argv: Sequence[str]) -> None:
    """Write the figure."""
    path = (Path(argv[0]) if argv else FOLDER) / "gpu.svg"
    path.write_text(figure(), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
