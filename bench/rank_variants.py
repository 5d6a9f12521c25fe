#!/usr/bin/env python3
"""Measure what single changes bring to ranking and unranking: the package's kernels and others.

    python bench/rank_variants.py [--coordinates N] [--repetitions N]

Every variant must give the same result as the package. Contenders of one line run in turns on one
thread; the ratio is that of the median times, first over second, so above 1 the second is faster.
Kernels that aren't in the package stand here, as plain as the question allows.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

import report
from pvq_ref import blocked as fast
from pvq_ref import blocked_plain, blocked_unrank, finding, fischer, rank, search, words
from pvq_ref.fischer import fischer_from_words, fischer_to_words
from pvq_ref.tables import Tables, tables
from timing import medians

Words = NDArray[np.uint64]
Vectors = NDArray[np.int32]
SEED = 20241016
ZERO, ONE = np.uint64(0), np.uint64(1)
compiled = numba.njit(nogil=True, error_model="numpy")

# ---------------------------------------------------------------- kernels of other kinds


@compiled
def rank_plainly(y: Vectors, k: int, edges: Words, last: Words, index: Words) -> None:
    """Subtract every coordinate's entry at once, all words of it."""
    for row in range(y.shape[0]):
        words.copy(index[row], last)
        fischer_to_words(y[row], k, edges, index[row])


@compiled
def unrank_by_scanning(index: Words, k: int, edges: Words, last: Words, y: Vectors) -> None:
    """Unrank vector by vector, entry by entry from the greatest down, as libopus does."""
    left = np.empty(last.size, np.uint64)
    for row in range(y.shape[0]):
        words.copy(left, last)
        words.subtract(left, index[row])
        fischer_from_words(left, k, k, edges, y[row])


@compiled
def scan_words(index: Words, k: int, edges: Words, last: Words, y: Vectors) -> None:
    """Do the same with one word in a variable."""
    n, size = y.shape[1], np.uint64(2 * k + 2)
    for row in range(y.shape[0]):
        left, before = last[0] - index[row, 0], np.uint64(k)
        for j in range(n):
            base = np.uint64(n - j) * size
            edge = before + before
            while edges[base + edge] > left:
                edge -= ONE
            left -= edges[base + edge]
            magnitude = np.int32(before - (edge >> ONE))
            y[row, j] = magnitude if edge & ONE else -magnitude
            before = edge >> ONE


@compiled
def guess_words(index: Words, k: int, edges: Words, guesses: Any, last: Words, y: Vectors) -> None:
    """Unrank vector by vector with first guesses, one word."""
    n, size, (shift, row_of, guess) = y.shape[1], np.uint64(2 * k + 2), guesses
    for row in range(y.shape[0]):
        left, before = last[0] - index[row, 0], np.uint64(k)
        for j in range(n):
            level = n - j
            base = np.uint64(level) * size
            place = base + guess[row_of[level, before], left >> np.uint64(shift[level, before])]
            place += np.uint64(edges[place + ONE] <= left)
            while edges[place + ONE] <= left:
                place += ONE
            left -= edges[place]
            place -= base
            magnitude = np.int32(before - (place >> ONE))
            y[row, j] = magnitude if place & ONE else -magnitude
            before = place >> ONE


def tiles(tile: int, corrected: bool, strided: bool) -> Callable[..., None]:
    """Return a kernel for one word that unranks tiles; edges are (entries, 1) if strided."""

    @compiled
    def unrank(index: Words, k: int, edges: Words, guesses: Any, last: Words, y: Vectors) -> None:
        n, size, (shift, row_of, guess) = y.shape[1], 2 * k + 2, guesses
        left, before = np.empty(tile, np.uint64), np.empty(tile, np.uint64)
        for start in range(0, y.shape[0], tile):
            count = min(tile, y.shape[0] - start)
            for i in range(count):
                left[i], before[i] = last[0] - index[start + i, 0], np.uint64(k)
            for j in range(n):
                part = edges[(n - j) * size : (n - j + 1) * size]
                shifts, rows = shift[n - j], row_of[n - j]
                for i in range(count):
                    rest, b = left[i], before[i]
                    place = np.uint64(guess[rows[b], rest >> np.uint64(shifts[b])])
                    if strided:
                        place += np.uint64(part[place + ONE, 0] <= rest)
                        while part[place + ONE, 0] <= rest:
                            place += ONE
                        left[i] = rest - part[place, 0]
                    else:
                        if corrected:
                            place += np.uint64(part[place + ONE] <= rest)
                        while part[place + ONE] <= rest:
                            place += ONE
                        left[i] = rest - part[place]
                    magnitude = np.int32(b - (place >> ONE))
                    y[start + i, j] = magnitude if place & ONE else -magnitude
                    before[i] = place >> ONE

    return unrank


# ---------------------------------------------------------------- comparisons


