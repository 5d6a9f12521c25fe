"""Kernels that write what the tree code holds: integers, or weights before the inverse rotation."""

from collections.abc import Callable

import numba
from numba import cuda

from pvq_ref.cuda.coding import Image
from pvq_ref.cuda.decode_kernels import RAW, make_decoder, make_read, make_squares
from pvq_ref.cuda.intrinsics import add, bits_of, device, put_four, rsqrt, two_halves
from pvq_ref.cuda.layout import Layout

u32, u64, i32, f32 = numba.uint32, numba.uint64, numba.int32, numba.float32


@device
def signed_byte(word, j):
    """Return byte j of a word, as a number from -128 to 127."""
    byte = i32(u32(word >> u32(8 * j)) & u32(255))
    return i32(byte - i32(256)) if byte > i32(127) else byte


@device
def half_words(word, scale):
    """Return the four integers of a word times scale, in two words of two binary16 numbers."""
    low = two_halves(scale * f32(signed_byte(word, 0)), scale * f32(signed_byte(word, 1)))
    high = two_halves(scale * f32(signed_byte(word, 2)), scale * f32(signed_byte(word, 3)))
    return low, high


def make_expand(layout: Layout, image: Image, target: str, aligned: bool) -> Callable[..., None]:
    """Return the kernel that writes rows first_row … first_row + rows - 1.

    A thread takes the runs of a lane (`Layout`). aligned: every row of out begins at a multiple
    of 16 bytes.

    expand(planes, halves, bytes, tables, norms, out, first row, rows, runs in a row, words of a
    plane, columns): the integers, or norm · level · y / ||y||.
    """
    n, four_bytes = layout.n, layout.n // 4
    together, block_rows = layout.together, layout.rows
    fetch, arrange = make_read(layout)
    field, decode = make_decoder(layout, image)
    squares = make_squares(layout, fetch, arrange, decode)
    levels, size = u32(image.levels), image.size
    words_out, words_in = together * four_bytes, 4 * together
    integers, is_half = target == "int32", target == "float16"

    @device
    def write(words, r, scale, out, place):
        """Write run r of a lane to out[place:], times scale."""
        begin = r * four_bytes
        if aligned and is_half:
            for w in range(0, four_bytes, 2):
                a, b = half_words(words[begin + w], scale)
                c, d = half_words(words[begin + w + 1], scale)
                put_four(out, u64(u64(place >> u64(3)) + u64(w // 2)), (a, b, c, d))
        elif aligned:
            for w in range(four_bytes):
                word = words[begin + w]
                values = (
                    signed_byte(word, 0), signed_byte(word, 1), signed_byte(word, 2),
                    signed_byte(word, 3),
                )  # fmt: skip
                if integers:
                    a, b, c, d = u32(values[0]), u32(values[1]), u32(values[2]), u32(values[3])
                else:
                    a, b = bits_of(scale * f32(values[0])), bits_of(scale * f32(values[1]))
                    c, d = bits_of(scale * f32(values[2])), bits_of(scale * f32(values[3]))
                put_four(out, u64(u64(place >> u64(2)) + u64(w)), (a, b, c, d))
        else:
            for w in range(four_bytes):
                for j in range(4):
                    value = signed_byte(words[begin + w], j)
                    if integers:
                        out[place + u64(4 * w + j)] = value
                    else:
                        out[place + u64(4 * w + j)] = scale * f32(value)

    def expand(
        planes, halves, bytes_, tables_in, norms, out, first_row, rows, runs, plane_words, cols
    ):  # fmt: skip
        tables = cuda.shared.array(0, numba.uint32)
        floats = cuda.shared.array(0, numba.float32)
        thread, threads = u32(cuda.threadIdx.x), u32(cuda.blockDim.x)
        i = thread
        while i < u32(size):
            tables[i] = tables_in[i]
            i = add(i, threads)
        cuda.syncthreads()
        words = cuda.local.array(words_out, numba.uint32)
        held = cuda.local.array(words_in, numba.uint32)
        raw = cuda.local.array(RAW, numba.uint32)
        square = cuda.local.array(together, numba.int32)
        # first_row is a multiple of a block's rows.
        quads = u32(add(runs, u32(3)) >> u32(2))
        before = u32(u32(first_row // u32(block_rows)) * u32(quads * u32(32)))
        i = add(u32(u32(cuda.blockIdx.x) * threads), thread)
        stop = u32(u32(add(rows, u32(block_rows - 1)) // u32(block_rows)) * u32(quads * u32(32)))
        while i < stop:
            fetch(planes, halves, bytes_, plane_words, add(before, i), raw)
            arrange(raw, held)
            decode(held, tables, words)
            if not integers:
                at = add(before, i)
                squares(words, planes, halves, bytes_, plane_words, at, tables, square)
            block, quad = u32(u32(i >> u32(5)) // quads), u32(u32(i >> u32(5)) % quads)
            run = add(u32(quad << u32(2)), u32(i & u32(3)))
            lane_row = u32(u32(i >> u32(2)) & u32(7))
            for r in range(together):
                row = add(u32(block * u32(block_rows)), add(lane_row, u32(8 * r)))
                if row < rows and run < runs:
                    scale = f32(1)
                    if not integers:
                        level = floats[add(levels, field(held, r))]
                        scale = norms[add(first_row, row)] * level * rsqrt(f32(square[r]))
                    write(words, r, scale, out, u64(row) * u64(cols) + u64(run) * u64(n))
            i = add(i, u32(threads * u32(cuda.gridDim.x)))

    return expand


def make_expand_odd(n: int, integers: bool) -> Callable[..., None]:
    """Return the kernel that writes the runs that are kept apart, of some rows, an entry a thread.

    expand_odd(entries, rows of entries, levels, norms, out, first entry, entries, first row,
    columns)
    """
    four_bytes = n // 4

    def expand_odd(entries, entry_rows, levels, norms, out, first, stop, first_row, cols):
        i = add(first, add(u32(u32(cuda.blockIdx.x) * u32(cuda.blockDim.x)), u32(cuda.threadIdx.x)))
        if i < stop:
            at, row = u32(i * u32(2 + four_bytes)), entry_rows[i]
            run = u32(entries[at] & u32(0xFFFFFF))
            target = u64(u32(row - first_row)) * u64(cols) + u64(run) * u64(n)
            level = levels[u32(entries[at] >> u32(24))]
            scale = norms[row] * level * rsqrt(f32(entries[add(at, u32(1))]))
            for w in range(four_bytes):
                word = entries[add(at, u32(2 + w))]
                for j in range(4):
                    value = signed_byte(word, j)
                    if integers:
                        out[target + u64(4 * w + j)] = value
                    else:
                        out[target + u64(4 * w + j)] = scale * f32(value)

    return expand_odd
