#!/usr/bin/env python3
"""Measure how fast the blocked order decodes, beside a binary tree of halves, on a CPU and a GPU.

    python bench/orders.py [--markdown FILE] [--coordinates N] [--repetitions N] [--no-gpu]

Spec section 3.3 takes four coordinates at a time, from left to right. The tree splits them in
halves, and these again, down to four; orders_tables.py has both formulas. A split is the same text
for both orders and both machines (orders_splitting.py). The decoders are in orders_cpu.py, for one
thread, and in orders_decoding.py, for a GPU. Indices become integers of int8.

The groups are what the exact search finds for normal numbers, and some extreme vectors. Before a
kernel is timed it decodes all of them, and what it gives is compared with the vectors. Their
blocked indices are those of `pvq_ref.rank`, checked against the oracle on some; the tree's are
computed with Python's integers, by a function that is checked on whole small pyramids.

Without a GPU, or with --no-gpu, the page says that this part wasn't measured. The simulator
(NUMBA_ENABLE_CUDASIM=1) runs the kernels too, on few coordinates; its times mean nothing.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import orders_cpu
import report
from orders_page import NOT_MEASURED, OWN, PUBLIC, Gpu, gpu_part, page, processor_table
from orders_tables import ORDERS, Plan, plan, tree_ranks
from pvq_ref import count, oracle, rank, search, unrank, words
from timing import medians

PAIRS = ((16, 27), (32, 56))
SMALL = ((8, 4), (16, 3), (32, 2))  # pyramids that are checked in full
SEED = 20241016
POOL = 1 << 16  # different groups
SAMPLE = 200  # groups that the oracle ranks too


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def check(condition: bool, what: str) -> None:
    if not condition:
        raise SystemExit(f"wrong: {what}")


def check_tree() -> None:
    """Check on small pyramids that the tree's ranks are a bijection, sorted by the first half."""
    for n, k in SMALL:
        size = count(n, k)
        y = unrank(np.arange(size, dtype=np.uint64)[:, None], n, k, "fischer")
        ranks = tree_ranks(y)
        check(sorted(ranks) == list(range(size)), f"tree ranks of ({n},{k})")
        first = np.abs(y[np.argsort(ranks), : n // 2]).sum(axis=1)
        check(bool(np.all(np.diff(first) >= 0)), f"the tree's order of ({n},{k})")


def extremes(n: int, k: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Return vectors with all pulses at one or two places, and some from anywhere."""
    single = k * np.concatenate([np.eye(n, dtype=np.int32), -np.eye(n, dtype=np.int32)])
    pairs = np.zeros((2 * (k + 1), n), np.int32)
    a = np.arange(k + 1)
    pairs[: k + 1, 0], pairs[: k + 1, -1] = a, a - k
    pairs[k + 1 :, n // 2 - 1], pairs[k + 1 :, n // 2] = -a, k - a
    anywhere = [int.from_bytes(rng.bytes(32), "little") % count(n, k) for _ in range(2000)]
    anywhere += [0, count(n, k) - 1]
    index = words.from_integers(anywhere, -(-count(n, k).bit_length() // 64))
    return np.concatenate([single, pairs, unrank(index, n, k, "blocked")])


class Groups:
    """Vectors, and their indices in both orders: (groups, 2) words of 64 bits."""

    def __init__(self, n: int, k: int, size: int) -> None:
        rng = np.random.default_rng(SEED)
        self.n, self.k = n, k
        x = rng.standard_normal((min(POOL, size), n)).astype(np.float32)
        self.extreme = extremes(n, k, rng)
        self.y = np.concatenate([search(x, k), self.extreme])
        self.blocked = rank(self.y, "blocked")
        step = max(1, len(self.y) // SAMPLE)
        got = [words.to_integer(row) for row in self.blocked[::step]]
        ref = [oracle.rank(row, "blocked") for row in self.y[::step].tolist()]
        check(got == ref, f"blocked ranks of {self.name}")
        wide = np.zeros((len(self.y), 2), np.uint64)
        wide[:, : self.blocked.shape[1]] = self.blocked
        self.index = {"blocked": wide, "tree": words.from_integers(tree_ranks(self.y), 2)}
        self.plans: dict[str, Plan] = {order: plan(n, k, order) for order in ORDERS}

    @property
    def name(self) -> str:
        return f"({self.n},{self.k})"

    def spread(self, groups: int) -> tuple[dict[str, NDArray[np.uint32]], NDArray[np.int8]]:
        """Return indices in planes, and vectors, drawn from these; all extremes come last."""
        normal, extreme = len(self.y) - len(self.extreme), len(self.extreme)
        chosen = np.random.default_rng(SEED).integers(0, normal, groups)
        last = min(groups, extreme)
        chosen[groups - last :] = np.arange(len(self.y) - last, len(self.y))
        planes = {}
        for order, index in self.index.items():
            parts = index.view("<u4").T[: self.plans[order].words]
            planes[order] = np.stack([part[chosen] for part in parts])
        return planes, self.y.astype(np.int8)[chosen]


# ---------------------------------------------------------------- measurements


def on_processor(groups: Groups, repetitions: int) -> dict[str, float]:
    """Return coordinates per second of one thread, by what decodes."""
    y = groups.y.astype(np.int8)
    calls = {}
    for order in ORDERS:
        loop = orders_cpu.loop(groups.plans[order])
        out = np.zeros((len(y), groups.n // 4), np.uint32)
        loop(groups.index[order], out)
        check(np.array_equal(out.view(np.int8), y), f"{order} on the processor, {groups.name}")
        name = OWN if order == "blocked" else "tree"
        calls[name] = lambda loop=loop, order=order, out=out: loop(groups.index[order], out)
    back = unrank(groups.blocked, groups.n, groups.k, "blocked", threads=1)
    check(np.array_equal(back, groups.y), f"unrank of {groups.name}")
    calls[PUBLIC] = lambda: unrank(groups.blocked, groups.n, groups.k, "blocked", threads=1)
    return {name: y.size / seconds for name, seconds in medians(calls, repetitions).items()}


def on_gpu(groups: Groups, coordinates: int, repetitions: int) -> Gpu:
    import orders_gpu

    many = coordinates // groups.n
    planes, y = groups.spread(many)
    x = np.random.default_rng(SEED).integers(-127, 128, groups.n).astype(np.int8)
    best, trials = orders_gpu.measure(
        groups.plans, planes, y, x, repetitions, lambda text: note(f"{groups.name} {text}")
    )
    buffers = {order: found.buffer.size for order, found in groups.plans.items()}
    return Gpu(groups.n, groups.k, many, 4 * len(planes["tree"]), buffers, best, trials)


def with_gpu(pool: list[Groups], coordinates: int, repetitions: int) -> str:
    """Return the page's part on a GPU, or that there is none."""
    try:
        import orders_gpu
    except ImportError as error:
        return NOT_MEASURED.format(error)
    if not orders_gpu.is_available():
        return NOT_MEASURED.format("there is none on this machine")
    found = [on_gpu(groups, coordinates, repetitions) for groups in pool]
    return gpu_part(found, orders_gpu.name())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a page")
    parser.add_argument("--coordinates", type=int, default=1 << 28, metavar="N", help="on a GPU")
    parser.add_argument("--repetitions", type=int, default=31, metavar="N")
    parser.add_argument("--groups", type=int, default=POOL, metavar="N", help="different ones")
    parser.add_argument("--no-gpu", action="store_true", help="leave the GPU out")
    options = parser.parse_args()
    check_tree()
    pool = [Groups(n, k, options.groups) for n, k in PAIRS]
    rates = {groups.name: on_processor(groups, options.repetitions) for groups in pool}
    note(processor_table(rates))
    gpu = NOT_MEASURED.format("it wasn't asked for")
    if not options.no_gpu:
        gpu = with_gpu(pool, options.coordinates, options.repetitions)
    text = page(rates, gpu)
    print(text)
    if options.markdown:
        report.write_page(options.markdown, text)


if __name__ == "__main__":
    main()
