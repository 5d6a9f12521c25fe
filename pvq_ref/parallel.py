"""Run kernels over row ranges on several threads.

Kernels release Python's lock, so plain threads scale, without any threading layer. A range never
depends on the number of threads, so neither do results.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

from pvq_ref.counting import checked_integer

Item = TypeVar("Item")
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


def map_over(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int | None
) -> Iterator[Result]:
    """Yield work(item) of all items, in their order.

    At most two items per thread are under way at once, and no more of `items` is asked for, so that
    neither they nor results pile up.
    """
    workers = thread_count(threads)
    if workers <= 1:
        yield from map(work, items)
        return
    coming = iter(items)
    first = list(islice(coming, 2 * workers))
    if len(first) <= 1:
        yield from map(work, first)
        return
    with ThreadPoolExecutor(min(workers, len(first))) as pool:
        pending = deque(pool.submit(work, item) for item in first)
        del first
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(work, item) for item in islice(coming, 1))
                yield result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def read_ahead(items: Iterable[Item], count: int) -> Iterator[Item]:
    """Yield items in their order, while a thread gets `count` >= 1 more of them ready."""
    coming, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        pending = deque(pool.submit(next, coming, end) for _ in range(count))
        try:
            while (item := pending.popleft().result()) is not end:
                pending.append(pool.submit(next, coming, end))
                yield item  # type: ignore[misc]  # next gives an item or `end`
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def map_ranges(
    work: Callable[[int, int], Result], total: int, step: int, threads: int | None
) -> Iterator[Result]:
    """Yield work(start, stop) for consecutive ranges of at most `step`, in their order."""
    ranges = ((start, min(start + step, total)) for start in range(0, total, step))
    return map_over(lambda one: work(*one), ranges, threads)


@lru_cache(1)
def _libraries() -> Any:
    """Return the libraries of linear algebra; to find them takes milliseconds."""
    import scipy.linalg  # noqa: F401  # so that its own is there, too
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def one_thread_each() -> AbstractContextManager[Any]:
    """Let each matrix product take one thread, so that results are the same on any number."""
    context: AbstractContextManager[Any] = _libraries().limit(limits=1)
    return context
