"""Timing contenders against each other: in turns, and by medians.

On a machine that other programs share, a time says little and a ratio of times more, if what is
compared ran in turns. One thread is timed by the time that it ran itself (CPU time), several by the
clock on the wall.
"""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import geometric_mean, median

ROOT = Path(__file__).resolve().parent.parent
Contenders = Mapping[str, Callable[[], object]]


def medians(
    contenders: Contenders, repetitions: int, clock: Callable[[], float] = time.thread_time
) -> dict[str, float]:
    """Return the median time of each contender in seconds; each runs once before it is timed."""
    for run in contenders.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repetitions):
        for name, run in contenders.items():
            begin = clock()
            run()
            times[name].append(clock() - begin)
    return {name: median(values) for name, values in times.items()}


def process_environment(cache: str = "") -> dict[str, str]:
    """Return the environment of a process to be timed, with a cache of kernels of its own, if any.

    Modules are kept as bytecode, as installing them does, whatever the caller's environment says.
    """
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    own = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": ""}
    return os.environ | own | ({"NUMBA_CACHE_DIR": cache} if cache else {})


def against(rates: list[float], others: list[float]) -> str:
    """Return the geometric mean and the least of ratios, as text."""
    ratios = [rate / other for rate, other in zip(rates, others, strict=True)]
    return f"{geometric_mean(ratios):.2f} (least {min(ratios):.2f})"
