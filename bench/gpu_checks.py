"""What must hold on a device before bench/gpu.py times it; each check returns what it saw."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from gpu_data import Reference, integers, normal_tensor
from pvq_ref import PVQTensor, cuda, load, matmul, quantize
from pvq_ref.cuda import DeviceTensor, SlowPathWarning

SMOLLM2 = {
    "q_proj": (576, 576), "k_proj": (192, 576), "v_proj": (192, 576), "o_proj": (576, 576),
    "gate_proj": (1536, 576), "up_proj": (1536, 576), "down_proj": (576, 1536),
}  # fmt: skip


class Wrong(Exception):
    """A result isn't what it must be."""


def uploaded(t: PVQTensor, form: str = "tree") -> DeviceTensor:
    """Upload a tensor; that a path is slow is no news here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPathWarning)
        return cuda.upload(t, form=form)


def activations(cols: int, batch: int) -> np.ndarray[Any, Any]:
    """Return normal numbers (cols, batch) in half precision."""
    return np.random.default_rng((cols, batch)).standard_normal((cols, batch)).astype(np.float16)


def check_unrank(device: Any, t: PVQTensor) -> str:
    """Check all integers of a tensor."""
    got = device.host(cuda.unrank(uploaded(t)))
    ref = integers(t)
    if not np.array_equal(got, ref):
        raise Wrong(f"{np.count_nonzero((got != ref).any(axis=1))} rows of integers differ")
    return f"{t.grid.rows * t.grid.groups:,} groups of {t.grid.n}, k = {t.allotment.k}"


def check_product(device: Any, reference: Reference, d: DeviceTensor, batch: int) -> str:
    """Check all rows of a product against the bound, and that a second run gives the same bits."""
    x = activations(d.cols, batch)
    given = device.put(x)
    first, second = (device.host(cuda.matmul(d, given)) for _ in range(2))
    if first.tobytes() != second.tobytes():
        raise Wrong("two runs give different bits")
    worst = reference.worst(first, x)
    if not worst <= 1:
        raise Wrong(f"an error is {worst:.3g} times its bound")
    return f"largest error {worst:.3f} of its bound"


def _block(model: Path | None, shrink: int) -> dict[str, PVQTensor]:
    """Return the linear layers of block 0 of a compressed model, or normal ones of their shapes."""
    if model is None:
        rng = np.random.default_rng(0)
        return {
            name: quantize(rng.standard_normal((rows // shrink, cols), np.float32), 3.25, 32)
            for name, (rows, cols) in SMOLLM2.items()
        }
    found = {
        name: t
        for name, t in load(model).items()
        if isinstance(t, PVQTensor) and ".layers.0." in f".{name}"
    }
    if not found:
        raise Wrong(f"{model} must have compressed tensors of layers.0, got none")
    return found


def check_block(device: Any, model: Path | None, shrink: int = 1) -> str:
    """Check each linear layer of a block against the CPU's product."""
    worst, layers = 0.0, _block(model, shrink)
    for name, t in layers.items():
        x = activations(t.grid.cols, 1)[:, 0]
        got = device.host(cuda.matmul(uploaded(t), device.put(x)))
        ref, wide = matmul(t, x), x.astype(np.float64)[:, None]
        part = np.abs(got - ref) / np.maximum(Reference(t).bound(wide)[:, 0], 1e-300)
        worst = max(worst, float(part.max()))
        if not part.max() <= 1:
            raise Wrong(f"{name}: an error is {part.max():.3g} times its bound")
    return f"{len(layers)} layers, largest error {worst:.3f} of its bound"


def unrank_tensors(rows: int, cols: int) -> list[PVQTensor]:
    """Return tensors, no row twice, with all their groups: of 16, and half as many rows of 32."""
    return [normal_tensor(rows, cols, 3.25, 16, 1), normal_tensor(rows // 2, cols, 3.25, 32, 1)]
