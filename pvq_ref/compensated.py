"""Encoding with error feedback: weights and a Hessian -> PVQTensor (spec section 7).

Composition only, as in `encoding`: norms and levels come first, since what a group loses depends
on them, then ranges of rows are coded on one thread each. Matrix products inside a range use one
thread of the linear algebra library, so results don't depend on the number of threads.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pvq_ref.counting import bits, checked_integer
from pvq_ref.curvature import DAMPING, Curvature, checked_damping, curvature
from pvq_ref.encoding import (
    RowReader,
    checked_design,
    coding_for,
    no_room,
    rotated_rows,
    row_norms,
)
from pvq_ref.errors import DomainError
from pvq_ref.feedback import SEARCHES, Rows, Step, code_alone, feed_back, slots, steps, sweep
from pvq_ref.finishing import FIT_GAIN, stored_norms
from pvq_ref.gain import FITTED, Floats, design_levels, fitted_levels, nearest_levels
from pvq_ref.groups import Coding, parts
from pvq_ref.packing import Bytes, pack_into
from pvq_ref.parallel import map_ranges, one_thread_each
from pvq_ref.paths import MAX_PATHS, follow_paths
from pvq_ref.ranking import rank_unchecked
from pvq_ref.tensor import PVQTensor, dtype_name

ROWS = 512  # rows that one thread codes at a time, at most
FEW_ROWS = 64  # as many at least, unless there are too few of them for some threads
WEIGHTS = 1 << 20  # of these rows, at most
SAMPLE = 64  # rows that are coded beforehand, for levels and for the loss without feedback
GAINS = 128  # free gains for each level that is fitted to them; more rows are coded if need be
SWEEPS = 0  # they fit what was calibrated on; bench/quality.py tells whether that helps elsewhere
PATHS = 1  # each takes the time of a pass


@dataclass(frozen=True)
class Feedback:
    """How errors are fed back: damping of the Hessian, search of a group, sweeps at most, ways to
    code a row that are kept side by side.
    """

    damping: float = DAMPING
    search: str = "weighted"
    sweeps: int = SWEEPS
    paths: int = PATHS

    def __post_init__(self) -> None:
        checked_damping(self.damping)
        checked_integer("sweeps", self.sweeps, 0, 1000)
        if self.search not in SEARCHES:
            raise DomainError(f"search must be one of {', '.join(SEARCHES)}, got {self.search!r}")
        checked_integer("paths", self.paths, 1, MAX_PATHS)
        if self.paths > 1 and self.search != "weighted":
            raise DomainError(f"paths must be 1 with a {self.search} search, got {self.paths}")


@dataclass(frozen=True)
class Losses:
    """tr(E H Eᵀ) / tr(W H Wᵀ), H not damped: without feedback, and as coded.

    The first is of SAMPLE rows at most, evenly spaced, coded with the same levels: it is for
    reports alone, and all rows would take a second search.
    """

    without: float
    coded: float


@dataclass(frozen=True)
class _Task:
    """A tensor to code: rows to read, and all that is the same for each of them."""

    read: RowReader
    coding: Coding
    curved: Curvature
    course: list[Step]
    units: Floats  # (rows,)
    threads: int | None

    def rows(self, numbers: NDArray[np.int64], levels: list[NDArray[np.float32]]) -> Rows:
        """Return rows ready to be coded."""

        def read(start: int, stop: int) -> NDArray[np.floating]:
            wanted = numbers[start:stop].tolist()
            if wanted[-1] - wanted[0] == len(wanted) - 1:
                return self.read(wanted[0], wanted[-1] + 1)
            return np.concatenate([self.read(i, i + 1) for i in wanted])

        w = rotated_rows(read, self.coding, 0, len(numbers))
        wide = [one.astype(np.float64) for one in levels]
        return Rows(w, self.units[numbers], self.coding.allotment, wide)

    def sample(self, size: int) -> NDArray[np.int64]:
        """Return the numbers of `size` rows at most, evenly spaced, none with a norm of zero."""
        live = np.flatnonzero(self.units > 0.0)
        return live[:: max(1, -(-live.size // size))]


def _step(rows: int, cols: int) -> int:
    """Return the rows that one thread codes at a time, a multiple of eight.

    Many rows make searches and products faster. But a tensor is cut into a multiple of four ranges,
    if there are enough rows for it, all nearly equal, so that a few threads end together.
    """
    most = max(8, min(ROWS, WEIGHTS // cols // 8 * 8))
    pieces = -(-rows // most)
    pieces = max(pieces, min(-(-pieces // 4) * 4, rows // FEW_ROWS))
    return -(-rows // pieces // 8) * 8


# Levels


def _free_gains(task: _Task, numbers: NDArray[np.int64], search: str) -> tuple[Floats, float]:
    """Code rows with free gains; return these, in units of the rows' norms, and the damped loss."""
    a = task.coding.allotment
    free = [np.empty(0, np.float32)] * a.level_rows

    def work(start: int, stop: int) -> tuple[Floats, float]:
        rows = task.rows(numbers[start:stop], free)
        loss = feed_back(rows, task.course, search)
        unit = rows.units[:, None]
        gains = np.stack((rows.gains[..., 0] / unit, rows.gains[..., 1] * unit**2), axis=-1)
        return gains, loss

    done = list(map_ranges(work, len(numbers), SAMPLE // 2, task.threads))
    return np.concatenate([gains for gains, _ in done]), sum(loss for _, loss in done)


def _levels(task: _Task, design: str, search: str) -> tuple[list[NDArray[np.float32]], str]:
    """Return the levels of whole groups and tails, and the name of their design.

    Targets that make up for errors are longer than the law says. So some rows are coded with free
    gains, levels are fitted to these, and taken where they bring the loss below FIT_GAIN of what
    the law's levels give.
    """
    a = task.coding.allotment
    wanted = "lloyd-max" if design == "auto" else design
    law = [] if design == FITTED else [
        design_levels(wanted, p.n, p.k, a.grid.cols, a.gain_bits) for p in parts(a)
    ]  # fmt: skip
    enough = -(-(GAINS << a.gain_bits) // a.grid.whole)
    numbers = task.sample(max(SAMPLE, enough))
    if law and (design != "auto" or not numbers.size):
        return law, wanted
    if not numbers.size:
        return [np.zeros(1 << a.gain_bits, np.float32)] * a.level_rows, FITTED
    free, loss = _free_gains(task, numbers, search)
    fitted, losses = [], np.full(2, loss)
    for part in parts(a):
        own = [slot.number for slot in slots(a) if slot.part == part]
        gains, mass = free[:, own, 0].ravel(), free[:, own, 1].ravel()
        fitted.append(fitted_levels(gains, a.gain_bits, mass))
        for number, choice in enumerate((fitted, law) if law else (fitted,)):
            levels = choice[part.level_row]
            losses[number] += np.sum(mass * (gains - levels[nearest_levels(gains, levels)]) ** 2)
    if law and losses[0] >= FIT_GAIN * losses[1]:
        return law, wanted
    return fitted, FITTED


# Rows


@dataclass(frozen=True)
class _Coded:
    """A range of rows: packed indices, numbers of levels, and losses: coded, of the weights."""

    index: Bytes
    fields: NDArray[np.int64]
    losses: Floats


def _packed(rows: Rows, coding: Coding) -> Bytes:
    """Return the packed indices of a range of rows."""
    a = coding.allotment
    index = np.zeros(-(-len(rows.w) * a.row_index_bits // 8), np.uint8)
    for part in parts(a):
        own = [rows.points[slot.number] for slot in slots(a) if slot.part == part]
        y = np.stack(own, axis=1).reshape(-1, part.n)
        layout = (part.first_bit, part.per_row, a.row_index_bits)
        fields = rank_unchecked(y, part.tables(coding), coding.order)
        pack_into(index, fields, bits(part.n, part.k), layout)
    return index


def _code(
    task: _Task, numbers: NDArray[np.int64], levels: list[NDArray[np.float32]], how: Feedback
) -> _Coded:
    rows = task.rows(numbers, levels)
    if how.paths > 1:
        loss = follow_paths(rows, task.course, how.paths)
    else:
        loss = feed_back(rows, task.course, how.search)
    if how.sweeps:
        slope = rows.error @ task.curved.hessian
        any(not sweep(rows, task.course, slope) for _ in range(how.sweeps))
        loss = float(np.vdot(slope, rows.error))
    loss -= task.curved.added * float(np.vdot(rows.error, rows.error))
    losses = np.array([loss, task.curved.scale(rows.w)])
    return _Coded(_packed(rows, task.coding), rows.fields, losses)


def _loss_without(task: _Task, levels: list[NDArray[np.float32]]) -> float:
    """Return the loss of the sample without feedback."""
    numbers = task.sample(SAMPLE)

    def work(start: int, stop: int) -> Floats:
        rows = task.rows(numbers[start:stop], levels)
        code_alone(rows, task.coding.allotment)
        return np.array([task.curved.loss(rows.error), task.curved.scale(rows.w)])

    losses = list(map_ranges(work, len(numbers), SAMPLE // 2, task.threads))
    return _ratio(np.sum(losses, axis=0)) if losses else 0.0


def _ratio(losses: Floats) -> float:
    return max(0.0, float(losses[0] / losses[1])) if losses[1] > 0.0 else 0.0


def encode(
    read: RowReader,
    shape: tuple[int, ...],
    dtype: str,
    coding: Coding,
    design: str,
    curved: Curvature,
    how: Feedback,
    threads: int | None,
    rows_done: Callable[[int], None] = lambda rows: None,
) -> tuple[PVQTensor, Losses]:
    """Compress the tensor whose rows `read(start, stop)` returns; see `quantize_with_feedback`."""
    a = coding.allotment
    rows, step = a.grid.rows, _step(a.grid.rows, a.grid.cols)

    def norms(start: int, stop: int) -> Floats:
        return row_norms(rotated_rows(read, coding, start, stop), start)

    with one_thread_each():
        row_norm, exponent = stored_norms(
            np.concatenate(list(map_ranges(norms, rows, step, threads)))
        )
        units = np.ldexp(row_norm.astype(np.float64), exponent)
        task = _Task(read, coding, curved, steps(curved, a), units, threads)
        levels, name = _levels(task, design, how.search)
        without = _loss_without(task, levels)

        def work(start: int, stop: int) -> _Coded:
            return _code(task, np.arange(start, stop), levels, how)

        index, filled, fields, losses = np.zeros(a.index_size, np.uint8), 0, [], np.zeros(2)
        for one in map_ranges(work, rows, step, threads):
            index[filled : filled + one.index.size] = one.index
            filled += one.index.size
            fields.append(one.fields)
            losses += one.losses
            rows_done(len(one.fields))
    gain = np.zeros(a.gain_size, np.uint8)
    packed = np.concatenate(fields).astype(np.uint64).reshape(-1, 1)
    pack_into(gain, packed, a.gain_bits, (0, len(packed), 0))
    tensor = PVQTensor(
        shape, dtype, coding, name, exponent, index, gain, row_norm, np.stack(levels)
    )
    return tensor, Losses(without, _ratio(losses))


def quantize_with_feedback(
    W: ArrayLike,
    hessian: ArrayLike,
    bits: float = 3.25,
    group: int = 32,
    gain_bits: int | None = None,
    order: str = "blocked",
    seed: int = 0,
    rotate: bool = True,
    threads: int | None = None,
    *,
    block: int = 4,
    design: str = "auto",
    damping: float = DAMPING,
    search: str = "weighted",
    sweeps: int = SWEEPS,
    paths: int = PATHS,
) -> tuple[PVQTensor, Losses]:
    """Compress a weight tensor so that the layer's outputs suffer least (spec section 7).

    Parameters: W as in `quantize`, and so the others that it has; hessian (cols, cols), the second
    moment E[x xᵀ] of the layer's inputs x, of any scale; damping, what is added to its diagonal, in
    units of its mean; search, `weighted` or `plain` (Euclidean); sweeps, how many times at most all
    groups are searched anew after the first pass; paths, how many ways to code a row the pass keeps
    side by side, which takes as many times its time. Returns the tensor and its losses. Raises what
    `quantize` raises, and ShapeError, NonFiniteError or DomainError for the Hessian.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((999, 8)) @ rng.standard_normal((8, 128))
    >>> _, losses = quantize_with_feedback(rng.standard_normal((64, 128)), x.T @ x / len(x))
    >>> losses.coded < 0.1 * losses.without
    True
    """
    array = np.asarray(W)
    name = dtype_name(array.dtype)
    checked_design(design)
    how = Feedback(damping, search, sweeps, paths)
    coding = coding_for(array.shape, bits, group, gain_bits, order, block, seed, rotate)
    if coding is None:
        raise no_room(array.shape, bits)
    rows = array.reshape(-1, array.shape[-1])
    with one_thread_each():
        curved = curvature(hessian, array.shape[-1], coding.rotation, damping)
    return encode(
        lambda start, stop: rows[start:stop],
        array.shape,
        name,
        coding,
        design,
        curved,
        how,
        threads,
    )
