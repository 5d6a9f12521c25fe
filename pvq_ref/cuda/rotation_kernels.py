"""The rotation of rows on the device (spec section 6), in binary32.

A block of threads takes a row, which stays in shared memory if it fits there. Three steps of
Sylvester's matrix are taken at a time, on eight elements in registers.
"""

from collections.abc import Callable

import numba
import numpy as np
from numba import cuda

from pvq_ref.cuda.intrinsics import (
    SIMULATED,
    add,
    bits_of,
    device,
    float_of,
    let_next_start,
    nearest,
    wait_for_last,
)

u32, u64, i32, f32 = numba.uint32, numba.uint64, numba.int32, numba.float32
LARGEST = 32639  # of 16-bit activations: two signed bytes, the high one up to 127
THREADS = 32 if SIMULATED else 1024
TINY = int(np.float32(1e-30).view(np.uint32))  # the least scale of activations, as bits


@device
def quantize(x, start, up):
    """Return words of the high and low bytes of four activations in 16-bit fixed point."""
    high, low = u32(0), u32(0)
    for j in range(4):
        value = nearest(x[start + u64(j)] * up)
        upper = i32(i32(value + i32(128)) >> i32(8))
        lower = i32(value - i32(upper * i32(256)))
        high = u32(high | u32(u32(upper & i32(255)) << u32(8 * j)))
        low = u32(low | u32(u32(lower & i32(255)) << u32(8 * j)))
    return high, low


@device
def packed_place(i, sixteens):
    """Return where the i-th word of high bytes lies; the word of low bytes lies 16 further on.

    sixteens is 1 or 2, the sixteens of coordinates in a group. Of each quad of groups and each
    sixteen there are 32 words: the high bytes of four groups, 16 words, and the low ones.
    """
    sixteen = u32(i >> u32(2))
    group = u32(sixteen >> u32(sixteens - u32(1)))
    which = add(u32(u32(group >> u32(2)) * sixteens), u32(sixteen & u32(sixteens - u32(1))))
    return add(u32(which << u32(5)), add(u32(u32(group & u32(3)) << u32(2)), u32(i & u32(3))))


@device
def pad(i):
    """Return where element i lies, so that strides of powers of two spread over all banks."""
    return add(i, u32(i >> u32(5)))


@device
def place(offset, i, step, times):
    """Return where element i + times · step of a row lies that begins at `offset`."""
    return add(offset, pad(add(i, u32(u32(times) * step))))


@device
def eights(z, offset, size, step):
    """Take the steps `step`, 2 step and 4 step on `size` elements from z[offset] on."""
    t = u32(cuda.threadIdx.x)
    while t < u32(size >> u32(3)):
        low = u32(t & u32(step - u32(1)))
        i = add(u32(u32(t - low) << u32(3)), low)
        i0, i1 = place(offset, i, step, 0), place(offset, i, step, 1)
        i2, i3 = place(offset, i, step, 2), place(offset, i, step, 3)
        i4, i5 = place(offset, i, step, 4), place(offset, i, step, 5)
        i6, i7 = place(offset, i, step, 6), place(offset, i, step, 7)
        a, b, c, d = z[i0] + z[i1], z[i0] - z[i1], z[i2] + z[i3], z[i2] - z[i3]
        e, f, g, h = z[i4] + z[i5], z[i4] - z[i5], z[i6] + z[i7], z[i6] - z[i7]
        a, c, b, d = a + c, a - c, b + d, b - d
        e, g, f, h = e + g, e - g, f + h, f - h
        z[i0], z[i4], z[i1], z[i5] = a + e, a - e, b + f, b - f
        z[i2], z[i6], z[i3], z[i7] = c + g, c - g, d + h, d - h
        t = add(t, u32(cuda.blockDim.x))


@device
def twos(z, offset, size, step):
    """Take one step."""
    t = u32(cuda.threadIdx.x)
    while t < u32(size >> u32(1)):
        low = u32(t & u32(step - u32(1)))
        i = add(u32(u32(t - low) << u32(1)), low)
        i0, i1 = place(offset, i, step, 0), place(offset, i, step, 1)
        z[i0], z[i1] = z[i0] + z[i1], z[i0] - z[i1]
        t = add(t, u32(cuda.blockDim.x))


@device
def sylvester(z, offset, size, run):
    """Transform each run of elements, a power of two."""
    step = u32(1)
    while u32(u32(8) * step) <= run:
        eights(z, offset, size, step)
        cuda.syncthreads()
        step = u32(u32(8) * step)
    while step < run:
        twos(z, offset, size, step)
        cuda.syncthreads()
        step = u32(u32(2) * step)


