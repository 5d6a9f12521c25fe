"""Error feedback: later columns make up for the errors of earlier ones (spec sections 7.2, 7.4).

With E = W' - What' the layer's outputs miss by tr(E H Eᵀ), H = A Aᵀ the damped second moment of its
rotated inputs, A upper triangular. So the loss is ||E A||², and group Q of columns alone adds
||E_Q A_QQ + E_< A_<Q||², where < are the columns before it. So the group's target isn't w_Q but

    w_Q + E_< A_<Q A_QQ⁻¹,    searched in the metric  M = A_QQ A_QQᵀ,

and all that the groups lose in their metrics adds up to the loss. This is the feedback of GPTQ
(Frantar et al. 2023; LDLQ in QuIP, Chee et al. 2023) for groups, one matrix product a group.

Sweeps follow (coordinate descent): with all other groups fixed the best target of group Q is
t = w_Q + E_o H_oQ H_QQ⁻¹, o all other columns, in the metric H_QQ. The search needs t H_QQ only,
which is (E H)_Q + What'_Q H_QQ. A group moves only if it gains.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are asked for
from numpy.typing import NDArray

from pvq_ref.curvature import Curvature
from pvq_ref.exchange import UNCODED, exchange_groups, nearest_level
from pvq_ref.gain import Floats
from pvq_ref.groups import Part, parts
from pvq_ref.jit import kernel
from pvq_ref.rates import Allotment
from pvq_ref.searching import search_unchecked

SEARCHES = ("weighted", "plain")
STRETCH = 256  # columns that errors before them are carried to at once
WIDE = 1024  # in rows of more columns than that: in shorter ones it takes as long, or longer


@dataclass(frozen=True)
class Slot:
    """One group of every row: the part that it belongs to, its number in a row, its columns."""

    part: Part
    number: int
    columns: slice


def slots(a: Allotment) -> Iterator[Slot]:
    """Yield the groups of a row from left to right."""
    number = 0
    for part in parts(a):
        for first in range(part.first_column, part.first_column + part.per_row * part.n, part.n):
            yield Slot(part, number, slice(first, first + part.n))
            number += 1


@dataclass(frozen=True)
class Step:
    """What coding one slot takes: the pass's metric M and A_<Q A_QQ⁻¹, which carries earlier errors
    into its target; the sweeps' metric H_QQ, and the rows H_Q.

    Slots come in stretches. The first of one has in `ahead` what carries the errors before it into
    all targets of the stretch: one product of many columns takes less time than many of few.
    """

    slot: Slot
    metric: Floats
    carry: Floats
    own: Floats
    rows: Floats
    ahead: Floats | None


def _stretches(a: Allotment) -> Iterator[list[Slot]]:
    """Yield the slots of up to STRETCH columns, or one; all of them of rows that aren't WIDE."""
    some: list[Slot] = []
    for slot in slots(a):
        is_long = some and slot.columns.stop - some[0].columns.start > STRETCH
        if is_long and a.grid.cols > WIDE:
            yield some
            some = []
        some.append(slot)
    yield some


def steps(curved: Curvature, a: Allotment) -> list[Step]:
    """Return the steps of a pass, from left to right; matrices are in the curvature's unit."""
    result = []
    for stretch in _stretches(a):
        first, stop = stretch[0].columns.start, stretch[-1].columns.stop
        carries = np.empty((stop, stop - first), order="F")
        for slot in stretch:
            q = slot.columns
            block, before = curved.factor[q, q], curved.factor[: q.start, q]
            carry = carries[: q.start, q.start - first : q.stop - first]
            carry[...] = scipy.linalg.solve_triangular(block, before.T, trans="T").T
            own = np.ascontiguousarray(curved.hessian[q, q])
            ahead = carries[:first] if slot is stretch[0] else None
            result.append(Step(slot, block @ block.T, carry, own, curved.hessian[q], ahead))
    return result


@kernel
def _choose(
    w: Floats, y: NDArray[np.int32], units: Floats, levels: Floats, fields: NDArray[np.int64],
    gains: Floats,
) -> None:  # fmt: skip
    """Write the best amplitude of y/||y|| and 1 to gains (rows, 2), and its level to fields, if
    there are levels (spec sections 5.1 and 5.5).
    """
    for row in range(y.shape[0]):
        target, point = w[row], y[row]
        a, b = 0.0, np.int64(0)
        for i in range(point.size):
            a += target[i] * point[i]
            b += np.int64(point[i]) * np.int64(point[i])
        gain = a / np.sqrt(np.float64(b))
        gains[row, 0], gains[row, 1] = gain, 1.0
        if levels.size > 0:
            fields[row] = nearest_level(levels, gain / units[row] if units[row] > 0.0 else 0.0)


