"""The kernel that rotates and packs activations, if a base of moderate order mixes runs of a row.

That is a rotation of spec section 6 of one block, (H ⊗ S) D, which fits into shared memory. Its
lines are runs of S. H comes first: a thread loads the elements of all lines at one place, and adds
them up with signs that are part of the code (`signed_sums.py`). Then come Sylvester's steps in
registers, with one way through shared memory or two in between, five at a time at most. The last
five are on 32 neighbours, which become words at once.
"""

from collections.abc import Callable

import numba
from numba import cuda

from pvq_ref.cuda.activation_kernels import pack, sylvester
from pvq_ref.cuda.device import shared_words
from pvq_ref.cuda.intrinsics import add, bits_of, device, float_of, let_next_start, wait_for_last
from pvq_ref.cuda.rotation_kernels import LARGEST, TINY, block_max, pad
from pvq_ref.cuda.signed_sums import signed_sums
from pvq_ref.hadamard import Construction, matrix

u32, u64, i32, f32 = numba.uint32, numba.uint64, numba.int32, numba.float32
EACH = 32  # elements of a thread at the end, and banks of shared memory
TOGETHER = 16  # lines whose elements a thread loads at once
MOST_ORDER = 148  # the code grows with its square, here to 8000 instructions
_MOST_RUN = 1 << 11
_MOST_COLUMNS = 1 << 15  # EACH for each thread of a block
_STEPS = 5  # on the elements of a thread at the end, and before that at most
_ENOUGH = 256  # threads of a block that add up lines: more would load the same elements again
_REGISTERS = 1 << 16  # of a block
_OTHERS = 36  # registers of a thread beside its sums


def row_words(cols: int) -> int:
    """Return the words of shared memory for a row."""
    return cols + cols // 32


def is_moderate(size: int, run: int, order: int) -> bool:
    """Return whether this kernel takes a rotation whose only segment is this."""
    fits = size <= _MOST_COLUMNS and row_words(size) <= shared_words() - 1024
    return fits and size == run * order and 1 < order <= MOST_ORDER and EACH <= run <= _MOST_RUN


def block_threads(run: int, order: int) -> tuple[int, int]:
    """Return how many threads share the sums at one place of a run, and the threads of a block."""
    at_the_end = -(-run * order // (32 * EACH)) * 32
    for shares in (1, 2, 4):
        threads = max(min(1024, run * shares), at_the_end)
        if run * shares >= _ENOUGH and threads * (order // shares + _OTHERS) <= _REGISTERS:
            break
    return shares, threads


@device
def load(x, start, x_element, run, flip, v, count):
    """Load an element of each of some lines, and change the signs that `flip` has bits for."""
    for j in range(count):
        value = f32(x[start + u64(j * run) * u64(x_element)])
        sign = u32(u32(flip << u32(31 - j)) & u32(1 << 31))
        v[j] = float_of(u32(bits_of(value) ^ sign))


def make_base_activations(
    base: Construction, steps: int, sixteens: int, overlap: bool
) -> Callable[..., None]:
    """Return the kernel for a base and runs of 2^steps elements, one column a block.

    base_activations(x, step from column to column, step from element to element, flips, factors,
    largest, packed, its step): as `make_rotation`, for one segment. flips: see `DeviceRotation`.
    """
    run, order = 1 << steps, base.order
    size, line = run * order, row_words(run)
    shares, threads = block_threads(run, order)
    lines, (whole, rest) = order // shares, divmod(order, TOGETHER)
    rounds = 2 if steps > 2 * _STEPS else 1  # before the last steps: 2^11 takes 3 and 3
    each = (steps - _STEPS) // rounds
    held = 1 << each
    mix = signed_sums(matrix(base), shares, TOGETHER)

    @device
    def mixed(x, start, x_element, flips, z, i, share):
        """Write a share of the sums of the elements at place i of all lines."""
        v = cuda.local.array(TOGETHER, numba.float32)
        sums = cuda.local.array(lines, numba.float32)
        piece = u32(0)
        while piece < u32(whole):
            flip = flips[add(i, u32(piece * u32(run)))]
            load(x, start, x_element, run, flip, v, TOGETHER)
            mix(v, piece, share, sums)
            start += u64(TOGETHER * run) * u64(x_element)
            piece = add(piece, u32(1))
        if rest:
            load(x, start, x_element, run, flips[add(i, u32(whole * run))], v, rest)
            mix(v, u32(whole), share, sums)
        at = u64(add(u32(share * u32(lines * line)), pad(i)))
        for j in range(lines):
            z[at + u64(j * line)] = sums[j]

    @device
    def stepped(z, i, step):
        """Take `each` steps from `step` on, on the elements from i on."""
        v = cuda.local.array(held, numba.float32)
        at, apart = u64(pad(i)), u64(pad(step))
        for j in range(held):
            v[j] = z[at + u64(j) * apart]
        sylvester(v, 0, each)
        for j in range(held):
            z[at + u64(j) * apart] = v[j]

    def base_activations(
        x, x_column, x_element, flips, factors, largest, packed, packed_step
    ):  # fmt: skip
        z = cuda.shared.array(0, numba.float32)
        peak = cuda.shared.array(32, numba.int32)
        v = cuda.local.array(EACH, numba.float32)
        thread, column = u32(cuda.threadIdx.x), u64(cuda.blockIdx.x)
        if overlap:
            let_next_start()
            wait_for_last()
        factor = factors[0]
        item = thread
        while item < u32(run * shares):
            i = u32(item & u32(run - 1))
            start = column * u64(x_column) + u64(i) * u64(x_element)
            mixed(x, start, x_element, flips, z, i, u32(item >> u32(steps)))
            item = add(item, u32(threads))
        cuda.syncthreads()
        step = u32(run)
        for _ in range(rounds):
            step = u32(step >> u32(each))
            item = thread
            while item < u32(size >> each):
                low = u32(item & u32(step - u32(1)))
                stepped(z, add(u32(u32(item - low) << u32(each)), low), step)
                item = add(item, u32(threads))
            cuda.syncthreads()
        most = i32(TINY)
        if thread < u32(size // EACH):
            at = u64(pad(u32(thread * u32(EACH))))
            for j in range(EACH):
                v[j] = z[at + u64(j)]
            sylvester(v, 0, _STEPS)
            for j in range(EACH):
                v[j] = v[j] * factor
                most = max(most, i32(bits_of(abs(v[j]))))
        most = block_max(most, peak, u32(0))
        if thread == u32(0):
            largest[column] = float_of(u32(most))
        if thread < u32(size // EACH):
            up = f32(LARGEST) / float_of(u32(most))
            start = column * u64(packed_step)
            for s in range(EACH // 16):
                word = u32(add(u32(thread * u32(EACH // 16)), u32(s)) << u32(2))
                pack(v, 16 * s, up, packed, start, word, u32(sixteens))

    return base_activations