class Case:
    """One pyramid: vectors, their indices in two orders, tables, and room for results."""

    def __init__(self, n: int, k: int, coordinates: int) -> None:
        x = np.random.default_rng([SEED, n, k]).standard_normal((coordinates // n, n))
        self.n, self.k, self.y = n, k, search(x, k)
        self.fischer, self.blocked = tables(n, k, "fischer", 0), tables(n, k, "blocked", 4)
        self.index, self.blocks = rank(self.y), rank(self.y, "blocked")
        self.room, self.places = np.empty_like(self.y), np.empty_like(self.index)

    @property
    def name(self) -> str:
        return f"({self.n},{self.k})"

    def ranked(self, kernel: Callable[..., object], *arguments: Any) -> Callable[[], Words]:
        return lambda: (kernel(self.y, *arguments, self.places), self.places)[1]

    def unranked(self, kernel: Callable[..., object], *arguments: Any) -> Callable[[], Vectors]:
        return lambda: (kernel(*arguments, self.room), self.room)[1]


Run = Callable[[], NDArray[Any]]
Line = tuple[str, str, Run, Run, NDArray[Any]]  # change, case, before, after, the right result


def wide(table: Tables) -> Tables:
    """Return tables of fischer that say of levels of two words that they have more."""
    widths = np.where(table.counts.widths == 2, 3, table.counts.widths)
    return replace(table, counts=replace(table.counts, widths=widths))


def with_cells(table: Tables, bits: int) -> Tables:
    """Return tables whose guesses have at most 2^bits cells."""
    old, finding.CELL_BITS = finding.CELL_BITS, bits
    fresh = replace(table, counts=replace(table.counts))
    _ = fresh.counts.guesses
    finding.CELL_BITS = old
    return fresh


def of_one_word(case: Case) -> Iterator[Line]:
    t, e = case.fischer, case.fischer.counts
    known = (case.index, case.k, e.low, e.guesses, t.last)
    scan = case.unranked(scan_words, case.index, case.k, e.low, t.last)
    guess = case.unranked(guess_words, *known)
    kept = case.unranked(tiles(128, True, False), *known)
    strided = (case.index, case.k, e.values, e.guesses, t.last)
    yield "unrank fischer: first guesses for scans", case.name, scan, guess, case.y
    yield "a tile of 128 for one vector after the other", case.name, guess, kept, case.y
    for tile in (16, 1024):
        other = case.unranked(tiles(tile, True, False), *known)
        yield f"a tile of 128 for one of {tile}", case.name, other, kept, case.y
    bare = case.unranked(tiles(128, False, False), *known)
    yield "a correction without a branch before the loop", case.name, bare, kept, case.y
    two_axes = case.unranked(tiles(128, True, True), *strided)
    yield "one-word edges without a second axis", case.name, two_axes, kept, case.y
    for bits in (4, 5, 7):
        coarse = case.unranked(fischer.unrank, case.index, with_cells(t, bits))
        package = case.unranked(fischer.unrank, case.index, t)
        yield f"64 cells for {1 << bits}", case.name, coarse, package, case.y


def of_any_words(case: Case) -> Iterator[Line]:
    t, b, e = case.fischer, case.blocked, case.fischer.counts
    plain = case.ranked(rank_plainly, case.k, e.values, t.last)
    yield (
        "rank fischer: sums word by word",
        case.name,
        plain,
        case.ranked(fischer.rank, t),
        (case.index),
    )
    scan = case.unranked(unrank_by_scanning, case.index, case.k, e.values, t.last)
    package = case.unranked(fischer.unrank, case.index, t)
    yield "unrank fischer: all changes", case.name, scan, package, case.y
    if 2 in e.widths:
        general = case.unranked(fischer.unrank, case.index, wide(t))
        yield "unrank fischer: two words in variables", case.name, general, package, case.y
    plain = case.ranked(blocked_plain.rank, b)
    yield "rank blocked: all changes", case.name, plain, case.ranked(fast.rank, b), case.blocks
    plain = case.unranked(blocked_plain.unrank, case.blocks, b)
    package = case.unranked(fast.unrank, case.blocks, b)
    yield "unrank blocked: all changes", case.name, plain, package, case.y

    def listed(most_bytes: int) -> Run:
        def run() -> Vectors:
            old, blocked_unrank.MOST_BYTES = blocked_unrank.MOST_BYTES, most_bytes
            blocked_unrank._most_listed.cache_clear()
            fast.unrank(case.blocks, b, case.room)
            blocked_unrank.MOST_BYTES = old
            blocked_unrank._most_listed.cache_clear()
            return case.room

        return run

    for size in (0, 18, 23):
        yield (
            f"1 MiB of listed blocks for {1 << size >> 10} KiB",
            case.name,
            listed(1 << size),
            (listed(1 << 20)),
            case.y,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coordinates", type=int, default=1 << 20, metavar="N")
    parser.add_argument("--repetitions", type=int, default=9, metavar="N")
    options = parser.parse_args()
    small = [Case(n, k, options.coordinates) for n, k in ((16, 8), (16, 56))]
    large = [Case(n, k, options.coordinates) for n, k in ((16, 8), (16, 56), (32, 56), (128, 221))]
    found: dict[str, dict[str, str]] = {}
    for case, lines in (
        *((case, of_one_word) for case in small), *((case, of_any_words) for case in large)
    ):  # fmt: skip
        for change, name, before, after, right in lines(case):
            for run in (before, after):
                if not np.array_equal(run(), right):
                    raise SystemExit(f"wrong result: {change}, {name}")
            times = medians({"before": before, "after": after}, options.repetitions)
            ratio = times["before"] / times["after"]
            found.setdefault(change, {})[name] = f"{ratio:.2f}"
    names = ["(16,8)", "(16,56)", "(32,56)", "(128,221)"]
    print(f"Times faster, one thread. {report.made_with('numpy', 'numba')},")
    print(f"load average {os.getloadavg()[0]:.1f}; `{report.command(__file__)}`\n")
    rows = [[change, *(by.get(name, "") for name in names)] for change, by in found.items()]
    print(report.table(["change", *names], rows))


if __name__ == "__main__":
    main()
