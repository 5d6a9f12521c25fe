"""The tree code: how integers are stored on the device (docs/gpu.md).

A group of 16 or 32 coordinates is split into halves down to blocks of four. At every node there are
j pulses, a of them in the first half. The code of the node starts with an interval that says a, and
goes on with the codes of both halves, each in a field of bits of its own: every interval is a power
of two long, and the intervals stand by falling size, so that each begins at a multiple of its
length. A decoder finds a from the first few bits, by one look-up, and shifts; it never divides.
That costs 3 to 8 bits a group more than the index of the file.

Groups with a node or block of too many pulses have no code. They are few, and stored apart.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from pvq_ref.counting import count
from pvq_ref.ranking import unrank

LEAF = 4
UNIT = 128  # blocks of so many pulses begin at a multiple of it, so that a byte says where
NONE = np.uint64((1 << 64) - 1)  # where no interval starts


def _width(size: int) -> int:
    """Return the bits of a field for numbers below size, at least one."""
    return max(1, (size - 1).bit_length())


@dataclass(frozen=True)
class Split:
    """One way to share out a node's pulses: a to its first half, and where its interval starts."""

    a: int
    start: int
    size: int  # log2


@dataclass(frozen=True)
class Tree:
    """The code of groups of n coordinates with k pulses.

    No block of four has more than `most` pulses, no node of 8 has codes of more than 32 bits, and a
    look-up takes `guess` bits.
    """

    n: int
    k: int
    most: int = 14
    guess: int = 7

    def width(self, m: int, j: int) -> int | None:
        """Return the bits of the code of m coordinates with j pulses, or None if there is none."""
        return _node(self, m, j)[0]

    def splits(self, m: int, j: int) -> list[Split]:
        """Return the intervals of a node, by their starts."""
        return _node(self, m, j)[1]

    @property
    def bits(self) -> int:
        """Bits of a group."""
        width = self.width(self.n, self.k)
        assert width is not None
        return width

    @cached_property
    def sizes(self) -> list[int]:
        """Number of blocks of a = 0, 1, … most pulses."""
        return [count(LEAF, a) for a in range(self.most + 1)]

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """Where the blocks of a = 0, 1, … most pulses begin in `blocks`, multiples of UNIT."""
        return np.cumsum([0, *(-(-size // UNIT) * UNIT for size in self.sizes[:-1])])

    @cached_property
    def blocks(self) -> NDArray[np.int8]:
        """All blocks of up to `most` pulses, (…, 4), in the order fischer, and zeros between."""
        held = np.zeros((self.first[-1] + self.sizes[-1], LEAF), np.int8)
        for a, first in enumerate(self.first):
            index = np.arange(self.sizes[a], dtype=np.uint64)[:, None]
            held[first : first + self.sizes[a]] = unrank(index, LEAF, a, threads=1)
        return held


def _near(
    sizes: list[tuple[int, int]], others: dict[int, int], guess: int
) -> list[tuple[int, int]]:
    """Leave out what a decoder's shifts don't reach.

    The first half's code begins within the first 32 bits, the second's within the first 96.
    """
    longest = max((size for size, _ in sizes), default=0)  # the node has up to `guess` bits more
    return [
        (size, a)
        for size, a in sizes
        if size >= longest - 31 + guess and longest - others[a] <= 95 - guess
    ]


@lru_cache(1 << 14)
def _node(tree: Tree, m: int, j: int) -> tuple[int | None, list[Split]]:
    if m == LEAF:
        return (_width(count(LEAF, j)) if j <= tree.most else None), []
    widths = [tree.width(m // 2, a) for a in range(j + 1)]
    sizes = []
    for a in range(j + 1):
        one, other = widths[a], widths[j - a]
        if one is not None and other is not None:
            sizes.append((one + other, a))
    if m == 16 and tree.n == 32 and 2 * abs(2 * j - tree.k) > tree.k:
        return None, []  # so rare that their rows of tables aren't worth their place
    if m == 32:
        sizes = _near(sizes, {a: widths[j - a] or 0 for _, a in sizes}, tree.guess)
    if not sizes:
        return None, []
    limit = {8: 32, 16: 64, 32: 120}[m]
    width = max(size for size, _ in sizes)
    while True:
        least = max(0, width - tree.guess)
        if sum(1 << max(size, least) for size, _ in sizes) <= 1 << width:
            break
        width += 1
    if width > limit:
        return None, []
    splits, start = [], 0
    for size, a in sorted(
        ((max(size, least), a) for size, a in sizes), key=lambda s: (-s[0], s[1])
    ):
        splits.append(Split(a, start, size))
        start += 1 << size
    return width, splits
