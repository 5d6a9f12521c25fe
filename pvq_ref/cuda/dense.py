"""Products of many columns: tiles of rows in half precision, multiplied by cuBLAS.

The library is found as Numba finds it, and called without any framework. Where there is none,
`matmul` takes 16 columns at a time.
"""

import ctypes
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np

from pvq_ref.cuda.device import DeviceArray, Kernel, View, processors
from pvq_ref.cuda.expanding import expand_rows
from pvq_ref.cuda.finish_kernels import narrow, place_rows
from pvq_ref.cuda.intrinsics import SIMULATED
from pvq_ref.cuda.tensor import DeviceTensor
from pvq_ref.errors import DeviceError

TILE = 1 << 25  # weights that are in half precision at once
_R_16F, _R_32F, _COMPUTE_32F, _TRANSPOSE, _PLAIN = 2, 0, 68, 1, 0
_LOCK = Lock()


@lru_cache(1)
def library() -> tuple[Any, Any] | None:
    """Return cuBLAS and a handle, or None where it can't be had."""
    if SIMULATED:
        return None
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        loaded = ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    except Exception:  # the finder has many kinds of errors, and all mean this
        return None
    handle = ctypes.c_void_p()
    if loaded.cublasCreate_v2(ctypes.byref(handle)):
        return None
    return loaded, handle


def gemm(
    found: tuple[Any, Any], weights: int, x: int, out: int, rows: int, cols: int, batch: int,
    stream: int,
) -> None:  # fmt: skip
    """Write weights (rows, cols) half times x (batch, cols) half to out (batch, rows) float."""
    loaded, handle = found
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    pointer = ctypes.c_void_p
    with _LOCK:  # a handle has one stream at a time
        code = loaded.cublasSetStream_v2(handle, pointer(stream)) or loaded.cublasGemmEx(
            handle, _TRANSPOSE, _PLAIN, rows, batch, cols, ctypes.byref(one),
            pointer(weights), _R_16F, cols, pointer(x), _R_16F, cols, ctypes.byref(zero),
            pointer(out), _R_32F, rows, _COMPUTE_32F, -1,
        )  # fmt: skip
    if code:
        raise DeviceError(f"cuBLAS must succeed, got its status {code}")


@lru_cache(8)
def _narrow_kernel() -> Kernel:
    return Kernel(narrow, ("float32", "float32", "float16", "u", "u"), 256)


@lru_cache(8)
def _place_kernel(target: str) -> Kernel:
    return Kernel(place_rows, ("float32", "float32", "float32", target, *5 * "u"), 256)


def multiply(
    found: tuple[Any, Any], t: DeviceTensor, x: View, x_steps: tuple[int, int], batch: int,
    out: Any, steps: tuple[int, int], target: str, stream: int,
) -> None:  # fmt: skip
    """Write W x to out. R x is divided by its largest magnitude, so that it is in range."""
    from pvq_ref.cuda.products import padded, rotation_kernel

    words = padded(t.cols)
    rotated = DeviceArray((batch, t.cols), np.float32, stream)
    largest = DeviceArray(batch, np.float32, stream)
    scratch = DeviceArray(batch * words, np.float32, stream)
    halved = DeviceArray((batch, t.cols), np.float16, stream)
    r = t.rotation
    rotation_kernel(True, words, (x.dtype.name, "float32"), r.single).bind(
        (x, x_steps[1], x_steps[0], r.signs, r.segments, r.factors, r.bases, scratch, rotated,
         t.cols, largest, r.count, words),
        batch,
    )(stream)  # fmt: skip
    grid = 8 * processors()
    _narrow_kernel().bind((rotated, largest, halved, batch, t.cols), grid)(stream)
    most = min(t.rows, max(256, TILE // t.cols // 32 * 32))
    weights = DeviceArray((most, t.cols), np.float16, stream)
    products = DeviceArray((batch, most), np.float32, stream)
    for first in range(0, t.rows, most):
        rows = min(most, t.rows - first)
        expand_rows(t, weights, first, rows, unit_norms=True, stream=stream)
        gemm(
            found, weights.pointer, halved.pointer, products.pointer, rows, t.cols, batch, stream
        )
        _place_kernel(target).bind(
            (products, t.norms, largest, out, *steps, first, rows, batch), grid
        )(stream)
