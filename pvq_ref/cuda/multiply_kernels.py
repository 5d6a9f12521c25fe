"""How a warp multiplies the runs that its lanes have decoded by columns of activations.

Lane 4 r + q has run q of a quad, of the row r and of others. Activations are words of four high
or low bytes, whose sums are 256 high + low. In shared memory there are 32 words for each column,
quad and sixteen of coordinates (`rotation_kernels.packed_place`). Sums of integers are exact, so
all ways give the same products of runs. For a tensor core A has the four runs of a row side by
side, as lanes have them:

- Up to eight columns, one at a time: the columns 2 q and 2 q + 1 of B have the high and low bytes
  of run q's activations, and zeros where the other runs are. So a lane gets both sums of the
  very run that it decoded.
- Sixteen columns, four at a time: the columns 2 q and 2 q + 1 of B have those of column q, first
  with zeros for all runs but run 0, then for all but run 1, and so on. So a lane gets sums of
  column q, for one run after the other, whose scales come from the lanes that decoded them.
  That reads each activation once.
- Without tensor cores, and in the simulator: dp4a, a lane its own run.
"""

from collections.abc import Callable
from typing import Any

import numba
from numba import cuda

from pvq_ref.cuda.intrinsics import add, device, dp4a, four, tile_product

u32, i32, f32 = numba.uint32, numba.int32, numba.float32
ZEROS = 32  # words before the activations in shared memory
_ALL = 0xFFFFFFFF


def is_shared_out(batch: int, compute_8: bool) -> bool:
    """Whether lane 4 r + q has sums of the columns q, q + 4, … only, over all runs."""
    return compute_8 and batch >= 16


def make_multiply(
    batch: int, together: int, sixteens: int, image_size: int, compute_8: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the device functions that multiply the runs of a warp by `batch` columns.

    begin(lane) -> what `multiply` is to know of the lane
    multiply(words, scales, tables, begun, which, part, total): add scale times product to total
    (rows, columns of the lane); activations stand in shared memory by (column, quad of `part` ones,
    sixteen of the run), in units of 32 words, and `which` is the first of the quad
    """
    zeros, first = u32(image_size // 4), u32((image_size + ZEROS) // 4)
    if is_shared_out(batch, compute_8):
        return _make_several(batch // 4, together, sixteens, first)
    four_bytes = 4 * sixteens

    @device
    def begin(lane):
        run = u32(lane & u32(3))
        if not compute_8:
            return add(first, run), u32(8)
        column = u32(lane >> u32(2))
        if run == u32(column >> u32(1)):
            return add(first, add(u32(u32(column & u32(1)) << u32(2)), run)), u32(8)
        # Zeros in banks that the lanes beside it don't read from.
        return add(zeros, u32(add(u32(lane >> u32(3)), u32(2)) & u32(3))), u32(0)

    @device
    def multiply(words, scales, tables, begun, which, part, total):
        origin, step = begun
        for b in range(batch):
            high = cuda.local.array(together, numba.int32)
            low = cuda.local.array(together, numba.int32)
            for r in range(together):
                high[r], low[r] = i32(0), i32(0)
            for h in range(sixteens):
                unit = add(which, u32(add(u32(u32(u32(b) * part) * u32(sixteens)), u32(h))))
                place = add(origin, u32(unit * step))
                x = four(tables, place)
                if compute_8:
                    for r in range(0, together, 2):
                        at, beside = r * four_bytes + 4 * h, (r + 1) * four_bytes + 4 * h
                        for w in range(0, 4, 2):
                            high[r], low[r], high[r + 1], low[r + 1] = tile_product(
                                words[at + w], words[beside + w],
                                words[at + w + 1], words[beside + w + 1],
                                x[w], x[w + 1], high[r], low[r], high[r + 1], low[r + 1],
                            )  # fmt: skip
                else:
                    other = four(tables, add(place, u32(4)))
                    for r in range(together):
                        for w in range(4):
                            word = words[r * four_bytes + 4 * h + w]
                            high[r] = dp4a(word, x[w], high[r])
                            low[r] = dp4a(word, other[w], low[r])
            for r in range(together):
                value = i32(i32(high[r] * i32(256)) + low[r])
                total[r * batch + b] += scales[r] * f32(value)

    return begin, multiply


def _make_several(
    fours: int, together: int, sixteens: int, first: Any
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the functions of `make_multiply` for four columns at a time."""
    four_bytes, read = 4 * sixteens, 4 * sixteens * fours

    @device
    def begin(lane):
        return lane, u32(lane >> u32(3))

    @device
    def multiply(words, scales, tables, begun, which, part, total):
        lane, column = begun
        own, row = u32(lane & u32(3)), u32(lane & u32(28))
        x = cuda.local.array(read, numba.uint32)
        for t in range(fours):
            start = u32(add(u32(4 * t), column) * part)
            for h in range(sixteens):
                unit = add(which, add(u32(start * u32(sixteens)), u32(h)))
                held = four(tables, add(add(first, u32(unit << u32(3))), u32(lane & u32(7))))
                for w in range(4):
                    x[t * four_bytes + 4 * h + w] = held[w]
        for p in range(4):
            is_own = own == u32(p)
            scale = cuda.local.array(together, numba.float32)
            for r in range(together):
                scale[r] = cuda.shfl_sync(_ALL, scales[r], add(row, u32(p)))
            for t in range(fours):
                high = cuda.local.array(together, numba.int32)
                low = cuda.local.array(together, numba.int32)
                for r in range(together):
                    high[r], low[r] = i32(0), i32(0)
                for w in range(0, four_bytes, 2):
                    b0 = x[t * four_bytes + w] if is_own else u32(0)
                    b1 = x[t * four_bytes + w + 1] if is_own else u32(0)
                    for r in range(0, together, 2):
                        at, beside = r * four_bytes + w, (r + 1) * four_bytes + w
                        high[r], low[r], high[r + 1], low[r + 1] = tile_product(
                            words[at], words[beside], words[at + 1], words[beside + 1],
                            b0, b1, high[r], low[r], high[r + 1], low[r + 1],
                        )  # fmt: skip
                for r in range(together):
                    value = i32(i32(high[r] * i32(256)) + low[r])
                    total[r * fours + t] += scale[r] * f32(value)

    return begin, multiply
