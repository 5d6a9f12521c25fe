"""Integers to words of the tree code, and the tables that decode them (docs/gpu.md).

The words of a group, from the highest bit: its code, zeros, and the field of its level. That field
has a bit more than the gain: levels of its upper half are zero, for groups that have no code.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from pvq_ref.cuda.layout import Layout
from pvq_ref.cuda.tree import LEAF, UNIT, Tree
from pvq_ref.jit import kernel


@dataclass(frozen=True)
class TreeLayout(Layout):
    """The layout of groups in the tree code: code, zeros, number of the level."""

    tree: Tree
    gain_bits: int
    name = "tree"

    @property
    def n(self) -> int:
        """Coordinates of a run: a group."""
        return self.tree.n

    @property
    def bits(self) -> int:
        """Bits of a run, whole bytes."""
        return max(32, -(-(self.tree.bits + self.gain_bits + 1) // 8) * 8)

    @property
    def most_bits(self) -> int:
        """Bits that kernels have for a run."""
        return 4 * self.tree.n


@dataclass(frozen=True)
class Starts:
    """What the encoder looks up: starts of intervals by (j, a), -1 where there is none; widths."""

    places: NDArray[np.int32]  # of a block among the blocks of its pulses, by its coordinates
    leaf: NDArray[np.int64]  # bits of blocks with a pulses
    eight: NDArray[np.int64]
    eight_bits: NDArray[np.int64]
    sixteen: NDArray[np.int64]
    sixteen_bits: NDArray[np.int64]
    top: NDArray[np.uint64]  # (k+1, 2), high and low word; only of groups of 32
    top_ok: NDArray[np.bool_]


def _starts(tree: Tree, m: int, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return starts (most+1, most+1) and widths (most+1,) of nodes of m coordinates."""
    starts = np.full((most + 1, most + 1), -1, np.int64)
    widths = np.zeros(most + 1, np.int64)
    for j in range(most + 1):
        widths[j] = tree.width(m, j) or 0
        for split in tree.splits(m, j):
            starts[j, split.a] = split.start
    return starts, widths


@lru_cache(8)
def starts(tree: Tree) -> Starts:
    """Return the encoder's tables."""
    side = 2 * tree.most + 1
    places = np.full(side**LEAF, -1, np.int32)
    blocks = tree.blocks.astype(np.int64)
    for first, size in zip(tree.first, tree.sizes, strict=True):
        keys = np.zeros(size, np.int64)
        for i in range(LEAF):
            keys = keys * side + blocks[first : first + size, i] + tree.most
        places[keys] = np.arange(size)
    leaf = np.array([tree.width(LEAF, a) for a in range(tree.most + 1)], np.int64)
    eight, eight_bits = _starts(tree, 8, tree.k)
    sixteen, sixteen_bits = _starts(tree, 16, tree.k)
    top, ok = np.zeros((tree.k + 1, 2), np.uint64), np.zeros(tree.k + 1, np.bool_)
    for split in tree.splits(32, tree.k) if tree.n == 32 else ():
        top[split.a] = split.start >> 64, split.start & (1 << 64) - 1
        ok[split.a] = True
    return Starts(places, leaf, eight, eight_bits, sixteen, sixteen_bits, top, ok)


