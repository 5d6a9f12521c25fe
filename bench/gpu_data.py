"""Tensors for bench/gpu.py: normal numbers, quantized in 2048 rows, which larger ones repeat.

Fields follow each other without gaps (spec section 8.4). Those of eight rows are whole bytes, so
the fields of a tensor that repeats 2048 rows are the bytes of these, repeated.
"""

from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from math import log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvq_ref import PVQTensor, cuda, dequantize, quantize
from pvq_ref.cuda import DeviceArray, DeviceTensor
from pvq_ref.decoding import decode_groups
from pvq_ref.groups import parts, rows_per_range
from pvq_ref.parallel import map_ranges
from pvq_ref.rates import allot

U = 2.0**-24


def file_rate(rows: int, cols: int, rate: float, n: int) -> float:
    """Return the largest file rate, in hundredths, whose coded rate isn't above `rate`."""
    for step in range(100, -1, -1):
        found = allot(rows, cols, rate + step / 100, n)
        if found is not None and rate - 1 / n < found.coded_rate <= rate:
            return rate + step / 100
    raise ValueError(f"a coded rate of {rate} bits must be possible for {rows} x {cols}")


def normal_tensor(rows: int, cols: int, rate: float, n: int, seed: int = 0) -> PVQTensor:
    """Quantize normal numbers at a coded rate."""
    w = np.random.default_rng((rows, cols, n, seed)).standard_normal((rows, cols), np.float32)
    return quantize(w, file_rate(rows, cols, rate, n), n)


def repeated(t: PVQTensor, times: int) -> PVQTensor:
    """Return a tensor with the rows of another one, a multiple of eight, several times."""
    grid = replace(t.grid, rows=times * t.grid.rows)
    coding = replace(t.coding, allotment=replace(t.allotment, grid=grid))
    return replace(
        t, shape=(grid.rows, grid.cols), coding=coding, index=np.tile(t.index, times),
        gain=np.tile(t.gain, times), row_norm=np.tile(t.row_norm, times),
    )  # fmt: skip


def without_rotation(t: PVQTensor) -> PVQTensor:
    """Return the tensor with the same fields whose weights are W' (spec section 6)."""
    return replace(t, coding=replace(t.coding, rotation=None))


def copied(value: Any) -> Any:
    """Return a copy of a tensor on the device, with memory of its own and no plans."""
    if isinstance(value, DeviceArray):
        return DeviceArray.of(value.copy_to_host())
    if isinstance(value, tuple):
        return tuple(copied(one) for one in value)
    if isinstance(value, dict):
        return {}
    if not is_dataclass(value) or isinstance(value, type):
        return value
    found = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
    made = {name: copied(one) for name, one in found.items()}
    return replace(value, **made) if any(made[name] is not found[name] for name in found) else value


def nothing_rotated(cols: int) -> DeviceTensor:
    """Return a small tensor on the device that has no rotation."""
    return cuda.upload(without_rotation(normal_tensor(8, cols, 3.25, 16)))


def unrotated(d: DeviceTensor, plain: DeviceTensor) -> DeviceTensor:
    """Return the tensor of `without_rotation` in the same memory, plain being any without one."""
    return replace(d, rotation=plain.rotation, is_rotated=False, plans={})


def integers(t: PVQTensor) -> NDArray[np.int32]:
    """Return the integers of all groups, (rows, cols), by the CPU."""
    out = np.empty((t.grid.rows, t.grid.cols), np.int32)

    def work(start: int, stop: int) -> None:
        at = 0
        for part in parts(t.allotment):
            y = decode_groups(t, part, start, stop)[0].reshape(stop - start, -1)
            out[start:stop, at : at + y.shape[1]] = y
            at += y.shape[1]

    for _ in map_ranges(work, t.grid.rows, rows_per_range(t.grid.cols), None):
        pass
    return out


@dataclass(frozen=True)
class Reference:
    """What a tensor's products are compared with: the CPU's weights, in binary64."""

    t: PVQTensor

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """W (rows, cols)."""
        return dequantize(self.t).reshape(self.t.grid.rows, -1)

    @cached_property
    def norms(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The l1 and l2 norms (rows, 1) of the rows of W'."""
        w = dequantize(without_rotation(self.t)).reshape(self.t.grid.rows, -1)
        return np.abs(w).sum(1, keepdims=True), np.linalg.norm(w, axis=1, keepdims=True)

    def bound(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the bound (rows, batch) in the docstring of `pvq_ref.cuda.matmul`."""
        turned, rotation = np.array(x.T, order="C"), self.t.rotation
        steps = 0.0
        if rotation is not None:
            rotation.forward(turned)
            steps = max(log2(block.order) + block.base.order for block in rotation.blocks)
        largest, size = np.abs(turned).max(axis=1), np.linalg.norm(x, axis=0)
        ones, norms = self.norms
        m, g = steps + 3, max(self.t.grid.groups, self.t.grid.cols / 16)
        bound = ones * (largest / 65278 + (m + 1) * U * size) + (g + 12) * U * norms * size
        if x.shape[1] > 16:
            bound = bound + 2.0**-10 * norms * size
        return 1.001 * bound  # the docstring's is of first order

    def worst(self, got: NDArray[Any], x: NDArray[Any]) -> float:
        """Return the greatest error over its bound of products (times · rows, batch).

        Infinity if a number isn't finite.
        """
        x = x.astype(np.float64).reshape(len(x), -1)
        ref, bound = self.weights @ x, self.bound(x)
        got = np.asarray(got, np.float64).reshape(-1, *ref.shape)
        part = np.abs(got - ref).max(axis=0) / np.maximum(bound, 1e-300)
        return float(part.max()) if np.isfinite(part).all() else float("inf")
