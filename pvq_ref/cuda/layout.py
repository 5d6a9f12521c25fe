"""How the words of groups lie in a device's memory, in whichever code they are (docs/gpu.md)."""

from abc import ABC, abstractmethod
from typing import ClassVar

QUAD = 4  # runs of a row that go together, one a lane: as a tensor core wants its lanes


class Layout(ABC):
    """Where the words of each run of n coordinates stand: 32 bits each, then 16 or 8 or both.

    There is at least one whole word: kernels read it before they ask for more. A plane has one word
    of every run: blocks of `rows` rows, in them quads of runs. Of each there are 32 lanes, lane
    4 r + q for run q of the quad and the rows r, r + 8, … of the block, `together` of them; the
    words of a lane lie side by side. The last bits are the number of a level, of one bit more than
    a gain: levels of its upper half are zero, for runs that are kept elsewhere.
    """

    gain_bits: int
    name: ClassVar[str]  # of its form

    @property
    @abstractmethod
    def n(self) -> int:
        """Coordinates of a run, 16 or 32."""

    @property
    @abstractmethod
    def bits(self) -> int:
        """Bits of a run, whole bytes."""

    @property
    @abstractmethod
    def most_bits(self) -> int:
        """Bits that kernels have for a run, 64 or 128."""

    @property
    def sharing(self) -> int:
        """Runs of a quad that are one group, and so have a norm together: 1, 2 or 4."""
        return 1

    @property
    def together(self) -> int:
        """Runs that a lane takes at once, each of another row: an even number."""
        return 64 // self.n

    @property
    def rows(self) -> int:
        """Rows that a warp takes at once."""
        return 32 // QUAD * self.together

    @property
    def bytes_type(self) -> str:
        """Type of what a lane reads of the plane of 8 bits at once."""
        return f"uint{8 * self.together}"

    @property
    def fits(self) -> bool:
        """Whether a run takes at most the bits that kernels have for it."""
        return self.bits <= self.most_bits and self.gain_bits < 8

    @property
    def shape(self) -> tuple[int, bool, bool]:
        """Planes of 32 bits, and whether there is one of 16 and one of 8."""
        return self.bits // 32, self.bits % 32 >= 16, self.bits % 16 >= 8
