"""The device of bench/gpu.py: its memory, rivals and clocks, by PyTorch; or a simulator's stand-in.

A contender is a list of calls, each with memory of its own, so that none finds its data in the
cache. They are captured as a graph and the graph is replayed, so that launches take no time. Where
that fails, events stand around the calls, and it is checked that putting them into the queue took
less time than running them.
"""

import gc
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from math import ceil
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

import report

Calls = list[Callable[[], object]]
SPARE = 150e6  # bytes that the copies of a contender's data have together: three times the cache
REPEATS = 7
CALLS = 40  # in a graph, at least
LEAST = 3e-3  # seconds between two events, at least
GROUP = 128  # weights with one scale in the four-bit kernel
COPIED = 1 << 28  # bytes


@dataclass(frozen=True)
class Timed:
    """Seconds of a call, the median; and how it was measured: graph, events, queue, clock."""

    seconds: float
    method: str


def copies(size: int) -> int:
    """Return how many copies of so many bytes are more than the cache holds; not for toys."""
    return 2 if size < 1 << 20 else ceil(SPARE / size) if size < SPARE / 2 else 2


def _check(result: tuple[Any, ...]) -> Any:
    """Return what a call of the driver gives."""
    if int(result[0]):
        raise RuntimeError(f"the driver must succeed, got {result[0]!r}")
    return result[1] if len(result) > 1 else None


