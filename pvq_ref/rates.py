"""Rates: how many pulses and gain bits a target allows (spec sections 1 and 8.6).

Everything that a tensor puts into a file counts: indices, gains, padding, row norms and levels.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import log2, log10

from pvq_ref.counting import bits, checked_integer, count, most_pulses
from pvq_ref.errors import DomainError
from pvq_ref.gain import MAX_GAIN_BITS, BetaLaw, cosines, law_levels
from pvq_ref.packing import packed_size

MIN_BITS, MAX_BITS = 1.0, 8.0


@dataclass(frozen=True)
class Grid:
    """How the rows of a matrix are cut into groups (spec section 8.1)."""

    rows: int
    cols: int
    n: int

    @property
    def whole(self) -> int:
        """Whole groups in a row."""
        return self.cols // self.n

    @property
    def tail(self) -> int:
        """Coordinates of the tail, 0 if there is none."""
        return self.cols % self.n

    @property
    def groups(self) -> int:
        """Groups in a row, the tail included."""
        return self.whole + (self.tail > 0)


@dataclass(frozen=True)
class Allotment:
    """Pulses and gain bits of a tensor."""

    grid: Grid
    k: int
    tail_k: int
    gain_bits: int

    @property
    def row_index_bits(self) -> int:
        """Bits of the indices of one row."""
        grid = self.grid
        tail = bits(grid.tail, self.tail_k) if grid.tail else 0
        return grid.whole * bits(grid.n, self.k) + tail

    @property
    def index_size(self) -> int:
        """Bytes of all indices."""
        return packed_size(self.grid.rows * self.row_index_bits)

    @property
    def gain_size(self) -> int:
        """Bytes of all gains."""
        return packed_size(self.grid.rows * self.grid.groups * self.gain_bits)

    @property
    def level_rows(self) -> int:
        """Rows of the level table."""
        return 1 + (self.grid.tail > 0)

    @property
    def size(self) -> int:
        """Bytes in the file, header aside."""
        levels = 4 * self.level_rows << self.gain_bits
        return self.index_size + self.gain_size + 2 * self.grid.rows + levels

    @property
    def _weights(self) -> int:
        return max(1, self.grid.rows * self.grid.cols)

    @property
    def fractional_rate(self) -> float:
        """Bits per weight with log2 V for an index."""
        grid = self.grid
        tail = log2(count(grid.tail, self.tail_k)) if grid.tail else 0.0
        row = grid.whole * log2(count(grid.n, self.k)) + tail + grid.groups * self.gain_bits
        return row / grid.cols

    @property
    def coded_rate(self) -> float:
        """Bits per weight with whole bits for an index."""
        return (self.row_index_bits + self.grid.groups * self.gain_bits) / self.grid.cols

    @property
    def file_rate(self) -> float:
        """Bits per weight of every byte in the file, header aside."""
        return 8 * self.size / self._weights

    def predicted_error(self) -> float:
        """Return the expected squared error per weight of unit variance (spec section 8.6)."""
        grid = self.grid
        parts = [(grid.whole * grid.n, grid.n, self.k)]
        if grid.tail:
            parts.append((grid.tail, grid.tail, self.tail_k))
        return (
            sum(share * group_error(n, k, grid.cols, self.gain_bits) for share, n, k in parts)
            / grid.cols
        )

    @property
    def predicted_db(self) -> float:
        """Signal over predicted error, in dB."""
        return -10 * log10(self.predicted_error())


@lru_cache(4096)
def group_error(n: int, k: int, cols: int, gain_bits: int) -> float:
    """Return the expected squared error per weight of unit variance of one group."""
    law, cosine = BetaLaw(n, cols), cosines(n, k)
    gain = 0.0 if law.is_point else law.distortion(law_levels("lloyd-max", law, gain_bits))
    return cols / n * (law.mean_square * (1 - cosine.mean_square) + cosine.mean**2 * gain)


def _with_width(grid: Grid, width: int, gain_bits: int) -> Allotment | None:
    """Return the allotment whose whole groups have indices of at most `width` bits."""
    k, tail_k = most_pulses(grid.n, width), 0
    if grid.tail:
        share = (width + gain_bits) * grid.tail // grid.n - gain_bits
        tail_k = most_pulses(grid.tail, max(bits(grid.tail, 1), share))
    return Allotment(grid, k, tail_k, gain_bits) if k else None


def _widest(grid: Grid, target: float, gain_bits: int) -> Allotment | None:
    """Return the allotment with the widest index whose file rate isn't above the target."""
    limit = target * grid.rows * grid.cols
    for width in range(int(target * grid.n) + 1, bits(grid.n, 1) - 1, -1):
        allotment = _with_width(grid, width, gain_bits)
        if allotment is not None and 8 * allotment.size <= limit:
            return allotment
    return None


def checked_target(target: float, name: str = "bits") -> float:
    """Return a target rate, or raise DomainError."""
    if isinstance(target, bool) or not isinstance(target, int | float):
        raise DomainError(f"{name} must be a number, got {target!r}")
    if not MIN_BITS <= target <= MAX_BITS:
        raise DomainError(f"{name} must be from {MIN_BITS:g} to {MAX_BITS:g}, got {target}")
    return float(target)


@lru_cache(1024)  # models have many tensors of a few shapes
def _best(grid: Grid, target: float, gain_bits: int | None) -> Allotment | None:
    """Return the allotment with the least predicted error, or None."""
    best: tuple[float, Allotment] | None = None
    for choice in range(MAX_GAIN_BITS + 1) if gain_bits is None else (gain_bits,):
        allotment = _widest(grid, target, choice)
        if allotment is None:
            continue
        error = allotment.predicted_error()
        if best is None or error < best[0]:
            best = (error, allotment)
    return best[1] if best else None


def allot(
    rows: int, cols: int, target: float, group: int, gain_bits: int | None = None
) -> Allotment | None:
    """Choose pulses and gain bits by least predicted error at a target file rate.

    Parameters: rows, cols >= 0; target, bits per weight from 1 to 8; group >= 1, cut to cols;
    gain_bits 0 to 8, or None to choose them too. Returns None where nothing fits. Raises
    DomainError.
    """
    target = checked_target(target)
    group = checked_integer("group", group, 1, 4096)
    if gain_bits is not None:
        gain_bits = checked_integer("gain_bits", gain_bits, 0, MAX_GAIN_BITS)
    if rows < 1 or cols < 1:
        return None
    return _best(Grid(rows, cols, min(group, cols)), target, gain_bits)
