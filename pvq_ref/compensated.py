"""Encoding with error feedback: weights and a Hessian -> PVQTensor (spec section 7).

Composition only, as in `encoding`: norms and levels come first, since what a group loses depends
on them, then ranges of rows are coded on one thread each. Matrix products inside a range use one
thread of the linear algebra library, so results don't depend on the number of threads.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from pvq_ref.counting import bits, checked_integer
from pvq_ref.curvature import DAMPING, Curvature, checked_damping, curvature
from pvq_ref.encoding import (
    FIT_GAIN,
    checked_design,
    coding_for,
    no_room,
    rotated_rows,
    row_norms,
    stored_norms,
)
from pvq_ref.errors import DomainError
from pvq_ref.feedback import (
    SEARCHES,
    Coded,
    Step,
    code_alone,
    feed_back,
    slots,
    steps,
    sweep,
)
from pvq_ref.gain import FITTED, Floats, design_levels, fitted_levels, nearest_levels
from pvq_ref.groups import Coding, parts, rows_per_range
from pvq_ref.packing import Bytes, pack_into
from pvq_ref.parallel import map_ranges
from pvq_ref.ranking import rank_unchecked
from pvq_ref.tensor import PVQTensor, dtype_name

RowReader = Callable[[int, int], NDArray[np.floating]]
FITTED_ROWS = 256  # at most as many rows are coded to fit the levels of a tensor
ROWS = 64  # rows that one thread codes at a time, at most
SWEEPS = 0


@dataclass(frozen=True)
class Feedback:
    """How errors are fed back: damping of the Hessian, search of a group, sweeps at most."""

    damping: float = DAMPING
    search: str = "weighted"
    sweeps: int = SWEEPS

    def __post_init__(self) -> None:
        checked_damping(self.damping)
        checked_integer("sweeps", self.sweeps, 0, 1000)
        if self.search not in SEARCHES:
            raise DomainError(f"search must be one of {', '.join(SEARCHES)}, got {self.search!r}")


@dataclass(frozen=True)
class Losses:
    """tr(E H Eᵀ) / tr(W H Wᵀ), H not damped: without feedback, and as coded."""

    without: float
    coded: float


def _levels(
    read: RowReader, units: Floats, coding: Coding, design: str, curved: Curvature, how: Feedback
) -> tuple[list[NDArray[np.float32]], str]:
    """Return the levels of whole groups and tails, and the name of their design.

    Targets that make up for errors are longer than the law says. So some rows are coded with free
    gains, levels are fitted to these, and taken where they bring the loss below FIT_GAIN of what
    the law's levels give.
    """
    a = coding.allotment
    wanted = "lloyd-max" if design == "auto" else design
    law = [] if design == FITTED else [
        design_levels(wanted, p.n, p.k, a.grid.cols, a.gain_bits) for p in parts(a)
    ]  # fmt: skip
    live = np.flatnonzero(units > 0.0)
    if law and (design != "auto" or not live.size):
        return law, wanted
    if not live.size:
        return [np.zeros(1 << a.gain_bits, np.float32)] * a.level_rows, FITTED
    rows = live[:: -(-live.size // FITTED_ROWS)]
    w = np.concatenate([rotated_rows(read, coding, row, row + 1) for row in rows.tolist()])
    unit, free = units[rows], [np.empty(0)] * a.level_rows
    coded = feed_back(w, unit, a, steps(curved, a), free, how.search)
    fitted, errors = [], np.full(2, float(np.sum((coded.error @ curved.hessian) * coded.error)))
    for part in parts(a):
        own = [i for i, slot in enumerate(slots(a)) if slot.part == part]
        gains = (coded.gains[:, own, 0] / unit[:, None]).ravel()
        mass = (coded.gains[:, own, 1] * unit[:, None] ** 2).ravel()
        fitted.append(fitted_levels(gains, a.gain_bits, mass))
        for number, choice in enumerate((fitted, law) if law else (fitted,)):
            levels = choice[part.level_row]
            errors[number] += np.sum(mass * (gains - levels[nearest_levels(gains, levels)]) ** 2)
    if law and errors[0] >= FIT_GAIN * errors[1]:
        return law, wanted
    return fitted, FITTED


def _packed(coded: Coded, coding: Coding) -> Bytes:
    """Return the packed indices of a range of rows."""
    a, rows = coding.allotment, len(coded.fields)
    index = np.zeros(-(-rows * a.row_index_bits // 8), np.uint8)
    numbers = list(slots(a))
    for part in parts(a):
        own = [coded.points[i] for i, slot in enumerate(numbers) if slot.part == part]
        y = np.stack(own, axis=1).reshape(-1, part.n)
        layout = (part.first_bit, part.per_row, a.row_index_bits)
        fields = rank_unchecked(y, part.tables(coding), coding.order)
        pack_into(index, fields, bits(part.n, part.k), layout)
    return index


@dataclass(frozen=True)
class _Range:
    index: Bytes
    fields: NDArray[np.int64]
    losses: NDArray[np.float64]  # without feedback, coded, of the weights themselves


def _code_range(
    w: Floats,
    units: Floats,
    coding: Coding,
    curved: Curvature,
    course: list[Step],
    levels: list[NDArray[np.float32]],
    how: Feedback,
) -> _Range:
    a = coding.allotment
    wide = [one.astype(np.float64) for one in levels]
    alone = code_alone(w, units, a, wide)
    coded = feed_back(w, units, a, course, wide, how.search)
    for _ in range(how.sweeps):
        if not sweep(w, units, curved, course, wide, coded):
            break
    losses = [curved.loss(error) for error in (alone.error, coded.error, w)]
    return _Range(_packed(coded, coding), coded.fields, np.array(losses))


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
    rows, step = a.grid.rows, min(ROWS, rows_per_range(a.grid.cols))

    def norms(start: int, stop: int) -> Floats:
        return row_norms(rotated_rows(read, coding, start, stop), start)

    with threadpool_limits(1):
        row_norm, exponent = stored_norms(
            np.concatenate(list(map_ranges(norms, rows, step, threads)))
        )
        units = np.ldexp(row_norm.astype(np.float64), exponent)
        levels, name = _levels(read, units, coding, design, curved, how)
        course = steps(curved, a)

        def work(start: int, stop: int) -> _Range:
            w = rotated_rows(read, coding, start, stop)
            return _code_range(w, units[start:stop], coding, curved, course, levels, how)

        index, filled, fields, losses = np.zeros(a.index_size, np.uint8), 0, [], np.zeros(3)
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
    without, got, whole = losses.tolist()
    return tensor, Losses(without / whole, got / whole) if whole > 0.0 else Losses(0.0, 0.0)


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
) -> tuple[PVQTensor, Losses]:
    """Compress a weight tensor so that the layer's outputs suffer least (spec section 7).

    Parameters: W as in `quantize`, and so the others that it has; hessian (cols, cols), the second
    moment E[x xᵀ] of the layer's inputs x, of any scale; damping, what is added to its diagonal, in
    units of its mean; search, `weighted` or `plain` (Euclidean); sweeps, how many times at most all
    groups are searched anew after the first pass. Returns the tensor and its losses. Raises what
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
    how = Feedback(damping, search, sweeps)
    coding = coding_for(array.shape, bits, group, gain_bits, order, block, seed, rotate)
    if coding is None:
        raise no_room(array.shape, bits)
    rows = array.reshape(-1, array.shape[-1])
    with threadpool_limits(1):
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
