"""The kernel that rotates and packs activations, if all of a row is one run of Sylvester's matrix.

That is a rotation of spec section 6 without a base. No product can begin before it has ended, and
what it takes is latency. So elements stay in registers, sixteen a thread, for four steps at a time,
and go through shared memory in between; the last sixteen are neighbours, which become words at
once. With many columns a block takes two: where a block rotates, the one of the product that is to
follow finds no room to prepare.
"""

from collections.abc import Callable

import numba
from numba import cuda

from pvq_ref.cuda.intrinsics import (
    SIMULATED,
    add,
    bits_of,
    device,
    float_of,
    let_next_start,
    put_four,
    two_floats,
    wait_for_last,
)
from pvq_ref.cuda.rotation_kernels import (
    LARGEST,
    TINY,
    block_max,
    packed_place,
    pad,
    quantize,
)

u32, u64, i32, f32 = numba.uint32, numba.uint64, numba.int32, numba.float32
EACH = 16  # elements of a thread
_STEPS = 4  # on them
_ALL = 0xFFFFFFFF


@device
def sylvester(v, at, steps):
    """Take so many steps on the neighbours from v[at] on."""
    for s in range(steps):
        for p in range(1 << (steps - 1)):
            low = p & ((1 << s) - 1)
            i = at + 2 * (p - low) + low
            other = i + (1 << s)
            v[i], v[other] = v[i] + v[other], v[i] - v[other]


@device
def pack(v, at, up, packed, start, word, sixteens):
    """Write v[at : at + 16], multiplied by up, as the column's words from `word` on.

    start is where the column's words begin.
    """
    h0, l0 = quantize(v, u64(at), up)
    h1, l1 = quantize(v, u64(at + 4), up)
    h2, l2 = quantize(v, u64(at + 8), up)
    h3, l3 = quantize(v, u64(at + 12), up)
    four = (start + u64(packed_place(word, sixteens))) >> u64(2)
    put_four(packed, four, (h0, h1, h2, h3))
    put_four(packed, four + u64(4), (l0, l1, l2, l3))


@device
def across(v, at, z, offset, thread, by):
    """Take the step between threads whose numbers differ in the bit `by`, below 32."""
    if SIMULATED:
        for j in range(EACH):
            z[add(offset, pad(u32(u32(EACH) * thread + u32(j))))] = v[at + j]
        cuda.syncthreads()
    for j in range(EACH):
        if SIMULATED:
            other = z[add(offset, pad(u32(u32(EACH) * u32(thread ^ u32(by)) + u32(j))))]
        else:
            other = cuda.shfl_xor_sync(_ALL, v[at + j], by)
        v[at + j] = other - v[at + j] if u32(thread & u32(by)) != u32(0) else v[at + j] + other
    if SIMULATED:
        cuda.syncthreads()


def run_words(steps: int) -> int:
    """Return the words of shared memory for a run of 2^steps elements."""
    return (1 << steps) + (1 << steps) // 32


def make_activations(steps: int, columns: int, sixteens: int, overlap: bool) -> Callable[..., None]:
    """Return the kernel for 2^steps elements, 2^steps / 16 threads and 1 or 2 columns a block.

    activations(x, step from column to column, step from element to element, signs, factors,
    largest, packed, its step, columns in all, side by side): as `make_rotation`, for one run. side
    by side: whether both columns of each block are there, and an element's stand in memory one
    after the other, so aligned that they can be loaded at once.
    """
    size = 1 << steps
    threads = size // EACH
    extra = steps % 4  # steps across threads, after those on neighbours
    rounds = steps // 4 - 2  # in shared memory
    held, row, peaks = EACH * columns, run_words(steps), 32 * columns

    def activations(
        x, x_column, x_element, signs, factors, largest, packed, packed_step, batch, side_by_side
    ):  # fmt: skip
        z = cuda.shared.array(0, numba.float32)
        peak = cuda.shared.array(peaks, numba.int32)
        thread = u32(cuda.threadIdx.x)
        first = u32(u32(cuda.blockIdx.x) * u32(columns))
        v = cuda.local.array(held, numba.float32)
        sign = cuda.local.array(EACH, numba.float32)
        if overlap:
            let_next_start()
        for j in range(EACH):
            sign[j] = signs[add(thread, u32(j * threads))]
        factor = factors[0]
        if overlap:
            wait_for_last()
        if columns == 2 and side_by_side != u32(0):
            for j in range(EACH):
                element = u64(add(thread, u32(j * threads)))
                v[j], v[EACH + j] = two_floats(x, u64(first) + element * u64(x_element))
        else:
            for c in range(columns):
                column = min(add(first, u32(c)), u32(batch - u32(1)))
                start = u64(column) * u64(x_column)
                for j in range(EACH):
                    element = u64(add(thread, u32(j * threads)))
                    v[EACH * c + j] = f32(x[start + element * u64(x_element)])
        for c in range(columns):
            for j in range(EACH):
                v[EACH * c + j] = v[EACH * c + j] * sign[j]
            sylvester(v, EACH * c, _STEPS)
            for j in range(EACH):
                at = pad(add(thread, u32(j * threads)))
                z[add(u32(c * row), at)] = v[EACH * c + j]
        cuda.syncthreads()
        step = u32(threads)
        for _ in range(rounds):
            step = u32(step >> u32(4))
            low = u32(thread & u32(step - u32(1)))
            i = add(u32(u32(thread - low) << u32(4)), low)
            for c in range(columns):
                for j in range(EACH):
                    at = pad(add(i, u32(u32(j) * step)))
                    v[EACH * c + j] = z[add(u32(c * row), at)]
            for c in range(columns):
                sylvester(v, EACH * c, _STEPS)
                for j in range(EACH):
                    at = pad(add(i, u32(u32(j) * step)))
                    z[add(u32(c * row), at)] = v[EACH * c + j]
            cuda.syncthreads()
        for c in range(columns):
            for j in range(EACH):
                at = pad(add(u32(thread << u32(4)), u32(j)))
                v[EACH * c + j] = z[add(u32(c * row), at)]
        for c in range(columns):
            sylvester(v, EACH * c, _STEPS)
            for e in range(extra):
                across(v, EACH * c, z, u32(c * row), thread, 1 << e)
            most = i32(TINY)
            for j in range(EACH):
                v[EACH * c + j] = v[EACH * c + j] * factor
                most = max(most, i32(bits_of(abs(v[EACH * c + j]))))
            most = block_max(most, peak, u32(32 * c))
            column = add(first, u32(c))
            if column < batch:
                if thread == u32(0):
                    largest[column] = float_of(u32(most))
                up = f32(LARGEST) / float_of(u32(most))
                start = u64(column) * u64(packed_step)
                pack(v, EACH * c, up, packed, start, u32(thread << u32(2)), u32(sixteens))

    return activations
