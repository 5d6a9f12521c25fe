"""What bench/gpu.py does: rounds of a shape and a rate, checked and then timed."""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from gpu_checks import (
    Wrong,
    activations,
    check_block,
    check_product,
    check_unrank,
    unrank_tensors,
    uploaded,
)
from gpu_data import Reference, copied, normal_tensor, nothing_rotated, repeated, unrotated
from gpu_device import copies
from gpu_work import RESERVE, Kind, Record, Round, Work
from pvq_ref import cuda


class Bench:
    """A run."""

    def __init__(self, device: Any, record: Record, todo: Work, deadline: float) -> None:
        self.device, self.record, self.todo, self.deadline = device, record, todo, deadline
        self.begin = time.perf_counter()
        self.bases: dict[tuple[int, float, int], Any] = {}

    def say(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.begin:6.1f}] {text}", file=sys.stderr, flush=True)

    def is_late(self) -> bool:
        return time.perf_counter() - self.begin > self.deadline - RESERVE

    def attempt(self, what: str, run: Callable[[], Any]) -> Any:
        """Run; an exception is printed and noted as a failure, and the result is None."""
        try:
            return run()
        except Exception as error:
            text = f"{what}: {type(error).__name__}: {error}"[:400]
            self.record.failures.append(text)
            self.say(f"FAILED {text}")
            return None

    def check(self, name: str, run: Callable[[], str]) -> bool:
        """Run a check and keep what it saw."""
        seen = self.attempt(name, run)
        result = "FAILED" if seen is None else seen
        self.record.checks.append({"name": name, "result": result})
        self.say(f"{name}: {result}")
        return seen is not None

    # ------------------------------------------------------------ a round

    def base(self, cols: int, rate: float, n: int) -> Any:
        """Return the CPU's reference of a tensor of few rows."""
        key = (cols, rate, n)
        if key not in self.bases:
            self.bases[key] = Reference(normal_tensor(self.todo.base, cols, rate, n))
        return self.bases[key]

    def prepare(self, one: Round) -> dict[Kind, Any]:
        """Return (reference, tensor on the device), or what went wrong, for each kind."""
        made: dict[Kind, Any] = {}
        for kind in one.kinds:
            try:
                base = self.base(one.cols, one.rate, kind.n)
                big = repeated(base.t, one.rows // self.todo.base)
                made[kind] = base, uploaded(big, kind.form)
            except Exception as error:
                made[kind] = error
        return made

    def right(self, one: Round, made: dict[Kind, Any]) -> dict[Kind, Any]:
        """Return the tensors of a round that all checks found right."""
        found = {}
        for kind, pair in made.items():
            name = f"{one.name}, {kind.name}"
            if isinstance(pair, Exception):
                self.attempt(f"{name}, upload", partial(_throw, pair))
                continue
            good = [
                self.check(
                    f"{name}, batch {batch}", partial(check_product, self.device, *pair, batch)
                )
                for batch in one.batches
                if not self.is_late()
            ]
            if all(good):
                found[kind] = pair
        return found

    def time_round(self, one: Round, found: dict[Kind, Any]) -> None:
        """Time all batches of a round."""
        tensors, plain = {}, nothing_rotated(one.cols)
        for kind, (_, d) in found.items():
            all_ = [d, *(copied(d) for _ in range(copies(d.nbytes) - 1))]
            tensors[kind] = all_, [unrotated(one_, plain) for one_ in all_]
        for batch in one.batches:
            if self.is_late():
                self.record.left_out.append(f"{one.name}, batch {batch}")
                continue
            what = f"{one.name}, batch {batch}"
            rivals = self.attempt(f"{what}, rivals", partial(self.rivals, one, batch))
            for kind in one.kinds:
                row = None
                if kind in found:
                    case = partial(self.time_case, one, batch, *found[kind], *tensors[kind], rivals)
                    row = self.attempt(f"{what}, {kind.name}", case)
                identity = {"rows": one.rows, "cols": one.cols, "rate": one.rate} | asdict(kind)
                failed = {"failure": "failed; see below"} if row is None else row
                self.record.rows.append(identity | {"batch": batch} | failed)

    def rivals(self, one: Round, batch: int) -> dict[str, Any]:
        """Return contenders; a kernel that isn't there is noted."""
        made = self.device.half(one.rows, one.cols, batch)
        try:
            made |= self.device.four_bits(one.rows, one.cols, batch)
        except Exception as error:
            note = f"four-bit integers left out: {type(error).__name__}: {error}"[:200]
            if note not in self.record.notes:
                self.record.notes.append(note)
        return made | self.device.copy()

    def time_case(
        self, one: Round, batch: int, reference: Any, d: Any, rotated: list[Any], plain: list[Any],
        rivals: dict[str, Any] | None,
    ) -> dict[str, Any]:  # fmt: skip
        """Return the times of one tensor and batch, in turn with its rivals'."""
        x = self.device.put(activations(d.cols, batch))
        out, other = (self.device.empty(d.rows, batch) for _ in range(2))

        def calls(tensors: list[Any], out: Any) -> list[Callable[[], object]]:
            number = self.device.number
            return [partial(cuda.matmul, t, x, out=out, stream=number) for t in tensors]

        own = {"pvq": calls(rotated, out), "pvq, no rotation": calls(plain, other)}
        is_slow = d.fast is None
        rivals = rivals or {}
        if is_slow:
            timed = self.device.measure(own, few=True) | self.device.measure(rivals)
        else:
            timed = self.device.measure(own | rivals)
        self.device.wait()
        if self.device.host(out).tobytes() != self.device.host(cuda.matmul(d, x)).tobytes():
            raise Wrong("what was timed gives other bits")
        t = reference.t
        row = {
            "k": t.allotment.k, "gain_bits": t.allotment.gain_bits, "coded": t.rates.coded,
            "file": 8 * _file_bytes(t, d.rows) / (d.rows * d.cols), "device": d.bits_per_weight,
            "nbytes": d.nbytes, "path": "general" if is_slow else d.fast.layout.name,
            "copies": len(rotated),
            "us": {name: 1e6 * one_.seconds for name, one_ in timed.items()},
            "methods": {name: one_.method for name, one_ in timed.items()},
        }  # fmt: skip
        us = row["us"]
        self.say(f"{one.name} n={t.grid.n} {row['path']} batch {batch}: " + ", ".join(
            f"{name} {value:.1f}" for name, value in us.items()))  # fmt: skip
        return row

    # ------------------------------------------------------------ Python calls

    def python_calls(self) -> None:
        """Time whole calls by the clock on the wall, one after the other without waiting."""
        for side in self.todo.squares:
            self.attempt(f"calls, {side}x{side}", partial(self._python_calls, side))

    def _python_calls(self, side: int) -> None:
        d = uploaded(normal_tensor(side, side, 3.25, 16))
        x, out = self.device.put(activations(side, 1)[:, 0]), self.device.empty(side)
        contenders = {
            "matmul(t, x, out)": partial(cuda.matmul, d, x, out),
            "matmul(t, x)": partial(cuda.matmul, d, x),
            "half, W x": next(iter(self.device.half(side, side, 1).values()))[0],
        }
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for call in contenders.values():
            call()
        for _ in range(5):
            for name, call in contenders.items():
                self.device.wait()
                begin = time.perf_counter()
                for _ in range(self.todo.calls):
                    call()
                returned = time.perf_counter()
                self.device.wait()
                done = time.perf_counter()
                seen[name].append((returned - begin, done - begin))
        for name, pairs in seen.items():
            returned, done = (1e6 * median(p) / self.todo.calls for p in zip(*pairs, strict=True))
            self.record.calls.append(
                {"side": side, "call": name, "returned_us": returned, "done_us": done}
            )
            self.say(f"{side}x{side} {name}: returns after {returned:.1f} us, {done:.1f} us a call")


def _throw(error: Exception) -> None:
    raise error


def _file_bytes(t: Any, rows: int) -> float:
    """Return the bytes in a file of so many rows like those of t."""
    levels = 4 << t.allotment.gain_bits
    return (t.nbytes - levels) * rows / t.grid.rows + levels


def run(device: Any, record: Record, todo: Work, model: Path | None, budget: float) -> None:
    """Check and time."""
    bench = Bench(device, record, todo, budget)
    bench.say(", ".join(f"{key} {value}" for key, value in record.machine.items()))
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(bench.prepare, todo.rounds[0])
        for t in bench.attempt("tensors for unrank", partial(unrank_tensors, *todo.unrank)) or []:
            bench.check(f"unrank, n = {t.grid.n}", partial(check_unrank, device, t))
        of = "SmolLM2's shapes" if model is None else model.resolve().name
        bench.check(f"a block of {of}", partial(check_block, device, model, todo.shrink))
        for i, one in enumerate(todo.rounds):
            made = coming.result()
            if bench.is_late():
                record.left_out += [late.name for late in todo.rounds[i:]]
                break
            if i + 1 < len(todo.rounds):
                coming = pool.submit(bench.prepare, todo.rounds[i + 1])
            found = bench.right(one, made)
            if i + 1 < len(todo.rounds):
                coming.exception()  # the processor has nothing else to do while kernels are timed
            bench.attempt(f"{one.name}, timing", partial(bench.time_round, one, found))
            del made, found
            device.close()
            if i == 0:
                bench.python_calls()
        pool.shutdown(wait=True, cancel_futures=True)
    record.notes += sorted(device.reasons)
    record.seconds = time.perf_counter() - bench.begin
