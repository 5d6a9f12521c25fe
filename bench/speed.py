#!/usr/bin/env python3
"""Measure ranking, unranking and searches, beside libopus where its 32 bits reach.

    python bench/speed.py [--only "n,k n,k …"] [--coordinates N] [--repetitions N] [--no-search]

Timed are public calls as users make them, with all checks and with memory for the results, on one
thread and on two. libopus runs on one thread, in a loop in C over the same rows, into memory that
is there already (tests/peers/libopus.py; it needs a C compiler and Debian's libopus-dev). Its
search is timed in plain C, and as x86 runs it, with SSE2.

x is normal numbers in binary32, each row of norm 1; the vectors that are ranked and unranked are
what the exact search finds for it. Every result is checked before anything is timed: unranking
against the vectors, ranking against the oracle on some rows and, in the order opus, against libopus
on all; searches by their l1 norms, and the exact one by not being below libopus's.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))  # for tests.peers

import report
from pvq_ref import count, oracle, rank, search, search_project, unrank, words
from pvq_ref.counting import ORDERS
from tests.peers.libopus import Libopus, MissingError, build
from timing import Contenders, against, medians

PAIRS = (
    (8, 7), (8, 36), (16, 5), (16, 8), (16, 12), (32, 4), (32, 7),  # in reach of libopus
    (16, 27), (16, 56), (32, 56), (64, 111), (128, 221),
)  # fmt: skip
COLUMNS = (
    *(f"rank {order}" for order in ORDERS), "encode_pulses",
    *(f"unrank {order}" for order in ORDERS), "decode_pulses",
    "search", "search_project", "op_pvq_search_c", "op_pvq_search_sse2",
)  # fmt: skip
SEARCHED = 8  # searches get every 8th row
SAMPLE = 50  # rows that the oracle ranks too
SEED = 20241016
TOLERANCE = 1e-12  # of cosines, far above the rounding of sums of 128 products

Floats = NDArray[np.float32]
Vectors = NDArray[np.int32]
Call = Callable[[int], object]  # takes the number of threads


def cosines(x: Floats, y: Vectors) -> NDArray[np.float64]:
    a, b = x.astype(np.float64), y.astype(np.float64)
    norms = np.sum(a * a, axis=1) * np.sum(b * b, axis=1)
    return np.asarray(np.sum(a * b, axis=1) / np.sqrt(norms))


def check(true: bool, what: str) -> None:
    if not true:
        raise SystemExit(f"wrong result: {what}")


class Pair:
    """One pyramid: inputs, checked results, and what is timed."""

    def __init__(self, n: int, k: int, coordinates: int, peer: Libopus | None) -> None:
        self.n, self.k = n, k
        x = np.random.default_rng([SEED, n, k]).standard_normal((coordinates // n, n))
        self.x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
        self.y = search(self.x, k)
        self.index = {order: rank(self.y, order) for order in ORDERS}
        self.searched = np.ascontiguousarray(self.x[::SEARCHED])
        self.peer = peer if count(n, k) <= 1 << 32 else None
        self.peer_index = self.index["opus"][:, 0].astype(np.uint32)
        self.room = np.zeros_like(self.y)  # for results of the peer
        self.rooms = np.zeros((2, len(self.y)), np.uint32)

    @property
    def name(self) -> str:
        return f"({self.n},{self.k})"

    def check_indices(self) -> None:
        step = max(1, len(self.y) // SAMPLE)
        for order, index in self.index.items():
            got = [words.to_integer(row) for row in index[::step]]
            ref = [oracle.rank(row, order) for row in self.y[::step].tolist()]
            check(got == ref, f"{order} ranks of {self.name}")
            for threads in (1, 2):
                back = unrank(index, self.n, self.k, order, threads=threads)
                check(np.array_equal(back, self.y), f"{order} unranks of {self.name}")
                again = rank(self.y, order, threads=threads)
                check(np.array_equal(again, index), f"{order} on threads of {self.name}")
        if self.peer:
            index, _ = self.peer.encode(self.y, self.k)
            check(np.array_equal(index, self.index["opus"][:, 0]), f"libopus ranks of {self.name}")
            back, _ = self.peer.decode(index, self.n, self.k)
            check(np.array_equal(back, self.y), f"libopus unranks of {self.name}")

    def check_searches(self) -> None:
        best = search(self.searched, self.k)
        check(np.array_equal(best, self.y[::SEARCHED]), f"search of {self.name} by parts")
        others = [search_project(self.searched, self.k)]
        if self.peer:
            sse2 = (False, True)[: 1 + self.peer.has_sse2]
            others += [self.peer.search(self.searched, self.k, sse2=each) for each in sse2]
        for y in (best, *others):
            norms = np.abs(y).sum(axis=1)
            check(bool(np.all(norms == self.k)), f"l1 norms of searches of {self.name}")
            better = cosines(self.searched, y) - cosines(self.searched, best)
            check(bool(np.all(better <= TOLERANCE)), f"search of {self.name} below another")

    def ours(self, searches: bool) -> dict[str, Call]:
        """Return our calls by the names of their columns."""
        calls: dict[str, Call] = {}
        for order, index in self.index.items():
            calls[f"rank {order}"] = lambda threads, order=order: rank(
                self.y, order, threads=threads
            )
            calls[f"unrank {order}"] = lambda threads, order=order, index=index: unrank(
                index, self.n, self.k, order, threads=threads
            )
        if searches:
            calls["search"] = lambda threads: search(self.searched, self.k, threads=threads)
            calls["search_project"] = lambda threads: search_project(
                self.searched, self.k, threads=threads
            )
        return calls

    def theirs(self, searches: bool) -> Contenders:
        """Return calls of libopus by the names of their columns."""
        peer, k = self.peer, self.k
        if peer is None:
            return {}
        index, total, room = *self.rooms, self.room
        calls: dict[str, Callable[[], object]] = {
            "encode_pulses": lambda: peer.encode(self.y, k, index, total),
            "decode_pulses": lambda: peer.decode(self.peer_index, self.n, k, room, total),
        }
        if searches:
            calls["op_pvq_search_c"] = lambda: peer.search(self.searched, k, room)
            if peer.has_sse2:
                calls["op_pvq_search_sse2"] = lambda: peer.search(self.searched, k, room, sse2=True)
        return calls

    def rate(self, column: str, seconds: float) -> float:
        """Return million coordinates per second."""
        size = self.searched.size if "search" in column else self.y.size
        return size / seconds / 1e6

    def measure(self, repetitions: int, searches: bool) -> tuple[dict[str, float], ...]:
        """Return the rates on one thread and on two."""
        ours = self.ours(searches)
        single = {name: lambda call=call: call(1) for name, call in ours.items()}
        double = {name: lambda call=call: call(2) for name, call in ours.items()}
        one = medians({**single, **self.theirs(searches)}, repetitions)
        two = medians(double, repetitions, time.perf_counter)
        return tuple({c: self.rate(c, s) for c, s in part.items()} for part in (one, two))


Rates = dict[str, tuple[dict[str, float], ...]]  # by pair: on one thread, on two


def show(results: Rates) -> str:
    """Return the table: a row for each pair, cells with one number or two."""
    known = {column for one, _ in results.values() for column in one}
    columns = [column for column in COLUMNS if column in known]
    rows = []
    for pair, (one, two) in results.items():
        cells = [f"{one[c]:.0f}" if c in one else "" for c in columns]
        more = [f" / {two[c]:.0f}" if c in two else "" for c in columns]
        rows.append([pair, *(cell + part for cell, part in zip(cells, more, strict=True))])
    return report.table(["(n,k)", *columns], rows)


def ratios(results: Rates) -> str:
    """Return how we stand beside libopus, by geometric mean over the pairs in its reach."""
    rows = []
    for name, other in (
        *((f"rank {order}", "encode_pulses") for order in ORDERS),
        *((f"unrank {order}", "decode_pulses") for order in ORDERS),
        *((name, "op_pvq_search_c") for name in ("search", "search_project")),
        *((name, "op_pvq_search_sse2") for name in ("search", "search_project")),
    ):
        both = [one for one, _ in results.values() if name in one and other in one]
        if both:
            text = against([one[name] for one in both], [one[other] for one in both])
            rows.append([f"{name} / {other}", text])
    return report.table(["one thread", "ratio"], rows) if rows else ""


def per_word(pairs: list[Pair], repetitions: int) -> str:
    """Return how indices of several words stand beside those of one, timed in turns."""
    chosen = [pair for pair in pairs if pair.name in ("(16,27)", "(32,56)", "(128,221)")]
    if len(chosen) < 3:
        return ""
    rows = []
    for column in chosen[0].ours(searches=False):
        calls = {pair.name: pair.ours(searches=False)[column] for pair in chosen}
        single = {name: lambda call=call: call(1) for name, call in calls.items()}
        times = medians(single, repetitions)
        base, *wider = (pair.rate(column, times[pair.name]) for pair in chosen)
        rows.append([column, *(f"{rate / base:.2f}" for rate in wider)])
    names = [pair.name for pair in chosen[1:]]
    return report.table([f"one thread, beside {chosen[0].name}", *names], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="PAIRS", help='pairs such as "8,7 32,56"')
    parser.add_argument("--coordinates", type=int, default=1 << 20, metavar="N")
    parser.add_argument("--repetitions", type=int, default=9, metavar="N")
    parser.add_argument("--no-search", action="store_true", help="leave the searches out")
    options = parser.parse_args()
    pairs = PAIRS
    if options.only:
        pairs = tuple((int(n), int(k)) for n, k in (p.split(",") for p in options.only.split()))
    with tempfile.TemporaryDirectory() as folder:
        peer = None
        try:
            peer = build(folder)
        except MissingError as missing:
            print(f"without libopus: {missing}", file=sys.stderr)
        results: Rates = {}
        measured = []
        for n, k in pairs:
            pair = Pair(n, k, options.coordinates, peer)
            pair.check_indices()
            if not options.no_search:
                pair.check_searches()
            results[pair.name] = pair.measure(options.repetitions, not options.no_search)
            measured.append(pair)
            print(f"{pair.name} done", file=sys.stderr)
        beside = per_word(measured, options.repetitions)
    print(
        f"Million coordinates per second, one thread / two. {report.made_with('numpy', 'numba')},"
    )
    print(f"load average {os.getloadavg()[0]:.1f}; `{report.command(__file__)}`")
    for text in (show(results), ratios(results), beside):
        if text:
            print(f"\n{text}")


if __name__ == "__main__":
    main()
