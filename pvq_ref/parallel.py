"""Run kernels over row ranges on several threads.

Kernels release Python's lock, so plain threads scale, without any threading layer. A range never
depends on the number of threads, so neither do results.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pvq_ref.counting import checked_integer

Result = TypeVar("Result")


def thread_count(threads: int | None) -> int:
    """Return the number of threads to use; None means all that this process may use."""
    if threads is None:
        return (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
    return checked_integer("threads", threads, 1, 4096)


def map_ranges(
    work: Callable[[int, int], Result], total: int, step: int, threads: int | None
) -> Iterator[Result]:
    """Yield work(start, stop) for consecutive ranges of at most `step`, in their order.

    At most a few ranges per thread are under way at once, so that results don't pile up.
    """
    ranges = [(start, min(start + step, total)) for start in range(0, total, step)]
    workers = min(thread_count(threads), len(ranges))
    if workers <= 1:
        yield from (work(start, stop) for start, stop in ranges)
        return
    with ThreadPoolExecutor(workers) as pool:
        ahead = 2 * workers
        pending = [pool.submit(work, *one) for one in ranges[:ahead]]
        try:
            for position in range(len(ranges)):
                result = pending[position].result()
                pending[position] = None  # type: ignore[call-overload]
                if position + ahead < len(ranges):
                    pending.append(pool.submit(work, *ranges[position + ahead]))
                yield result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
