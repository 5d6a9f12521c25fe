"""Compressed tensors on the device: what `upload` makes, and kernels read (docs/gpu.md)."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvq_ref.cuda.coding import Image
from pvq_ref.cuda.device import DeviceArray
from pvq_ref.cuda.layout import QUAD, Layout
from pvq_ref.hadamard import Construction


@dataclass(frozen=True)
class FastPart:
    """Whole groups in a code that kernels decode fast, in runs of n coordinates (`Layout`).

    odd are runs of groups that the code can't hold, in the order of the rows: for each its number
    in the row, with the number of its level above 24 bits; the sum of its group's squares; and its
    coordinates, four a word.
    """

    layout: Layout
    image: Image
    runs: int  # in a row
    tables: DeviceArray
    planes: DeviceArray
    halves: DeviceArray
    bytes: DeviceArray
    odd_first: DeviceArray
    odd: DeviceArray
    odd_rows: DeviceArray
    odd_starts: NDArray[np.uint32]  # odd_first, on the host
    levels: DeviceArray

    @property
    def quads(self) -> int:
        """Quads of runs in a row; the last one may have runs that count for nothing."""
        return -(-self.runs // QUAD)

    @property
    def plane_words(self) -> int:
        """Words of a plane."""
        rows = len(self.odd_starts) - 1
        return self.quads * QUAD * -(-rows // self.layout.rows) * self.layout.rows

    @property
    def activation_words(self) -> int:
        """Words of a column of packed activations: high and low bytes, four in a word."""
        return self.quads * QUAD * self.layout.n // 2

    @property
    def nbytes(self) -> int:
        """Bytes of the groups, tables aside."""
        held = (self.planes, self.halves, self.bytes, self.odd_first, self.odd, self.odd_rows)
        return sum(array.nbytes for array in held)


@dataclass(frozen=True)
class GeneralPart:
    """Groups of any n and k, as ranks in the order fischer, in planes of 32 bits."""

    n: int
    k: int
    words: int
    groups: int
    first_column: int
    planes: DeviceArray
    fields: DeviceArray
    levels: DeviceArray
    counts: DeviceArray

    @property
    def nbytes(self) -> int:
        """Bytes of the groups, tables aside."""
        return self.planes.nbytes + self.fields.nbytes


@dataclass(frozen=True)
class DeviceRotation:
    """What the rotation's kernels need: see `rotation_kernels.make_rotation`.

    flips are the signs for `base_kernels`: of each place of a run and each TOGETHER lines a word,
    whose bit j says whether the sign in the j-th of these lines is -1.
    """

    signs: DeviceArray
    segments: DeviceArray
    factors: DeviceArray
    bases: DeviceArray
    transposed: DeviceArray
    count: int
    single: tuple[int, int, int] | None  # columns, length of a run and order of the only segment
    base: Construction | None = None  # of a rotation that `base_kernels` takes
    flips: DeviceArray | None = None


@dataclass(frozen=True)
class DeviceTensor:
    """A compressed tensor on the device. norms are those of the rows, times their power of two."""

    shape: tuple[int, ...]
    rows: int
    cols: int
    fast: FastPart | None
    general: tuple[GeneralPart, ...]
    rotation: DeviceRotation
    is_rotated: bool
    norms: DeviceArray
    plans: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads, tables and rotation aside."""
        held = sum(part.nbytes for part in self.general) + self.norms.nbytes
        return held + (self.fast.nbytes if self.fast else 0)

    @property
    def bits_per_weight(self) -> float:
        """8 nbytes / (rows cols)."""
        return 8 * self.nbytes / (self.rows * self.cols)