@device
def block_max(value, peak, begin):
    """Return the largest i32 of a block of threads; peak[begin:] has room for 32."""
    thread, threads = u32(cuda.threadIdx.x), u32(cuda.blockDim.x)
    lane, warp = u32(thread & u32(31)), u32(thread >> u32(5))
    if SIMULATED:
        if warp == u32(0):
            peak[add(begin, lane)] = i32(0)
        cuda.syncthreads()
        cuda.atomic.max(peak, add(begin, lane), value)
        cuda.syncthreads()
        for i in range(32):
            value = max(value, peak[add(begin, u32(i))])
    else:
        for by in (16, 8, 4, 2, 1):
            value = max(value, i32(cuda.shfl_xor_sync(0xFFFFFFFF, value, by)))
        if lane == u32(0):
            peak[add(begin, warp)] = value
        cuda.syncthreads()
        value = i32(peak[add(begin, lane)]) if u32(lane * u32(32)) < threads else i32(0)
        for by in (16, 8, 4, 2, 1):
            value = max(value, i32(cuda.shfl_xor_sync(0xFFFFFFFF, value, by)))
    return value


def make_rotation(
    forward: bool,
    in_shared: bool,
    single: tuple[int, int, int] | None,
    overlap: bool,
    keep: bool = True,
) -> Callable[..., None]:
    """Return the kernel that rotates rows of x, one a block, into rows of out.

    single, if there is one segment, is its columns, length of a run, and order of the base, so
    that loops have constant bounds. overlap lets the next kernel start its preparations. Without
    keep, out isn't written where nothing needs it.

    rotate(x, row step, column step, signs, segments, factors, bases, scratch, out, out's row step,
    largest, segments, padded columns, packed, its step, its words, sixteens): a segment is five
    numbers, first column, columns, length of a run, order of the base, where the base begins in
    `bases`. largest gets the greatest magnitude of each row of out, but at least 1e-30, and packed
    its fixed-point words, high and low bytes, as `packed_place` says. Magnitudes are compared as
    integers, in whose order infinity and NaN come last: a column with one of them has it as its
    largest.
    """

    if single is not None:
        one_size, one_run, one_order = (u32(value) for value in single)
    is_single = single is not None
    # With one segment and no base, each thread writes only what it alone has read.
    writes = keep or not forward or single is None or single[2] > 1

    def rotate(
        x, x_row, x_column, signs, segments, factors, bases, scratch, out, out_row, largest, count,
        padded, packed, packed_step, packed_words, sixteens,
    ):  # fmt: skip
        row = u64(cuda.blockIdx.x)
        if overlap:
            let_next_start()
            wait_for_last()
        if in_shared:
            z = cuda.shared.array(0, numba.float32)
            offset = u32(0)
        else:
            z = scratch
            offset = u32(u32(cuda.blockIdx.x) * padded)
        peak = cuda.shared.array(32, numba.int32)
        thread, threads = u32(cuda.threadIdx.x), u32(cuda.blockDim.x)
        source, target = row * u64(x_row), row * u64(out_row)
        most = i32(TINY)
        for s in range(count):
            at = u32(u32(5) * u32(s))
            if is_single:
                begin, base = u32(0), u32(0)
                size, run, order = one_size, one_run, one_order
            else:
                begin, size = segments[at], segments[add(at, u32(1))]
                run, order = segments[add(at, u32(2))], segments[add(at, u32(3))]
                base = segments[add(at, u32(4))]
            i = thread
            while i < size:
                column = add(begin, i)
                value = f32(0)
                if forward or order == u32(1):
                    value = f32(x[source + u64(column) * u64(x_column)])
                    if forward:
                        value = value * signs[column]
                else:
                    line = u32(u32(i // run) % order)
                    other = u32(column - u32(line * run))
                    entry = add(base, u32(line * order))
                    for _ in range(order):
                        value += f32(bases[entry]) * f32(x[source + u64(other) * u64(x_column)])
                        entry, other = add(entry, u32(1)), add(other, run)
                z[add(offset, pad(i))] = value
                i = add(i, threads)
            cuda.syncthreads()
            sylvester(z, offset, size, run)
            factor = factors[s]
            i = thread
            while i < size:
                column = add(begin, i)
                value = f32(0)
                if order == u32(1) or not forward:
                    value = z[add(offset, pad(i))]
                else:
                    line = u32(u32(i // run) % order)
                    other = u32(i - u32(line * run))
                    entry = add(base, u32(line * order))
                    for _ in range(order):
                        value += f32(bases[entry]) * z[add(offset, pad(other))]
                        entry, other = add(entry, u32(1)), add(other, run)
                value = value * factor
                if not forward:
                    value = value * signs[column]
                if writes:
                    out[target + u64(column)] = value
                else:
                    z[add(offset, pad(i))] = value
                most = max(most, i32(bits_of(abs(value))))
                i = add(i, threads)
            cuda.syncthreads()
        if forward:
            most = block_max(most, peak, u32(0))
            if thread == u32(0):
                largest[cuda.blockIdx.x] = float_of(u32(most))
            # The block's own rows of out are visible to it after the barriers of block_max.
            up = f32(LARGEST) / float_of(u32(most))
            first = u64(cuda.blockIdx.x) * u64(packed_step)
            i = thread
            while i < packed_words:
                if writes:
                    high, low = quantize(out, target + u64(i) * u64(4), up)
                else:
                    # Element 4 i and the three after it are padded alike.
                    high, low = quantize(z, u64(add(offset, pad(u32(i * u32(4))))), up)
                where = first + u64(packed_place(i, sixteens))
                packed[where] = high
                packed[where + u64(16)] = low
                i = add(i, threads)

    return rotate
