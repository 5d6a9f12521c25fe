"""Error feedback: later columns make up for the errors of earlier ones (spec section 7).

With E = W' - What' the layer's outputs miss by tr(E H Eᵀ), H the damped second moment of its
rotated inputs. Factor H = A Aᵀ, A upper triangular: then the loss is ||E A||², and group Q of
columns alone adds ||E_Q A_QQ + E_< A_<Q||², where < are the columns before it. So the group's
target isn't w_Q but

    w_Q + E_< A_<Q A_QQ⁻¹,    searched in the metric  M = A_QQ A_QQᵀ,

and all that the groups lose in their metrics adds up to the loss. This is the feedback of GPTQ
(Frantar et al. 2023; LDLQ in QuIP, Chee et al. 2023) for groups, one matrix product a group.
H⁻¹ = UᵀU with U = A⁻¹, the factor that those texts use, is never formed.

Sweeps follow (coordinate descent): with all other groups fixed the best target of group Q is
w_Q + E_o H_oQ H_QQ⁻¹, o all other columns, in the metric H_QQ; a group moves only if it gains.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from pvq_ref.curvature import Curvature
from pvq_ref.exchange import UNCODED, exchange_groups
from pvq_ref.gain import Floats, group_gains, nearest_levels
from pvq_ref.groups import Part, parts
from pvq_ref.rates import Allotment
from pvq_ref.searching import search_unchecked

SEARCHES = ("weighted", "plain")


@dataclass(frozen=True)
class Slot:
    """One group of every row: the part that it belongs to, its number there, its columns."""

    part: Part
    number: int
    columns: slice


def slots(a: Allotment) -> Iterator[Slot]:
    """Yield the groups of a row from left to right."""
    for part in parts(a):
        for number in range(part.per_row):
            first = part.first_column + number * part.n
            yield Slot(part, number, slice(first, first + part.n))


@dataclass(frozen=True)
class Step:
    """What coding one slot takes: the first pass's metric M and A_<Q A_QQ⁻¹, which carries earlier
    errors into its target; the sweeps' metric H_QQ, its inverse, and the rows H_Q.
    """

    slot: Slot
    metric: Floats
    carry: Floats
    own: Floats
    own_inverse: Floats
    rows: Floats


def steps(curved: Curvature, a: Allotment) -> list[Step]:
    """Return the steps of a pass, from left to right."""
    result = []
    for slot in slots(a):
        q = slot.columns
        own, before = curved.factor[q, q], curved.factor[: q.start, q]
        carry: Floats = solve_triangular(own, before.T, trans="T").T
        block = np.ascontiguousarray(curved.hessian[q, q])
        result.append(
            Step(slot, own @ own.T, carry, block, np.linalg.inv(block), curved.hessian[q])
        )
    return result


@dataclass(frozen=True)
class Coded:
    """Rows as they were coded: for each slot y (rows, n) int32, and for all slots the numbers of
    levels (rows, slots) and what free gains would be (rows, slots, 2), see `exchange_groups`.
    """

    points: list[NDArray[np.int32]]
    fields: NDArray[np.int64]
    gains: Floats
    error: Floats  # W' - What' (rows, cols)

    def decoded(self, slot: int, units: Floats, levels: Floats) -> Floats:
        """Return What' of a slot (rows, n), amplitude · y/||y||; amplitudes are free without
        levels.
        """
        y, amplitudes = self.points[slot], self.gains[:, slot, 0]
        if levels.size:
            amplitudes = units * levels[self.fields[:, slot]]
        length = np.sqrt(np.sum(np.square(y, dtype=np.float64), axis=1))
        return np.asarray((amplitudes / length)[:, None] * y)


def _uncoded(w: Floats, a: Allotment) -> Coded:
    places = list(slots(a))
    points = [np.empty((len(w), slot.part.n), np.int32) for slot in places]
    fields = np.full((len(w), len(places)), UNCODED, np.int64)
    return Coded(points, fields, np.empty((len(w), len(places), 2)), w.copy())


def _search(
    target: Floats, metric: Floats | None, units: Floats, levels: Floats, coded: Coded, i: int
) -> None:
    """Improve the points of slot i under a metric, or leave them, and choose their levels."""
    y, fields, gains = coded.points[i], coded.fields[:, i].copy(), np.empty((len(target), 2))
    if metric is not None:
        exchange_groups(target, metric, units, levels, y, fields, gains)
    else:
        gains[:, 0], gains[:, 1] = group_gains(target, y), 1.0
        if levels.size:
            usable = units > 0.0
            relative = np.divide(gains[:, 0], units, out=np.zeros(len(units)), where=usable)
            fields = nearest_levels(relative, levels.astype(np.float32)).astype(np.int64)
    coded.fields[:, i], coded.gains[:, i] = fields, gains


def code_alone(w: Floats, units: Floats, a: Allotment, levels: list[Floats]) -> Coded:
    """Code rotated rows as without calibration: Euclidean search, no feedback."""
    coded = _uncoded(w, a)
    for i, slot in enumerate(slots(a)):
        target = np.ascontiguousarray(w[:, slot.columns])
        coded.points[i][:] = search_unchecked(target, slot.part.k)
        _search(target, None, units, levels[slot.part.level_row], coded, i)
        coded.error[:, slot.columns] -= coded.decoded(i, units, levels[slot.part.level_row])
    return coded


def feed_back(
    w: Floats, units: Floats, a: Allotment, course: list[Step], levels: list[Floats], search: str
) -> Coded:
    """Code rotated rows w (rows, cols) from left to right (spec section 7.2).

    units (rows,) are the stored row norms; course comes from `steps`; levels holds those of whole
    groups and of tails, each (2^m,) or empty for free gains; search is one of SEARCHES. Rows don't
    depend on each other.
    """
    coded = _uncoded(w, a)
    for i, step in enumerate(course):
        q, own = step.slot.columns, levels[step.slot.part.level_row]
        target = w[:, q] + coded.error[:, : q.start] @ step.carry
        coded.points[i][:] = search_unchecked(target, step.slot.part.k)
        _search(target, step.metric if search == "weighted" else None, units, own, coded, i)
        coded.error[:, q] -= coded.decoded(i, units, own)
    return coded


def sweep(
    w: Floats,
    units: Floats,
    curved: Curvature,
    course: list[Step],
    levels: list[Floats],
    coded: Coded,
) -> bool:
    """Search each group once more with all others fixed; return whether any moved (spec 7.4)."""
    slope, moved = coded.error @ curved.hessian, False
    for i, step in enumerate(course):
        q, own = step.slot.columns, levels[step.slot.part.level_row]
        others = slope[:, q] - coded.error[:, q] @ step.own
        target = w[:, q] + others @ step.own_inverse
        before = coded.decoded(i, units, own)
        _search(target, step.own, units, own, coded, i)
        change = before - coded.decoded(i, units, own)
        if change.any():
            moved = True
            coded.error[:, q] += change
            slope += change @ step.rows
    return moved
