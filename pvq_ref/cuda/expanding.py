"""dequantize and unrank on the device."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from pvq_ref.cuda.coding import Image
from pvq_ref.cuda.device import (
    DeviceArray,
    processors,
    shared_words,
    stream_number,
    use,
)
from pvq_ref.cuda.expand_kernels import make_expand, make_expand_odd
from pvq_ref.cuda.general_kernels import make_general_expand
from pvq_ref.cuda.intrinsics import SIMULATED
from pvq_ref.cuda.launching import Kernel, Launch
from pvq_ref.cuda.layout import Layout
from pvq_ref.cuda.tensor import DeviceTensor
from pvq_ref.errors import DTypeError

TILE = 1 << 24  # weights between decoding and the inverse rotation
_F, _WORDS = "float32", "uint32"
_THREADS = 32 if SIMULATED else 512


@lru_cache(64)
def _expand_kernel(
    layout: Layout, places: tuple[int, ...], size: int, target: str, aligned: bool
) -> Kernel:
    image = Image(np.zeros(size, np.uint32), *places)
    arguments = (_WORDS, _WORDS, layout.bytes_type, _WORDS, _F, target, *5 * "u")
    name = f"expand {layout} {places} {size} {aligned}"
    return Kernel(name, make_expand(layout, image, target, aligned), arguments, _THREADS, size)


@lru_cache(16)
def _odd_kernel(n: int, target: str) -> Kernel:
    arguments = (_WORDS, _WORDS, _F, _F, target, *4 * "u")
    function = make_expand_odd(n, target == "int32")
    return Kernel(f"expand_odd {n}", function, arguments, 32 if SIMULATED else 128)


@lru_cache(64)
def _general_kernel(n: int, k: int, words: int, target: str) -> Kernel:
    arguments = (_WORDS, "uint8", _F, _WORDS, _F, target, *6 * "u")
    function = make_general_expand(n, k, words, target == "int32")
    name = f"general_expand {n} {k} {words}"
    return Kernel(name, function, arguments, 32 if SIMULATED else 128)


@lru_cache(16)
def _ones(rows: int) -> DeviceArray:
    return DeviceArray.of(np.ones(rows, np.float32))


def expansions(
    t: DeviceTensor, out: DeviceArray, first: int, rows: int, *, unit_norms: bool
) -> list[Launch]:
    """Return the launches that write rows of W', or their integers if out is int32, to out.

    first is a multiple of 32; unit_norms leaves norms out.
    """
    target = out.dtype.name
    norms = _ones(t.rows) if unit_norms else t.norms
    launches = []
    if t.fast:
        fast = t.fast
        image = fast.image
        places = (image.eight, image.sixteen, image.top, image.levels)
        lanes = -(-rows // fast.layout.rows) * 32 * fast.quads
        blocks = min(processors(), -(-lanes // _THREADS))
        launches.append(
            _expand_kernel(fast.layout, places, image.size, target, t.cols % 8 == 0).bind(
                (fast.planes, fast.halves, fast.bytes, fast.tables, norms, out, first, rows,
                 fast.runs, fast.plane_words, t.cols),
                blocks,
            )
        )  # fmt: skip
        begin, stop = int(fast.odd_starts[first]), int(fast.odd_starts[first + rows])
        if stop > begin:
            kernel = _odd_kernel(fast.layout.n, target)
            launches.append(
                kernel.bind(
                    (fast.odd, fast.odd_rows, fast.levels, norms, out, begin, stop, first, t.cols),
                    -(-(stop - begin) // (32 if SIMULATED else 128)),
                )
            )
    for part in t.general:
        blocks = max(1, min(16 * processors(), -(-rows * part.groups // 128)))
        launches.append(
            _general_kernel(part.n, part.k, part.words, target).bind(
                (part.planes, part.fields, part.levels, part.counts, norms, out, first, rows,
                 t.rows, part.groups, part.first_column, t.cols),
                blocks,
            )
        )  # fmt: skip
    return launches


def expand_rows(
    t: DeviceTensor, out: DeviceArray, first: int, rows: int, *, unit_norms: bool, stream: int
) -> None:
    """Start the launches of `expansions`."""
    for launch in expansions(t, out, first, rows, unit_norms=unit_norms):
        launch(stream)


def unrank(t: DeviceTensor, *, stream: Any = None) -> DeviceArray:
    """Return the integers y of all groups, (rows, cols) int32, as `pvq_ref.unrank` gives them."""
    use()
    out = DeviceArray((t.rows, t.cols), np.int32, stream_number(stream))
    expand_rows(t, out, 0, t.rows, unit_norms=True, stream=stream_number(stream))
    return out


def dequantize(
    t: DeviceTensor, dtype: DTypeLike = np.float16, *, stream: Any = None
) -> DeviceArray:
    """Decompress a tensor on the device: W, the inverse rotation included, in binary32 arithmetic.

    Parameters: t; dtype float16 or float32; stream as in `matmul`. Returns a DeviceArray of
    t.shape. An element differs from `pvq_ref.dequantize`'s by at most (m + 8) 2^-24 ||w||, w its
    row of W', m = log2(order) + base for the largest block of the rotation, and by the rounding to
    dtype. Raises DTypeError, DeviceError.
    """
    dtype = np.dtype(dtype)
    if dtype.name not in ("float16", "float32"):
        raise DTypeError(f"dtype must be float16 or float32, got {dtype}")
    use()
    number = stream_number(stream)
    out = DeviceArray(t.shape, dtype, number)
    if not t.is_rotated:
        expand_rows(t, out, 0, t.rows, unit_norms=False, stream=number)
        return out
    from pvq_ref.cuda.products import padded, rotation_kernel, rotation_shared

    words = padded(t.cols)
    most = min(t.rows, max(32, TILE // t.cols // 32 * 32))
    held = DeviceArray((most, t.cols), np.float32, number)
    spare = most * words if words > shared_words() - 1024 else 1
    scratch = DeviceArray(spare, np.float32, number)
    r = t.rotation
    for first in range(0, t.rows, most):
        rows = min(most, t.rows - first)
        expand_rows(t, held, first, rows, unit_norms=False, stream=number)
        rotation_kernel(False, words, (_F, dtype.name), r.single).bind(
            (held, t.cols, 1, r.signs, r.segments, r.factors, r.transposed, scratch,
             out.at(first * t.cols), t.cols, scratch, r.count, words, 0, 0, 0, 1),
            rows, shared=rotation_shared(words),
        )(number)  # fmt: skip
    return out