@kernel
def _encode(
    y: NDArray[np.int32],
    most: int,
    places: NDArray[np.int32],
    leaf: NDArray[np.int64],
    eight: NDArray[np.int64],
    eight_bits: NDArray[np.int64],
    sixteen: NDArray[np.int64],
    sixteen_bits: NDArray[np.int64],
    top: NDArray[np.uint64],
    top_ok: NDArray[np.bool_],
    codes: NDArray[np.uint64],
    coded: NDArray[np.bool_],
) -> None:
    """Write the code of each group, (groups, 2) high and low word, and whether it has one."""
    n, side = y.shape[1], 2 * most + 1
    halves = n // 16
    part, pulses = np.zeros(2, np.uint64), np.zeros(2, np.int64)
    eights, sums = np.zeros(2, np.uint64), np.zeros(2, np.int64)
    for group in range(y.shape[0]):
        ok = True
        for h in range(halves):
            for e in range(2):
                first = 16 * h + 8 * e
                place, pulse = np.zeros(2, np.int64), np.zeros(2, np.int64)
                for b in range(2):
                    key, a = np.int64(0), np.int64(0)
                    for i in range(4):
                        value = np.int64(y[group, first + 4 * b + i])
                        key = key * side + value + most
                        a += abs(value)
                    pulse[b] = a
                    if a <= most:
                        place[b] = places[key]
                    else:
                        ok = False
                j = pulse[0] + pulse[1]
                start = eight[j, pulse[0]]
                sums[e] = j
                if not ok or start < 0:
                    ok = False
                    break
                eights[e] = np.uint64(start + (place[0] << leaf[pulse[1]]) + place[1])
            if not ok:
                break
            j = sums[0] + sums[1]
            begin = sixteen[j, sums[0]]
            if begin < 0:
                ok = False
                break
            width = np.uint64(eight_bits[sums[1]])
            part[h] = np.uint64(begin) + (eights[0] << width) + eights[1]
            pulses[h] = j
        if ok and halves == 2 and not top_ok[pulses[0]]:
            ok = False
        coded[group] = ok
        codes[group, 0] = codes[group, 1] = np.uint64(0)
        if ok and halves == 1:
            codes[group, 1] = part[0]
        elif ok:
            width = np.uint64(sixteen_bits[pulses[1]])
            codes[group, 0] = top[pulses[0], 0] + (part[0] >> (np.uint64(64) - width))
            codes[group, 1] = top[pulses[0], 1] + (part[0] << width) + part[1]


def encode(y: NDArray[np.int32], tree: Tree) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Return codes (groups, 2), high and low word, and which groups have one."""
    codes = np.zeros((len(y), 2), np.uint64)
    coded = np.zeros(len(y), np.bool_)
    s = starts(tree)
    _encode(
        y, tree.most, s.places, s.leaf, s.eight, s.eight_bits, s.sixteen, s.sixteen_bits, s.top,
        s.top_ok, codes, coded,
    )  # fmt: skip
    return codes, coded


def planes(
    codes: NDArray[np.uint64],
    coded: NDArray[np.bool_],
    gains: NDArray[np.uint8],
    layout: TreeLayout,
) -> tuple[NDArray[np.uint32], NDArray[np.uint16], NDArray[np.uint8]]:
    """Return the planes of groups: 32-bit words (planes, groups), 16-bit and 8-bit ones (groups,).

    A plane that the layout lacks is empty.
    """
    field = gains.astype(np.uint64) | (~coded).astype(np.uint64) << np.uint64(layout.gain_bits)
    high, low = codes[:, 0], codes[:, 1]
    if layout.tree.n == 16:
        high, low = low, np.zeros_like(low)
    high, low = _left(high, low, 4 * layout.tree.n - layout.tree.bits)
    place = 128 - layout.bits  # of the field, which is within 32 bits
    if place >= 64:
        high = high | field << np.uint64(place - 64)
    else:
        low = low | field << np.uint64(place)
    all_words = [high >> np.uint64(32), high, low >> np.uint64(32), low]
    whole, has_half, has_byte = layout.shape
    held = np.array([w.astype(np.uint32) for w in all_words[:whole]], np.uint32)
    rest = all_words[whole].astype(np.uint32) if whole < 4 else None
    half, byte = np.zeros(0, np.uint16), np.zeros(0, np.uint8)
    if rest is not None and has_half:
        half = (rest >> np.uint32(16)).astype(np.uint16)
    if rest is not None and has_byte:
        byte = (rest >> np.uint32(8 if has_half else 24)).astype(np.uint8)
    return held.reshape(whole, -1), half, byte


def _left(
    high: NDArray[np.uint64], low: NDArray[np.uint64], by: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Shift numbers of 128 bits to the left."""
    if by == 0:
        return high, low
    if by >= 64:
        return low << np.uint64(by - 64), np.zeros_like(low)
    return (high << np.uint64(by)) | (low >> np.uint64(64 - by)), low << np.uint64(by)


