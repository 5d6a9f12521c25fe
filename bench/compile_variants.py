#!/usr/bin/env python3
"""Measure what counting references costs when kernels are compiled.

    python bench/compile_variants.py

Compiles every kernel that allocates nothing twice each way, in turns, in one process whose cache is
empty at first; kernels that it calls are compiled already. Adds up the shorter CPU times.
"""

import os
import tempfile
import time

import report

RUNS = 2


def seconds(function: object, signature: object, references: bool) -> float:
    """Return the CPU seconds of one compilation."""
    import numba

    compiled = numba.njit(
        nogil=True, error_model="numpy", no_cfunc_wrapper=True, _nrt=references
    )(function)  # fmt: skip
    begin = time.process_time()
    compiled.compile(signature)
    return time.process_time() - begin


def main() -> None:
    with tempfile.TemporaryDirectory() as cache:
        os.environ["NUMBA_CACHE_DIR"] = cache
        from pvq_ref import jit
        from speed_cold import calls

        for _, call in calls():
            call()
        from pvq_ref.compiler import ALLOCATING

        totals, count = {True: 0.0, False: 0.0}, 0
        for kernel in [one for one in jit._KERNELS if one._made and not one._inline]:
            if not ALLOCATING.isdisjoint(kernel._function.__code__.co_names):
                continue
            for signature in list(kernel._made.overloads):
                count += 1
                times: dict[bool, list[float]] = {True: [], False: []}
                for run in range(RUNS):
                    for references in ((True, False), (False, True))[(count + run) % 2]:
                        times[references].append(seconds(kernel._function, signature, references))
                for references, values in times.items():
                    totals[references] += min(values)
    print(f"CPU seconds for {count} kernels. {report.made_with('numpy', 'numba')}\n")
    rows = [["counted", f"{totals[True]:.1f}"], ["not counted", f"{totals[False]:.1f}"]]
    print(report.table(["references", "seconds"], rows))


if __name__ == "__main__":
    main()