class TorchDevice:
    """A device that PyTorch uses too."""

    def __init__(self) -> None:
        import torch
        from cuda.bindings import driver

        self.torch, self.driver = torch, driver
        self.reasons: set[str] = set()  # for which calls weren't captured
        self.graphs: Calls = []  # what destroys them
        self.stream = torch.cuda.Stream()
        self.number = self.stream.cuda_stream

    def put(self, array: NDArray[Any]) -> Any:
        return self.torch.as_tensor(array, device="cuda")

    def empty(self, *shape: int) -> Any:
        return self.torch.zeros(shape, dtype=self.torch.float32, device="cuda")

    def host(self, array: Any) -> NDArray[Any]:
        return self.torch.as_tensor(array, device="cuda").cpu().numpy()

    def wait(self) -> None:
        self.torch.cuda.synchronize()

    def describe(self) -> dict[str, str]:
        question = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            found = subprocess.run(question, capture_output=True, text=True, timeout=20, check=True)
            driver = found.stdout.split("\n")[0].strip()
        except (OSError, subprocess.SubprocessError):
            driver = "unknown"
        known = {"device": self.torch.cuda.get_device_name(), "driver": driver}
        return known | {"torch": self.torch.__version__} | versions()

    # ------------------------------------------------------------ rivals

    def half(self, rows: int, cols: int, batch: int) -> dict[str, Calls]:
        """Multiply in half precision: W x with x (cols, batch), and x Wᵀ with x (batch, cols)."""
        torch = self.torch
        found: dict[str, Calls] = {"half, W x": [], "half, x Wᵀ": []}
        for _ in range(copies(2 * rows * cols)):
            w = torch.randn(rows, cols, dtype=torch.float16, device="cuda")
            x = torch.randn(cols, batch, dtype=torch.float16, device="cuda")
            turned = x.t().contiguous()
            out = torch.empty(rows, batch, dtype=torch.float16, device="cuda")
            across = torch.empty(batch, rows, dtype=torch.float16, device="cuda")
            found["half, W x"].append(lambda w=w, x=x, out=out: torch.matmul(w, x, out=out))
            found["half, x Wᵀ"].append(
                lambda w=w, x=turned, out=across: torch.matmul(x, w.t(), out=out)
            )
        return found

    def four_bits(self, rows: int, cols: int, batch: int) -> dict[str, Calls]:
        """Multiply bfloat16 by four-bit integers in groups of 128."""
        if not self.check_four_bits() < 0.02:
            raise RuntimeError("a product is wrong")
        torch, found = self.torch, []
        x = torch.randn(batch, cols, dtype=torch.bfloat16, device="cuda")
        for _ in range(copies(rows * cols // 2)):
            packed, scales, _ = self._four_bit_weights(rows, cols)
            found.append(
                lambda p=packed, s=scales: torch.ops.aten._weight_int4pack_mm(x, p, GROUP, s)
            )
        return {"four bits": found}

    def _four_bit_weights(self, rows: int, cols: int) -> tuple[Any, Any, Any]:
        torch = self.torch
        bytes_ = torch.randint(0, 256, (rows, cols // 2), dtype=torch.uint8, device="cuda")
        packed = torch.ops.aten._convert_weight_to_int4pack(bytes_, 8)
        scales = torch.rand(cols // GROUP, rows, 2, dtype=torch.bfloat16, device="cuda")
        return packed, scales, bytes_

    def check_four_bits(self) -> float:
        """Return the relative error of a product with four-bit integers."""
        torch, (rows, cols) = self.torch, (256, 1024)
        packed, scales, bytes_ = self._four_bit_weights(rows, cols)
        x = torch.randn(4, cols, dtype=torch.bfloat16, device="cuda")
        got = torch.ops.aten._weight_int4pack_mm(x, packed, GROUP, scales).double()
        q = torch.stack([bytes_ >> 4, bytes_ & 15], dim=2).reshape(rows, cols).double()
        scale, zero = (scales[:, :, i].t().double().repeat_interleave(GROUP, dim=1) for i in (0, 1))
        ref = x.double() @ ((q - 8) * scale + zero).t()
        return float((got - ref).norm() / ref.norm())

    def copy(self) -> dict[str, Calls]:
        """Copy within the device's memory, of COPIED bytes."""
        torch = self.torch
        source, target = (torch.zeros(COPIED, dtype=torch.uint8, device="cuda") for _ in range(2))
        return {"copy": [lambda: target.copy_(source)]}

    # ------------------------------------------------------------ clocks

    def _graph(self, calls: Calls) -> Callable[[], object]:
        """Capture calls; by the driver, so that a failure leaves PyTorch as it was."""
        driver = self.driver
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        gc.collect()
        gc.disable()  # memory that is freed now would become a part of the graph
        try:
            _check(driver.cuStreamBeginCapture(self.number, mode))
            try:
                with self.torch.cuda.stream(self.stream):
                    for call in calls:
                        call()
            finally:
                ended = driver.cuStreamEndCapture(self.number)
            graph = _check(ended)
            ready = _check(driver.cuGraphInstantiate(graph, 0))
            self.graphs += [partial(driver.cuGraphExecDestroy, ready)]
            self.graphs += [partial(driver.cuGraphDestroy, graph)]
        finally:
            gc.enable()
        return lambda: _check(driver.cuGraphLaunch(ready, self.number))

    def _ready(self, calls: Calls, few: bool) -> tuple[Callable[[], object], int, str]:
        """Return what runs calls, how many, and by which method."""
        many = calls if few else calls * ceil(CALLS / len(calls))
        with self.torch.cuda.stream(self.stream):
            for call in calls:
                call()
        self.wait()
        try:
            return self._graph(many), len(many), "graph"
        except Exception as error:  # whatever can't be captured
            self.wait()
            self.reasons.add(f"no graph: {type(error).__name__}: {error}"[:200])

        def run() -> None:
            for call in many:
                call()

        return run, len(many), "events"

    def _pass(self, run: Callable[[], object], times: int) -> tuple[float, float]:
        """Return the seconds of `times` runs by events, and those that queueing took."""
        start, stop = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        with self.torch.cuda.stream(self.stream):
            run()  # the device is at work when the first event is queued
            start.record()
            begin = time.perf_counter()
            for _ in range(times):
                run()
            queued = time.perf_counter() - begin
            stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1e3, queued

    def measure(self, contenders: dict[str, Calls], *, few: bool = False) -> dict[str, Timed]:
        """Time contenders in turn; few calls and repeats for those that take milliseconds."""
        self.wait()  # what contenders use was made on another stream
        ready = {name: self._ready(calls, few) for name, calls in contenders.items()}
        times = {
            name: max(1, ceil(LEAST / max(1e-6, self._pass(run, 1)[0])))
            for name, (run, _, _) in ready.items()
        }
        passed: dict[str, list[float]] = {name: [] for name in ready}
        waited = dict.fromkeys(ready, False)
        for _ in range(5 if few else REPEATS):
            for name, (run, calls, method) in ready.items():
                seconds, queued = self._pass(run, times[name])
                passed[name].append(seconds / times[name] / calls)
                waited[name] |= method == "events" and queued > seconds
        for destroy in self.graphs:
            destroy()
        self.graphs.clear()
        return {
            name: Timed(median(all_), "queue" if waited[name] else ready[name][2])
            for name, all_ in passed.items()
        }

    def close(self) -> None:
        """Give unused memory back."""
        gc.collect()
        self.wait()
        self.torch.cuda.empty_cache()


class SimulatedDevice:
    """NumPy in the device's place. Its times mean nothing."""

    number = 0
    reasons: frozenset[str] = frozenset()

    def put(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def empty(self, *shape: int) -> NDArray[Any]:
        return np.zeros(shape, np.float32)

    def host(self, array: Any) -> NDArray[Any]:
        return np.asarray(getattr(array, "host", array))

    def wait(self) -> None:
        pass

    def describe(self) -> dict[str, str]:
        return {"device": "Numba's simulator, whose times mean nothing", "driver": "-"} | versions()

    def half(self, rows: int, cols: int, batch: int) -> dict[str, Calls]:
        w, x = np.ones((rows, cols), np.float32), np.ones((cols, batch), np.float32)
        return {"half, W x": [lambda: w @ x], "half, x Wᵀ": [lambda: x.T @ w.T]}

    def four_bits(self, rows: int, cols: int, batch: int) -> dict[str, Calls]:
        raise RuntimeError("the simulator has no such kernel")

    def copy(self) -> dict[str, Calls]:
        source, target = np.zeros(COPIED, np.uint8), np.empty(COPIED, np.uint8)
        return {"copy": [lambda: np.copyto(target, source)]}

    def measure(self, contenders: dict[str, Calls], *, few: bool = False) -> dict[str, Timed]:
        found = {}
        for name, calls in contenders.items():
            begin = time.perf_counter()
            calls[0]()
            found[name] = Timed(time.perf_counter() - begin, "clock")
        return found

    def close(self) -> None:
        pass


def versions() -> dict[str, str]:
    """Return versions and the processor."""
    known = {"Python": platform.python_version(), "processor": report.processor()}
    for name in ("numpy", "numba", "numba-cuda"):
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            known[name] = "none"
    return known
