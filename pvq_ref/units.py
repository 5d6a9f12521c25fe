"""Units of work of a compression: blocks of rows, or whole tensors.

A unit is what a process takes on at a time, what is kept of an interrupted run, and what is spread
over many workers. Which units there are depends on the plan alone.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvq_ref.container import NUMPY_TYPES, Reader
from pvq_ref.encoding import Block, RowReader, coded_blocks
from pvq_ref.errors import ModelError, NonFiniteError
from pvq_ref.finishing import table_width
from pvq_ref.gain import Floats
from pvq_ref.groups import row_blocks
from pvq_ref.memory import Limits
from pvq_ref.metadata import PARTS, entries_of
from pvq_ref.model import Model
from pvq_ref.packing import Bytes, packed_size
from pvq_ref.plan import Plan, TensorPlan
from pvq_ref.tensor import PVQTensor
from pvq_ref.workfolder import Piece, WorkFolder

Progress = Callable[[str, int], None]  # name of the tensor, weights done since the last call
RowsDone = Callable[[int], None]
Note = dict[str, Any]
WholeEncoder = Callable[[TensorPlan, RowReader, RowsDone], tuple[PVQTensor, Note]]


@dataclass(frozen=True)
class Method:
    """How tensors are coded that aren't coded by rows, without calibration data.

    whole names them; encode codes one, and says what to note of it; state is what results depend
    on besides the source and the settings.
    """

    whole: frozenset[str] = frozenset()
    encode: WholeEncoder | None = None
    state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Unit:
    """Rows of a tensor, or all of it; `name` is that of its piece."""

    name: str
    tensor: TensorPlan
    start: int
    stop: int

    @property
    def weights(self) -> int:
        """Weights of the unit."""
        return (self.stop - self.start) * self.tensor.entry.shape[-1]

    def index(self, piece: Piece) -> Bytes:
        """Return the packed indices of a block of rows that is kept."""
        return piece.array(0, self._index_size, np.uint8)

    def table(self, piece: Piece) -> Floats:
        """Return the table (`finishing`) of a block of rows that is kept."""
        assert self.tensor.coding is not None
        rows, width = self.stop - self.start, table_width(self.tensor.coding.allotment)
        return piece.array(self._index_size, rows * width, np.float64).reshape(rows, width)

    @property
    def _index_size(self) -> int:
        assert self.tensor.coding is not None
        return packed_size((self.stop - self.start) * self.tensor.coding.allotment.row_index_bits)


def units_of(t: TensorPlan, number: int, whole: bool) -> list[Unit]:
    """Return the units of a tensor, number `number` of its plan."""
    assert t.coding is not None
    grid = t.coding.allotment.grid
    blocks = [(0, grid.rows)] if whole else row_blocks(grid.rows, grid.cols)
    return [Unit(f"{number:06}-{start:012}", t, start, stop) for start, stop in blocks]


def all_units(plan: Plan, whole: frozenset[str]) -> list[Unit]:
    """Return all units of a plan, in its order."""
    found: list[Unit] = []
    for number, t in enumerate(plan.compressed):
        found += units_of(t, number, t.entry.name in whole)
    return found


def share_of(units: Sequence[Unit], number: int, count: int) -> list[Unit]:
    """Return the units of worker `number` of `count`, from 0.

    Large units are given out first, each to the worker that has least.
    """
    laden = [(0, worker) for worker in range(count)]
    mine = []
    for unit in sorted(units, key=lambda unit: (-unit.weights, unit.name)):
        weights, worker = heapq.heappop(laden)
        heapq.heappush(laden, (weights + unit.weights, worker))
        if worker == number:
            mine.append(unit)
    return sorted(mine, key=lambda unit: unit.name)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a source is read into a ModelError that names it."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"the source must stay readable, got {error} at {path}") from error


def _row_reader(reader: Reader, name: str) -> RowReader:
    def read(start: int, stop: int) -> NDArray[Any]:
        with reading(reader.path):
            return reader.read_rows(name, start, stop)

    return read


@contextmanager
def open_source(path: Path) -> Iterator[Reader]:
    """Open a file of a source. Raises ModelError if that can't be done."""
    with reading(path):
        reader = Reader(path)
    with reader:
        yield reader