@kernel
def _leave(w: Floats, y: NDArray[np.int32], amplitudes: Floats, first: int, error: Floats) -> None:
    """Write w minus amplitude · y/||y||, rounded as in spec section 8.5, from column `first` on."""
    n = y.shape[1]
    for row in range(y.shape[0]):
        point, target, left = y[row], w[row, first : first + n], error[row, first : first + n]
        b = np.int64(0)
        for i in range(n):
            b += np.int64(point[i]) * np.int64(point[i])
        scale = amplitudes[row] / np.sqrt(np.float64(b))
        for i in range(n):
            left[i] = target[i] - scale * point[i]


class Rows:
    """Rows that are being coded.

    w (rows, cols), W'; units (rows,), the stored norms; levels of whole groups and of tails, each
    (2^m,) float64, or empty for free gains. Result: for each slot a point y (rows, n) int32; for
    all slots the numbers of levels (rows, slots) int64 or the free gains (rows, slots, 2) as in
    `exchange_groups`; error (rows, cols), W' - What'.
    """

    def __init__(self, w: Floats, units: Floats, a: Allotment, levels: list[Floats]) -> None:
        self.w, self.units, self.levels = w, units, levels
        self.points = [np.zeros((len(w), slot.part.n), np.int32) for slot in slots(a)]
        # Those of a slot lie side by side: kernels get contiguous arrays, of one type.
        self.fields = np.full((a.grid.groups, len(w)), UNCODED, np.int64).T
        self.gains = np.zeros((a.grid.groups, len(w), 2)).swapaxes(0, 1)
        self.error = w.copy()

    def part(self, start: int, stop: int) -> "Rows":
        """Return a range of the rows; what becomes of them becomes of these rows."""
        some = copy(self)
        some.w, some.units = self.w[start:stop], self.units[start:stop]
        some.points = [y[start:stop] for y in self.points]
        some.fields, some.gains = self.fields[start:stop], self.gains[start:stop]
        some.error = self.error[start:stop]
        return some

    def start(self, slot: Slot, target: Floats) -> None:
        """Search a slot in the Euclidean metric (spec section 4.1), without levels yet."""
        self.points[slot.number] = search_unchecked(np.ascontiguousarray(target), slot.part.k)

    def choose_levels(self, slot: Slot, target: Floats) -> None:
        """Choose the levels, or free gains, of a slot's points in the Euclidean metric."""
        i, levels = slot.number, self.levels[slot.part.level_row]
        _choose(target, self.points[i], self.units, levels, self.fields[:, i], self.gains[:, i])

    def improve(self, slot: Slot, c: Floats, metric: Floats) -> None:
        """Search a slot under a metric, from its points on; c is the metric times the targets."""
        i, levels = slot.number, self.levels[slot.part.level_row]
        exchange_groups(
            c, metric, self.units, levels, self.points[i], self.fields[:, i], self.gains[:, i]
        )

    def settle(self, slot: Slot) -> None:
        """Set the error of a slot to what its points and levels leave."""
        i, levels = slot.number, self.levels[slot.part.level_row]
        amplitudes = self.units * levels[self.fields[:, i]] if levels.size else self.gains[:, i, 0]
        _leave(
            self.w, self.points[i], np.ascontiguousarray(amplitudes), slot.columns.start, self.error
        )


def code_alone(rows: Rows, a: Allotment) -> None:
    """Code rows as without calibration: Euclidean search, no feedback."""
    for slot in slots(a):
        target = np.ascontiguousarray(rows.w[:, slot.columns])
        rows.start(slot, target)
        rows.choose_levels(slot, target)
        rows.settle(slot)


def feed_back(rows: Rows, course: list[Step], search: str) -> float:
    """Code rows from left to right (spec section 7.2); return the sum of their damped losses.

    course comes from `steps`; search is one of SEARCHES. Rows don't depend on each other.
    """
    loss, first, carried_ahead = 0.0, 0, rows.error[:, :0]
    for step in course:
        q = step.slot.columns
        if step.ahead is not None:
            first, carried_ahead = q.start, rows.error[:, : q.start] @ step.ahead
        carried = rows.error[:, first : q.start] @ step.carry[first:]
        carried += carried_ahead[:, q.start - first : q.stop - first]
        target = rows.w[:, q] + carried
        rows.start(step.slot, target)
        if search == "weighted":
            rows.improve(step.slot, target @ step.metric, step.metric)
        else:
            rows.choose_levels(step.slot, target)
        rows.settle(step.slot)
        away = rows.error[:, q] + carried
        loss += float(np.vdot(away @ step.metric, away))
    return loss


def sweep(rows: Rows, course: list[Step], slope: Floats) -> bool:
    """Improve each group once with all others fixed (spec section 7.4); return whether any moved.

    slope (rows, cols) is E H, and is kept so.
    """
    any_moved = False
    for step in course:
        q = step.slot.columns
        before = rows.error[:, q].copy()
        c = slope[:, q] + (rows.w[:, q] - before) @ step.own
        rows.improve(step.slot, c, step.own)
        rows.settle(step.slot)
        change = rows.error[:, q] - before
        moved = np.flatnonzero(change.any(axis=1))
        if moved.size:
            any_moved = True
            slope[moved] += change[moved] @ step.rows
    return any_moved
