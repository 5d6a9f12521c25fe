#!/usr/bin/env python3
"""Measure how long kernels take to compile, in a new process with an empty cache.

    python bench/speed_cold.py

Calls follow each other, and each pays for the kernels that those before it didn't need. Times are
CPU times of that process. A second process then shows what is left when the cache is full.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import report
from timing import process_environment


def calls() -> list[tuple[str, Callable[[], object]]]:
    """Return what is called, in order."""
    import numpy as np

    from pvq_ref import (
        dequantize,
        matmul,
        quantize,
        quantize_with_feedback,
        rank,
        search,
        search_project,
        unrank,
    )

    def both_ways(n: int, k: int, order: str, block: int = 4) -> None:
        y = search(np.eye(2, n), k, threads=1)
        index = rank(y, order, block, threads=1)
        assert np.array_equal(unrank(index, n, k, order, block, threads=1), y)

    x = np.random.default_rng(0).standard_normal((64, 256))
    h = x.T @ x / len(x)
    kept = {}
    return [
        ("search", lambda: search(x, 8, threads=1)),
        ("search_project", lambda: search_project(x, 8, threads=1)),
        *(
            (f"rank, unrank {order}", lambda order=order: both_ways(32, 56, order))
            for order in ("fischer", "opus", "blocked")
        ),
        ("rank, unrank blocked, large blocks", lambda: both_ways(32, 56, "blocked", 16)),
        ("quantize", lambda: kept.setdefault("t", quantize(x, threads=1))),
        ("dequantize", lambda: dequantize(kept["t"], threads=1)),
        ("matmul", lambda: matmul(kept["t"], x[0], threads=1)),
        ("matmul, several vectors", lambda: matmul(kept["t"], x[:2].T, threads=1)),
        *(
            (
                f"feedback, {how}",
                lambda how=how: quantize_with_feedback(x, h, threads=1, search=how),
            )
            for how in ("plain", "weighted")
        ),
    ]


def measure() -> None:
    """Print the CPU time of each call, one per line."""
    for _, call in calls():
        begin = time.process_time()
        call()
        print(time.process_time() - begin)


def child(cache: str) -> list[float]:
    command = [sys.executable, __file__, "--measure"]
    done = subprocess.run(
        command, env=process_environment(cache), check=True, capture_output=True, text=True
    )
    return [float(line) for line in done.stdout.split()]


def main() -> None:
    if sys.argv[1:] == ["--measure"]:
        measure()
        return
    if sys.argv[1:]:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as cache:
        cold, warm = child(cache), child(cache)
    print(f"CPU seconds. {report.made_with('numpy', 'numba')}, load average")
    print(f"{os.getloadavg()[0]:.1f}; `{report.command(__file__)}`\n")
    names = [name for name, _ in calls()]
    rows = [
        [name, f"{a:.1f}", f"{b:.2f}"]
        for name, a, b in zip([*names, "all"], [*cold, sum(cold)], [*warm, sum(warm)], strict=True)
    ]
    print(report.table(["call", "empty cache", "full cache"], rows))


if __name__ == "__main__":
    main()
