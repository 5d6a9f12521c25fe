"""Paths: several ways to code a row, side by side (spec section 7.10).

What a group adds to the loss depends on its target, and so on the errors of the groups before it.
Other points there, hardly worse ones, give other targets here, and some of these are nearer to a
point. So a row keeps several ways to code its first groups, its paths. Each goes on with the point
that the weighted search finds for its own target, or with one of the best points that are one
exchange away from that. Of all these ways the ones of least loss so far are kept, and of the last
ones the best is taken. (The M-algorithm, see Anderson and Mohan 1984; a step of it is a group.)

A loss so far is what the row would have if its later columns weren't rounded, so losses of
different pasts compare.
"""

from dataclasses import dataclass, replace

import numpy as np

from pvq_ref.exchange import UNCODED, exchange_groups
from pvq_ref.feedback import Rows, Step
from pvq_ref.gain import Floats
from pvq_ref.jit import kernel
from pvq_ref.neighbours import Integers, Points, take_neighbours
from pvq_ref.searching import search_unchecked

NEIGHBOURS = 4
MAX_PATHS = 1024
_TOGETHER = 1024  # paths that are searched together, those of eight rows at least
_NONE = np.empty(0)


@kernel
def _lengthen(
    w: Floats, errors: Floats, past: Integers, points: Points, amplitudes: Floats, longer: Floats
) -> None:
    """Write the errors of paths up to the columns of a group.

    errors (paths, first); past (kept,), numbers of paths; points (kept, n); amplitudes (kept,);
    w (rows, cols), each for equally many paths; longer (kept, first + n). Rounded as where a group
    is settled.
    """
    first, n = errors.shape[1], points.shape[1]
    paths = past.size // w.shape[0]
    for path in range(past.size):
        old, point, new, own = errors[past[path]], points[path], longer[path], w[path // paths]
        for i in range(first):
            new[i] = old[i]
        square = np.int64(0)
        for i in range(n):
            square += np.int64(point[i]) * np.int64(point[i])
        scale = amplitudes[path] / np.sqrt(np.float64(square))
        for i in range(n):
            new[first + i] = own[first + i] - scale * point[i]


@dataclass(frozen=True)
class _Paths:
    """The ways to code the groups up to one that were kept for each row, the best first."""

    errors: Floats  # (rows, paths, columns up to here), W' - What'
    losses: Floats  # (rows, paths), damped
    past: Integers  # (rows, paths), numbers of the paths that they go on from
    points: Points  # (rows, paths, n) of the last group
    fields: Integers  # (rows, paths), numbers of its levels


@dataclass(frozen=True)
class _Choices:
    """How the paths of each row can go on: choices of one path stand together."""

    losses: Floats  # (rows, paths · choices)
    points: Points  # (rows, paths · choices, n)
    fields: Integers  # (rows, paths · choices)


def _start(rows: int) -> _Paths:
    """Return one path for each row, before the first group."""
    numbers = np.zeros((rows, 1), np.int64)
    return _Paths(
        np.empty((rows, 1, 0)),
        np.zeros((rows, 1)),
        numbers,
        np.empty((rows, 1, 0), np.int32),
        numbers,
    )


def _choices(rows: Rows, step: Step, paths: _Paths) -> _Choices:
    """Search a group for each path, and take the neighbours of what is found."""
    part, columns, (count, before) = step.slot.part, step.slot.columns, paths.losses.shape
    errors = paths.errors.reshape(count * before, columns.start)
    target = np.repeat(rows.w[:, columns], before, axis=0) + errors @ step.carry
    units, levels = np.repeat(rows.units, before), rows.levels[part.level_row]
    c = target @ step.metric
    y, own = search_unchecked(target, part.k), np.full(len(c), UNCODED)
    exchange_groups(c, step.metric, units, levels, y, own, np.empty((0, 2)))
    points = np.empty((len(c), 1 + NEIGHBOURS, part.n), np.int32)
    fields, losses = np.empty(points.shape[:2], np.int64), np.empty(points.shape[:2])
    points[:, 0], fields[:, 0] = y, own
    losses[:, 0] = paths.losses.ravel() + np.sum(c * target, axis=1)
    take_neighbours(c, step.metric, units, levels, points, fields, losses)
    return _Choices(
        losses.reshape(count, -1), points.reshape(count, -1, part.n), fields.reshape(count, -1)
    )


def _kept(rows: Rows, step: Step, paths: _Paths, choices: _Choices, most: int) -> _Paths:
    """Return the paths that go on with the choices of least loss, the first ones of equal ones."""
    columns, (count, before) = step.slot.columns, paths.losses.shape
    row = np.arange(count)[:, None]
    best = np.argsort(choices.losses, axis=1, kind="stable")[:, :most]
    points, fields, past = (
        choices.points[row, best],
        choices.fields[row, best],
        best // (1 + NEIGHBOURS),
    )
    amplitudes = rows.units[:, None] * rows.levels[step.slot.part.level_row][fields]
    errors = np.empty((*best.shape, columns.stop))
    _lengthen(
        rows.w,
        paths.errors.reshape(count * before, columns.start),
        (row * before + past).ravel(),
        points.reshape(-1, points.shape[2]),
        amplitudes.ravel(),
        errors.reshape(best.size, columns.stop),
    )
    return _Paths(errors, choices.losses[row, best], past, points, fields)


def _follow(rows: Rows, course: list[Step], most: int) -> float:
    """Code rows that go together; return their damped losses' sum."""
    paths, stages = _start(len(rows.w)), []
    for step in course:
        paths = _kept(rows, step, paths, _choices(rows, step, paths), most)
        stages.append(replace(paths, errors=_NONE, losses=_NONE))
    row, number = np.arange(len(rows.w)), np.zeros(len(rows.w), np.int64)
    for step, stage in zip(reversed(course), reversed(stages), strict=True):
        slot = step.slot
        rows.points[slot.number][:] = stage.points[row, number]
        rows.fields[:, slot.number] = stage.fields[row, number]
        rows.settle(slot)
        number = stage.past[row, number]
    return float(paths.losses[:, 0].sum())


def follow_paths(rows: Rows, course: list[Step], paths: int) -> float:
    """Code rows from left to right, up to `paths` ways side by side; return the damped losses' sum.

    rows have levels; course comes from `feedback.steps`. Rows don't depend on each other.
    """
    together = max(8, _TOGETHER // paths)
    return sum(
        _follow(rows.part(first, first + together), course, paths)
        for first in range(0, len(rows.w), together)
    )
