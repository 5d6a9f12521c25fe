"""Kernels that write what the tree code holds: integers, or weights before the inverse rotation."""

from collections.abc import Callable

import numba
from numba import cuda

from pvq_ref.cuda.coding import Image, Layout
from pvq_ref.cuda.intrinsics import add, bits_of, device, dp4a, put_four, rsqrt, sub, two_halves
from pvq_ref.cuda.product_kernels import load, make_decoder

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
    """Return the kernel that writes rows first_row … first_row + rows - 1, a group a thread.

    aligned: every row of out begins at a multiple of 16 bytes.

    expand(planes, halves, bytes, tables, norms, out, first row, rows, groups in a row, all groups,
    columns): the integers, or norm · level · y / ||y||.
    """
    n, four_bytes = layout.tree.n, layout.tree.n // 4
    whole, has_half, has_byte = layout.shape
    field, decode = make_decoder(layout, image, 1)
    levels, size = u32(image.levels), image.size
    integers, is_half = target == "int32", target == "float16"

    def expand(
        planes, halves, bytes_, tables_in, norms, out, first_row, rows, groups, all_groups, cols
    ):  # fmt: skip
        tables = cuda.shared.array(0, numba.uint32)
        pairs = cuda.shared.array(0, numba.uint64)
        floats = cuda.shared.array(0, numba.float32)
        thread, threads = u32(cuda.threadIdx.x), u32(cuda.blockDim.x)
        i = thread
        while i < u32(size):
            tables[i] = tables_in[i]
            i = add(i, threads)
        cuda.syncthreads()
        words = cuda.local.array(four_bytes, numba.uint32)
        held = cuda.local.array(4, numba.uint32)
        # Row r, group g stands at ((r / 32) groups + g) 32 + r % 32; first_row is a multiple of 32.
        i = add(u32(u32(cuda.blockIdx.x) * threads), thread)
        stop = u32(u32(u32(rows + u32(31)) >> u32(5)) * u32(groups * u32(32)))
        while i < stop:
            row_block, group = u32(u32(i >> u32(5)) // groups), u32(u32(i >> u32(5)) % groups)
            row = add(u32(row_block << u32(5)), u32(i & u32(31)))
            at = add(u32(first_row * groups), i)
            held[0], held[1], held[2], held[3] = load(
                planes, halves, bytes_, all_groups, at, whole, has_half, has_byte
            )
            decode(held, tables, pairs, words)
            target = u64(row) * u64(cols) + u64(group) * u64(n)
            scale = f32(1)
            if not integers:
                square = i32(0)
                for w in range(four_bytes):
                    square = dp4a(words[w], words[w], square)
                level = floats[add(levels, field(held, 0))]
                scale = (
                    norms[add(first_row, min(row, sub(rows, u32(1))))] * level * rsqrt(f32(square))
                )
            if row < rows:
                for w in range(four_bytes):
                    if aligned and integers:
                        place = u64(u64(target >> u64(2)) + u64(w))
                        a, b = u32(signed_byte(words[w], 0)), u32(signed_byte(words[w], 1))
                        c, d = u32(signed_byte(words[w], 2)), u32(signed_byte(words[w], 3))
                        put_four(out, place, (a, b, c, d))
                    elif aligned and is_half:
                        if w % 2 == 0:
                            place = u64(u64(target >> u64(3)) + u64(w // 2))
                            a, b = half_words(words[w], scale)
                            c, d = half_words(words[w + 1], scale)
                            put_four(out, place, (a, b, c, d))
                    elif aligned:
                        place = u64(u64(target >> u64(2)) + u64(w))
                        a = bits_of(scale * f32(signed_byte(words[w], 0)))
                        b = bits_of(scale * f32(signed_byte(words[w], 1)))
                        c = bits_of(scale * f32(signed_byte(words[w], 2)))
                        d = bits_of(scale * f32(signed_byte(words[w], 3)))
                        put_four(out, place, (a, b, c, d))
                    else:
                        for j in range(4):
                            value = signed_byte(words[w], j)
                            if integers:
                                out[target + u64(4 * w + j)] = value
                            else:
                                out[target + u64(4 * w + j)] = scale * f32(value)
            i = add(i, u32(threads * u32(cuda.gridDim.x)))

    return expand


def make_expand_odd(n: int, integers: bool) -> Callable[..., None]:
    """Return the kernel that writes the groups without a code, of some rows, an entry a thread.

    expand_odd(entries, rows of entries, levels, norms, out, first entry, entries, first row,
    columns)
    """
    four_bytes = n // 4

    def expand_odd(entries, entry_rows, levels, norms, out, first, stop, first_row, cols):
        i = add(first, add(u32(u32(cuda.blockIdx.x) * u32(cuda.blockDim.x)), u32(cuda.threadIdx.x)))
        if i < stop:
            at, row = u32(i * u32(1 + four_bytes)), entry_rows[i]
            group = u32(entries[at] & u32(0xFFFFFF))
            target = u64(u32(row - first_row)) * u64(cols) + u64(group) * u64(n)
            square = i32(0)
            for w in range(four_bytes):
                word = entries[add(at, u32(1 + w))]
                square = dp4a(word, word, square)
            level = levels[u32(entries[at] >> u32(24))]
            scale = norms[row] * level * rsqrt(f32(square))
            for w in range(four_bytes):
                word = entries[add(at, u32(1 + w))]
                for j in range(4):
                    value = signed_byte(word, j)
                    if integers:
                        out[target + u64(4 * w + j)] = value
                    else:
                        out[target + u64(4 * w + j)] = scale * f32(value)

    return expand_odd