def code_units(
    model: Model,
    units: Iterable[Unit],
    method: Method,
    work: WorkFolder,
    limits: Limits,
    progress: Progress,
) -> None:
    """Code units, those aside that are kept, and keep them.

    Raises NonFiniteError with the name of the tensor, ModelError, DomainError, OSError.
    """

    def threads_of(unit: Unit) -> int | None:  # None for tensors that are coded whole
        t = unit.tensor
        return None if t.entry.name in method.whole else _ranges(unit, limits)[1]

    for file, of_file in groupby(units, key=lambda unit: unit.tensor.file):
        left = []
        for unit in of_file:
            if work.get(unit.name) is None:
                left.append(unit)
            else:
                progress(unit.tensor.entry.name, unit.weights)
        with open_source(model.file(file)) as reader:
            for threads, alike in groupby(left, key=threads_of):
                if threads is None:
                    for unit in alike:
                        _code_whole(reader, unit, method, work, progress)
                else:
                    _code_rows(reader, list(alike), work, limits, threads, progress)


def _ranges(unit: Unit, limits: Limits) -> tuple[int, int]:
    """Return the rows that one thread codes at a time, and the threads."""
    assert unit.tensor.coding is not None
    grid = unit.tensor.coding.allotment.grid
    return limits.ranges(grid.rows, grid.cols)


@contextmanager
def _naming(unit: Unit) -> Iterator[None]:
    """Name the tensor in errors about its weights."""
    try:
        yield
    except NonFiniteError as error:
        raise NonFiniteError(f"tensor {unit.tensor.entry.name!r}: {error}") from None


def _code_whole(
    reader: Reader, unit: Unit, method: Method, work: WorkFolder, progress: Progress
) -> None:
    t, name = unit.tensor, unit.tensor.entry.name
    assert method.encode is not None
    with _naming(unit):
        tensor, note = method.encode(
            t, _row_reader(reader, name), lambda rows: progress(name, rows * t.entry.shape[-1])
        )
    put_tensor(work, unit.name, tensor, note)


def _code_rows(
    reader: Reader,
    units: list[Unit],
    work: WorkFolder,
    limits: Limits,
    threads: int,
    progress: Progress,
) -> None:
    """Code units by rows. They go through one pool of threads, which keeps them all busy."""
    blocks = []
    for unit in units:
        t, step = unit.tensor, _ranges(unit, limits)[0]
        assert t.coding is not None
        read = _row_reader(reader, t.entry.name)
        blocks.append(Block(read, t.coding, unit.start, unit.stop, step))
    coded = coded_blocks(blocks, threads)
    for unit in units:
        with _naming(unit):  # of all errors that of the first range comes first
            one = next(coded)
        work.put(unit.name, [one.index, one.table], {})
        progress(unit.tensor.entry.name, unit.weights)


# Whole tensors


def put_tensor(work: WorkFolder, name: str, tensor: PVQTensor, note: Note) -> None:
    """Keep a whole tensor, and what is noted of it."""
    own = {"design": tensor.design, "norm_exponent": tensor.norm_exponent, "noted": note}
    work.put(name, [getattr(tensor, part) for part in PARTS], own)


def get_tensor(work: WorkFolder, name: str, t: TensorPlan) -> tuple[PVQTensor, Note] | None:
    """Return a tensor that was kept whole, and what was noted of it, or None."""
    piece = work.get(name)
    if piece is None:
        return None
    assert t.coding is not None
    e, fields, start = t.entry, [], 0
    for _, dtype, shape in entries_of(e.name, e.shape, t.coding.allotment):
        fields.append(piece.array(start, prod(shape), NUMPY_TYPES[dtype]).reshape(shape))
        start += fields[-1].nbytes
    design, exponent = piece.note["design"], piece.note["norm_exponent"]
    return PVQTensor(e.shape, e.dtype, t.coding, design, exponent, *fields), piece.note["noted"]
