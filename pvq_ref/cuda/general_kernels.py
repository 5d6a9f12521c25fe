"""The general path: groups of any n and k, held as their ranks in the order fischer.

A thread takes a group and walks through its coordinates (spec section 3.1), comparing numbers of
several words. It's right for everything, and slow.
"""

from collections.abc import Callable

import numba
from numba import cuda

from pvq_ref.cuda.intrinsics import SIMULATED, add, device, nearest, rsqrt
from pvq_ref.cuda.rotation_kernels import LARGEST

u32, u64, i32, i64, f32 = numba.uint32, numba.uint64, numba.int32, numba.int64, numba.float32


@device
def warp_sum(value, lane, scratch):
    """Return the sum over a warp, in its first lane."""
    if SIMULATED:
        for by in (16, 8, 4, 2, 1):
            scratch[lane] = value
            cuda.syncthreads()
            if lane + by < 32:
                value = value + scratch[lane + by]
            cuda.syncthreads()
    else:
        for by in (16, 8, 4, 2, 1):
            value += cuda.shfl_down_sync(0xFFFFFFFF, value, by)
    return value


@device
def take(rest, counts, at, words):
    """Subtract a count from rest and return True, or return False if rest is below it."""
    enough, w = True, words - 1
    while w >= 0:
        mine, other = rest[w], counts[add(at, u32(w))]
        if mine != other:
            enough = mine > other
            break
        w -= 1
    if enough:
        borrow = i64(0)
        for w in range(words):
            value = i64(i64(rest[w]) - i64(counts[add(at, u32(w))]) - borrow)
            rest[w] = u32(value & i64(0xFFFFFFFF))
            borrow = i64(value < i64(0))
    return enough


@device
def next_value(rest, counts, left, pulses, row_words, words):
    """Return the next coordinate of a group with `left` more after it."""
    row = u32(u32(left) * u32(row_words))
    value = i32(0)
    if take(rest, counts, add(row, u32(u32(pulses) * u32(words))), words):
        value = i32(1)
        while True:
            at = add(row, u32(u32(i32(pulses) - value) * u32(words)))
            if not take(rest, counts, at, words):
                break
            if not take(rest, counts, at, words):
                value = i32(-value)
                break
            value = i32(value + i32(1))
    return value


def make_general(n: int, k: int, words: int, batch: int) -> Callable[..., None]:
    """Return the kernel that multiplies `batch` columns by groups of n coordinates, k pulses.

    general(index planes, fields, levels, counts, x, largest, out, rows, groups in a row, first
    column, columns): a warp a row, and out gets this part's sums, (batch, rows).
    """
    row_words = (k + 1) * words

    def general(
        planes, fields, levels, counts, x, largest, out, rows, groups, first_column, cols
    ):  # fmt: skip
        scratch = cuda.shared.array(32, numba.float32)
        thread = u32(cuda.threadIdx.x)
        lane = u32(thread & u32(31))
        warps = u32(u32(cuda.blockDim.x) >> u32(5))
        row = add(u32(u32(cuda.blockIdx.x) * warps), u32(thread >> u32(5)))
        rest = cuda.local.array(words, numba.uint32)
        dots = cuda.local.array(batch, numba.int64)
        ups = cuda.local.array(batch, numba.float32)
        total = cuda.local.array(batch, numba.float32)
        for b in range(batch):
            ups[b] = f32(LARGEST) / largest[b] if largest[b] > f32(0) else f32(0)
        while row < rows:
            for b in range(batch):
                total[b] = f32(0)
            group = lane
            while group < groups:
                at = u64(row) * u64(groups) + u64(group)
                for w in range(words):
                    rest[w] = planes[u64(w) * (u64(rows) * u64(groups)) + at]
                for b in range(batch):
                    dots[b] = i64(0)
                square, pulses = i64(0), i32(k)
                for i in range(n):
                    value = next_value(rest, counts, n - 1 - i, pulses, row_words, words)
                    pulses = i32(pulses - abs(value))
                    if value != 0:
                        square += i64(value) * i64(value)
                        column = u64(add(first_column, add(u32(group * u32(n)), u32(i))))
                        for b in range(batch):
                            quantized = nearest(x[u64(b) * u64(cols) + column] * ups[b])
                            dots[b] += i64(value) * i64(quantized)
                scale = levels[u32(fields[at])] * rsqrt(f32(square))
                for b in range(batch):
                    total[b] += scale * f32(dots[b])
                group = add(group, u32(32))
            for b in range(batch):
                value = warp_sum(total[b], lane, scratch)
                if lane == u32(0):
                    out[u64(b) * u64(rows) + u64(row)] = value
            row = add(row, u32(warps * u32(cuda.gridDim.x)))

    return general


def make_general_expand(n: int, k: int, words: int, integers: bool) -> Callable[..., None]:
    """Return the kernel that writes integers, or norm · level · y / ||y||, a group a thread.

    general_expand(planes, fields, levels, counts, norms, out, first row, rows, all rows, groups in
    a row, first column, columns)
    """
    row_words = (k + 1) * words

    def general_expand(
        planes, fields, levels, counts, norms, out, first_row, rows, all_rows, groups,
        first_column, cols,
    ):  # fmt: skip
        rest = cuda.local.array(words, numba.uint32)
        y = cuda.local.array(n, numba.int32)
        i = add(u32(u32(cuda.blockIdx.x) * u32(cuda.blockDim.x)), u32(cuda.threadIdx.x))
        while i < u32(rows * groups):
            row, group = u32(i // groups), u32(i % groups)
            at = u64(first_row) * u64(groups) + u64(i)
            for w in range(words):
                rest[w] = planes[u64(w) * (u64(all_rows) * u64(groups)) + at]
            square, pulses = i64(0), i32(k)
            for j in range(n):
                value = next_value(rest, counts, n - 1 - j, pulses, row_words, words)
                pulses = i32(pulses - abs(value))
                square += i64(value) * i64(value)
                y[j] = value
            target = u64(row) * u64(cols) + u64(first_column) + u64(group) * u64(n)
            scale = norms[add(first_row, row)] * levels[u32(fields[at])] * rsqrt(f32(square))
            for j in range(n):
                if integers:
                    out[target + u64(j)] = y[j]
                else:
                    out[target + u64(j)] = scale * f32(y[j])
            i = add(i, u32(u32(cuda.blockDim.x) * u32(cuda.gridDim.x)))

    return general_expand
