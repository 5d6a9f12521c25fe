"""Products of many columns: tiles of rows in half precision, multiplied by cuBLAS.

The library is found as Numba finds it, and called without any framework. Where there is none,
`matmul` takes 16 columns at a time.
"""

import ctypes
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np

from pvq_ref.cuda.device import DeviceArray, processors
from pvq_ref.cuda.expanding import expansions
from pvq_ref.cuda.finish_kernels import narrow, place_rows
from pvq_ref.cuda.intrinsics import SIMULATED
from pvq_ref.cuda.launching import Kernel
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
    return Kernel("narrow", narrow, ("float32", "float32", "float16", "u", "u"), 256)


@lru_cache(8)
def _place_kernel(target: str) -> Kernel:
    return Kernel(
        "place_rows", place_rows, ("float32", "float32", "float32", target, *5 * "u"), 256
    )


class DensePlan:
    """The launches of one product of many columns, with memory of their own.

    R x is divided by its largest magnitude and W' by its row norms, so that both are in range.
    """

    def __init__(self, t: DeviceTensor, batch: int, source: str, target: str, stream: int) -> None:
        from pvq_ref.cuda.products import padded, rotation_kernel, rotation_shared

        found = library()
        assert found is not None
        self._library, self._batch, self._cols = found, batch, t.cols
        words = padded(t.cols)
        largest = DeviceArray(batch, np.float32, stream)
        rotated = DeviceArray((batch, t.cols), np.float32, stream)
        scratch = DeviceArray(batch * words, np.float32, stream)
        self._x = DeviceArray((batch, t.cols), np.float16, stream)
        r = t.rotation
        self._rotate = rotation_kernel(True, words, (source, "float32"), r.single).bind(
            (0, 0, 0, r.signs, r.segments, r.factors, r.bases, scratch, rotated, t.cols, largest,
             r.count, words, 0, 0, 0, 1),
            batch, shared=rotation_shared(words),
        )  # fmt: skip
        grid = 8 * processors()
        self._narrow = _narrow_kernel().bind((rotated, largest, self._x, batch, t.cols), grid)
        most = min(t.rows, max(256, TILE // t.cols // 32 * 32))
        self._weights = DeviceArray((most, t.cols), np.float16, stream)
        self._products = DeviceArray((batch, most), np.float32, stream)
        self._tiles = []
        for first in range(0, t.rows, most):
            rows = min(most, t.rows - first)
            place = _place_kernel(target).bind(
                (self._products, t.norms, largest, 0, 0, 0, first, rows, batch), grid
            )
            expand = expansions(t, self._weights, first, rows, unit_norms=True)
            self._tiles.append((rows, expand, place))
        self._lock = Lock()

    def __call__(
        self, x: Any, x_steps: tuple[int, int], out: Any, out_steps: tuple[int, int], stream: int
    ) -> None:
        """Multiply; see `products.Plan`."""
        with self._lock:
            for place, value in enumerate((x, x_steps[1], x_steps[0])):
                self._rotate.set(place, value)
            self._rotate(stream)
            self._narrow(stream)
            for rows, expand, store in self._tiles:
                for launch in expand:
                    launch(stream)
                gemm(
                    self._library, self._weights.pointer, self._x.pointer, self._products.pointer,
                    rows, self._cols, self._batch, stream,
                )  # fmt: skip
                for place, value in zip((3, 4, 5), (out, *out_steps), strict=True):
                    store.set(place, value)
                store(stream)
