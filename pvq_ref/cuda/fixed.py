"""Integers of fixed width: runs of 16 coordinates, each of 4, 5 or 6 bits (docs/gpu.md).

Nothing has to be looked up to decode them, for one to two bits a weight more than the tree code
takes; and groups of 16, 32 and 64 coordinates can have many more pulses. A group with a coordinate
that doesn't fit is stored apart.

Coordinate 4 i + b of a run, plus half of the range, is byte b of word i. The words overlap, so that
each is had by a mask or two:

- 4 bits: words 0 and 1 in one, word 1 above word 0; words 2 and 3 likewise.
- 5 bits: the low 4 likewise. The fifth ones of byte b are four bits of 16, word 0 lowest.
- 6 bits: words 0, 1 and 2; above them in each byte two bits of word 3, the lowest above word 0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pvq_ref.cuda.layout import QUAD, Layout

RUN = 16
WIDTHS = (4, 5, 6)
GROUPS = tuple(RUN * sharing for sharing in (1, 2, QUAD))
_LOW, _TWO, _ONE = np.uint32(0x0F0F0F0F), np.uint32(0x03030303), np.uint32(0x01010101)
_4 = np.uint32(4)


@dataclass(frozen=True)
class FixedLayout(Layout):
    """The layout of coordinates of `width` bits: they, and a byte for the number of the level."""

    width: int
    group: int
    gain_bits: int
    name = "fixed"

    @property
    def n(self) -> int:
        """Coordinates of a run."""
        return RUN

    @property
    def bits(self) -> int:
        """Bits of a run, whole bytes."""
        return RUN * self.width + 8

    @property
    def most_bits(self) -> int:
        """Bits that kernels have for a run."""
        return 128

    @property
    def sharing(self) -> int:
        """Runs of a group."""
        return self.group // RUN


def reach(y: NDArray[np.int8]) -> NDArray[np.int16]:
    """Return for each group of y (groups, n) the least half range that holds it, 1 at least."""
    highest, lowest = y.max(axis=1).astype(np.int16), y.min(axis=1).astype(np.int16)
    reach: NDArray[np.int16] = np.maximum(highest + np.int16(1), -lowest)
    return reach


def planes(
    y: NDArray[np.int8], fields: NDArray[np.uint8], layout: FixedLayout
) -> tuple[NDArray[np.uint32], NDArray[np.uint16], NDArray[np.uint8]]:
    """Return the planes of groups y (groups, n), which all fit, as `coding.planes` does.

    fields (groups,), the numbers of their levels.
    """
    half = 1 << (layout.width - 1)
    raised = (y.reshape(-1, RUN) + np.int8(half)).view(np.uint8)
    u = np.ascontiguousarray(np.ascontiguousarray(raised).view("<u4").T)
    no_half, byte = np.zeros(0, np.uint16), np.repeat(fields, layout.sharing)
    if layout.width == 6:
        shifts = (np.arange(3, dtype=np.uint32) * np.uint32(2))[:, None]
        return u[:3] | (u[3] >> shifts & _TWO) << np.uint32(6), no_half, byte
    words = (u[0::2] & _LOW) | (u[1::2] & _LOW) << _4
    if layout.width == 4:
        return words, no_half, byte
    bits = sum((u[i] >> _4 & _ONE) << np.uint32(i) for i in range(4))
    pairs = bits | bits >> _4  # of bytes 0 and 1, and of 2 and 3
    return (
        words,
        (pairs & np.uint32(0xFF) | pairs >> np.uint32(8) & np.uint32(0xFF00)).astype(np.uint16),
        byte,
    )
