"""Timing the kernels of bench/orders.py on a GPU, by CUDA events."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orders_kernels import MODES, SIMULATED, cuda, kernel_of
from orders_tables import Plan

THREADS = (256, 512, 1024)  # of a block
FREE_SHARED = 48 << 10  # bytes a block, without asking for more
LAUNCHES = 8  # between two events
TRIALS = 5  # of each variant, to choose the best


@dataclass(frozen=True)
class Timed:
    """One kernel: how it was launched, and the median of its time."""

    mode: str
    order: str
    tables: str  # in shared or in global memory
    threads: int
    blocks: int
    shared: int  # bytes a block
    registers: int
    seconds: float
    waiting: float  # the greatest part of the time that the processor took for launching


def _allow_shared(kernel: Any, size: int) -> None:
    """Let a kernel have so many bytes of dynamic shared memory."""
    from numba.cuda.cudadrv import driver

    names = driver.binding.CUfunction_attribute
    attribute = names.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    handle = kernel._codelibrary.get_cufunc().handle
    driver.driver.cuKernelSetAttribute(attribute, size, handle, cuda.get_current_device().id)


def _blocks(threads: int, shared: int, registers: int) -> int:
    """Return how many blocks fit on the GPU at a time; each goes on to further groups by itself."""
    gpu = cuda.get_current_device()
    used = threads * -(-max(registers, 1) // 8) * 8  # registers come in eights
    fit = min(
        gpu.MAX_THREADS_PER_MULTIPROCESSOR // threads,
        gpu.MAX_SHARED_MEMORY_PER_MULTIPROCESSOR // (shared + 1024),  # 1 KiB is the system's
        gpu.MAX_REGISTERS_PER_MULTIPROCESSOR // used,
    )
    return int(gpu.MULTIPROCESSOR_COUNT * fit)


@dataclass(frozen=True)
class Variant:
    """A kernel that is ready to run."""

    timed: Timed
    launch: Callable[[], None]


def _variants(
    plan: Plan, mode: str, data: tuple[Any, ...], report: Callable[[str], None]
) -> Iterator[Variant]:
    """Compile a mode's kernels; data are those of an order, as `kernel_of` says."""
    for tables in ("shared", "global"):
        compiled = cuda.jit(kernel_of(plan, mode, tables == "shared"))
        size, registers, kernel = plan.buffer.size if tables == "shared" else 0, 0, None
        if not SIMULATED:
            compiled = compiled.specialize(*data)
            kernel = next(iter(compiled.overloads.values()))
            registers = compiled.get_regs_per_thread()
        for threads in THREADS[:1] if SIMULATED else THREADS:
            what = f"{mode} {plan.order} {tables} {threads}"
            try:
                blocks = 2
                if kernel:
                    if size > FREE_SHARED:
                        _allow_shared(kernel, size)
                    blocks = _blocks(threads, size, registers)
                if not blocks:
                    raise RuntimeError("a block doesn't fit")
                launch = compiled[blocks, threads if kernel else 8, 0, size]
                launch(*data)
                cuda.synchronize()
            except Exception as error:  # whatever a driver doesn't like; the others go on
                report(f"{what} left out: {error!r:.200}")
                continue
            timed = Timed(mode, plan.order, tables, threads, blocks, size, registers, 0.0, 0.0)
            yield Variant(timed, lambda launch=launch: launch(*data))


def _measure(variants: list[Variant], repetitions: int) -> list[Timed]:
    """Time variants in turn: by events around launches, with one more launch before them."""
    times: list[list[float]] = [[] for _ in variants]
    waiting = [0.0 for _ in variants]
    for _ in range(repetitions):
        for i, variant in enumerate(variants):
            start, stop = cuda.event(), cuda.event()
            variant.launch()  # the GPU is at work when the first event is queued
            begin = time.perf_counter()
            start.record()
            for _ in range(LAUNCHES):
                variant.launch()
            stop.record()
            queued = time.perf_counter() - begin
            stop.synchronize()
            passed = start.elapsed_time(stop) / 1000
            times[i].append(passed / LAUNCHES)
            waiting[i] = max(waiting[i], queued / passed)
    results = zip(variants, times, waiting, strict=True)
    return [replace(v.timed, seconds=median(t), waiting=w) for v, t, w in results]


def measure(
    plans: dict[str, Plan],
    indices: dict[str, NDArray[np.uint32]],
    y: NDArray[np.int8],
    x: NDArray[np.int8],
    repetitions: int,
    report: Callable[[str], None],
) -> tuple[list[Timed], list[Timed]]:
    """Measure both orders; return the best kernels, timed in turn, and all others' trials.

    indices are planes of words (words, groups); y (groups, n) is what they decode to, and x (n,)
    the activations. Raises SystemExit for a kernel that gives anything else.
    """
    best, trials = [], []
    tables = {
        order: [
            cuda.to_device(plan.buffer),
            cuda.to_device(plan.buffer.view(np.uint32)),
            cuda.to_device(plan.buffer.view(np.uint64)),
            cuda.to_device(plan.leaves),
            cuda.to_device(indices[order].reshape(-1)),
            cuda.to_device(x.view(np.uint32)),
        ]
        for order, plan in plans.items()
    }
    dots = np.einsum("gi,i->g", y, x, dtype=np.int32)
    results = {"store": y.reshape(-1).view(np.uint64), "fold": dots}
    for mode in MODES:
        ref, nothing = results[mode], np.full_like(results[mode], 99)
        out = cuda.to_device(nothing)
        chosen = []
        for order, plan in plans.items():
            right = []
            for variant in _variants(plan, mode, (*tables[order], out), report):
                out.copy_to_device(nothing)
                variant.launch()
                if not np.array_equal(out.copy_to_host(), ref):
                    raise SystemExit(f"{variant.timed} decodes something else")
                right.append(variant)
            if not right:
                raise SystemExit(f"no kernel for {mode}, {order} ran")
            tried = _measure(right, TRIALS)
            trials += tried
            seconds = [timed.seconds for timed in tried]
            chosen.append(right[seconds.index(min(seconds))])
        best += _measure(chosen, repetitions)
        report(f"{mode} done")
    return best, trials


def name() -> str:
    """Return the name of the GPU."""
    if SIMULATED:
        return "A simulator, whose times mean nothing"
    found = cuda.get_current_device().name
    return found.decode() if isinstance(found, bytes) else str(found)


def is_available() -> bool:
    """Whether there is a GPU, or the simulator of one."""
    return bool(cuda.is_available())