@dataclass(frozen=True)
class Image:
    """What a kernel keeps in shared memory, words of 32 bits, and where each table begins.

    blocks has four signed bytes a word. eight, sixteen and top have a word for a node's j and the
    first bits of its code. One of eight is the bits to drop before the first block's place | 32
    minus the bits of that place << 5 | 32 minus those of the second's << 10 | where the second's
    blocks begin, in units, << 16 | where the first's do << 24. One of the others is the bits to
    drop before the first half's code | those before the second's << 5, of 6 bits | where the first
    half's row begins in `eight` or `sixteen` << 11. In groups of 16 the second's code stands at the
    end, and it's 32 minus its bits.
    """

    words: NDArray[np.uint32]
    eight: int
    sixteen: int
    top: int
    levels: int

    @cached_property
    def size(self) -> int:
        """Words."""
        return len(self.words)


def _patterns(tree: Tree, m: int, j: int) -> list[tuple[int, int]]:
    """Return (a, width of the node) for each value of the first bits of a node's code."""
    width, splits = tree.width(m, j), tree.splits(m, j)
    if width is None:
        return []
    listed = []
    for bits in range(1 << tree.guess):
        shift = width - tree.guess
        code = bits << shift if shift >= 0 else bits >> -shift
        inside = [s for s in splits if s.start <= code < s.start + (1 << s.size)]
        split = inside[0] if inside else splits[-1]  # no code begins so
        listed.append((split.a, width))
    return listed


def sixteens(tree: Tree) -> range:
    """Return the pulses of nodes of 16 that have codes."""
    coded = [j for j in range(tree.k + 1) if tree.width(16, j) is not None]
    return range(coded[0], coded[-1] + 1) if tree.n == 32 else range(tree.k, tree.k + 1)


@lru_cache(8)
def _tables(tree: Tree) -> tuple[list[int], list[int], list[int]]:
    """Return the words of `eight`, `sixteen` and `top`."""
    guess, most = tree.guess, tree.k
    leaf = [tree.width(LEAF, a) or 0 for a in range(tree.most + 1)]
    begin = [int(first) // UNIT for first in tree.first]
    eight: list[int] = []
    last = max(j for j in range(most + 1) if tree.width(8, j) is not None)
    for j in range(last + 1):
        for a, width in _patterns(tree, 8, j):
            first, second = leaf[a], leaf[j - a]
            shifts = (width - first - second) | (32 - first) << 5 | (32 - second) << 10
            eight.append(shifts | begin[j - a] << 16 | begin[a] << 24)
    sixteen: list[int] = []
    for j in sixteens(tree):
        patterns = _patterns(tree, 16, j)
        for a, width in patterns:
            one, other = tree.width(8, a), tree.width(8, j - a)
            assert one is not None and other is not None
            before = width - other if tree.n == 32 else 32 - other
            sixteen.append((width - one - other) | before << 5 | a << (guess + 11))
    top: list[int] = []
    if tree.n == 32:
        for a, width in _patterns(tree, 32, tree.k):
            one, other = tree.width(16, a), tree.width(16, tree.k - a)
            assert one is not None and other is not None
            top.append((width - one - other) | (width - other) << 5 | a << (guess + 12))
    return eight, sixteen, top


def padded_levels(layout: Layout, levels: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return levels as a kernel has them: binary32, and as many zeros, in whole fours of words."""
    held = np.zeros(max(4, 2 << layout.gain_bits), np.float32)
    held[: 1 << layout.gain_bits] = levels
    return held.view(np.uint32)


def image(layout: TreeLayout, levels: NDArray[np.float32]) -> Image:
    """Return the tables of a tensor's kernel."""
    tree = layout.tree
    eight, sixteen, top = _tables(tree)
    blocks = np.ascontiguousarray(tree.blocks).view(np.uint32).reshape(-1)
    parts = [
        np.array(eight, np.uint32),
        np.array(sixteen, np.uint32),
        np.array(top, np.uint32),
        padded_levels(layout, levels),
    ]
    places, at = [], len(blocks)
    for part in parts:
        places.append(at)
        at += len(part)
    out = np.zeros(-(-at // 4) * 4, np.uint32)
    out[: len(blocks)] = blocks
    for place, part in zip(places, parts, strict=True):
        out[place : place + len(part)] = part
    return Image(out, *places)
