"""Kernels that decode the tree code and multiply (docs/gpu.md)."""

from collections.abc import Callable
from typing import Any

import numba
from numba import cuda

from pvq_ref.cuda.coding import Image, Layout
from pvq_ref.cuda.intrinsics import (
    SIMULATED,
    add,
    device,
    dp4a,
    four,
    funnel_left,
    nearest,
    rsqrt,
    shift_left,
    shift_right,
    sub,
)

u8, u32, u64 = numba.uint8, numba.uint32, numba.uint64
i32, f32 = numba.int32, numba.float32
LARGEST = 32639  # of 16-bit activations: two signed bytes, the high one up to 127


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
def load(planes, halves, bytes_, groups, group, whole, has_half, has_byte):
    """Return the four words of a group; those that it doesn't have are anything."""
    rest = u32(0)
    if has_half:
        rest = u32(u32(halves[group]) << u32(16))
    if has_byte:
        rest = u32(rest | u32(u32(bytes_[group]) << u32(8 if has_half else 24)))
    w0 = u32(planes[group])
    w1 = u32(planes[add(groups, group)]) if whole > 1 else rest
    w2 = u32(planes[add(add(groups, groups), group)]) if whole > 2 else rest
    w3 = u32(planes[add(add(groups, add(groups, groups)), group)]) if whole > 3 else rest
    return w0, w1, w2, w3


def make_decoder(layout: Layout, image: Image) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the device functions that take a group's words apart.

    field(w0, w1, w2, w3) -> number of the level
    decode(w0, w1, w2, w3, tables, pairs, out, at): write 4 or 8 words of four int8 to out[at:]
    """
    guess, tree = layout.tree.guess, layout.tree
    first = u32(32 - guess)
    eight, sixteen, top = u32(image.eight // 2), u32(image.sixteen), u32(image.top)
    place = (128 if tree.n == 32 else 64) - layout.bits
    word, shift = (3 if tree.n == 32 else 1) - place // 32, u32(place % 32)
    mask = u32((2 << layout.gain_bits) - 1)
    pulses, long = u32(tree.k << guess), tree.n == 32

    @device
    def field(w0, w1, w2, w3):
        held = w0
        if word == 1:
            held = w1
        elif word == 2:
            held = w2
        elif word == 3:
            held = w3
        return u32(u32(held >> shift) & mask)

    @device
    def node(code, row, tables, pairs):
        entry = pairs[add(add(eight, row), u32(code >> first))]
        shifts = u32(entry >> u64(32))
        one = add(shift_right(code, shifts), u32(entry & u64(0xFFFFFFFF)))
        rest = shift_left(code, sub(u32(0), shifts))
        other = add(shift_right(rest, u32(shifts >> u32(5))), u32(shifts >> u32(10)))
        return tables[one], tables[other]

    @device
    def half(high, low, row, tables, pairs):
        entry = tables[add(add(sixteen, row), u32(high >> first))]
        by, begin = u32(entry >> u32(5)), u32(entry >> u32(11))
        far = (by & u32(32)) != u32(0)
        one = funnel_left(low, high, entry)
        other = funnel_left(u32(0) if far else low, low if far else high, by)
        a, b = node(one, begin, tables, pairs)
        c, d = node(other, sub(row if long else pulses, begin), tables, pairs)
        return a, b, c, d

    @device
    def decode(w0, w1, w2, w3, tables, pairs, out, at):
        if long:
            entry = tables[add(top, u32(w0 >> first))]
            by, begin = u32(entry >> u32(5)), u32(entry >> u32(12))
            far = (by & u32(64)) != u32(0)
            low = u32(0) if far else w3
            middle, high = w3 if far else w2, w2 if far else w1
            out[at], out[at + 1], out[at + 2], out[at + 3] = half(
                funnel_left(w1, w0, entry), funnel_left(w2, w1, entry), begin, tables, pairs
            )
            out[at + 4], out[at + 5], out[at + 6], out[at + 7] = half(
                funnel_left(middle, high, by),
                funnel_left(low, middle, by),
                sub(pulses, begin),
                tables,
                pairs,
            )
        else:
            out[at], out[at + 1], out[at + 2], out[at + 3] = half(w0, w1, u32(0), tables, pairs)

    return field, decode


def make_product(
    layout: Layout, image: Image, batch: int, together: int, direct: bool
) -> Callable[..., None]:
    """Return the kernel that multiplies `batch` columns, a warp `together` rows at a time.

    It takes one tile of columns a block. Either it writes the product, or (not direct) each tile's
    part of it, to be summed by `finish`.
    """
    n, four_bytes = layout.tree.n, layout.tree.n // 4
    whole, has_half, has_byte = layout.shape
    field, decode = make_decoder(layout, image)
    levels, size = u32(image.levels), image.size
    halves_of_x, sums = n // 16, together * batch
    words_held = together * four_bytes

    def product(
        planes, halves, bytes_, tables_in, odd_first, odd, norms, x, largest, out, out_row,
        out_column, rows, groups, tile_groups, tiles, columns, cols,
    ):  # fmt: skip
        tables = cuda.shared.array(0, numba.uint32)
        pairs = cuda.shared.array(0, numba.uint64)
        floats = cuda.shared.array(0, numba.float32)
        scratch = cuda.shared.array(32, numba.float32)
        thread, threads = u32(cuda.threadIdx.x), u32(cuda.blockDim.x)
        tile = u32(u32(cuda.blockIdx.x) % tiles)
        begin = u32(tile * tile_groups)
        held = min(tile_groups, sub(groups, begin))
        i = thread
        while i < u32(size):
            tables[i] = tables_in[i]
            i = add(i, threads)
        plane = u32(u32(held) * u32(four_bytes))
        for b in range(batch):
            up = f32(LARGEST) / largest[b] if largest[b] > f32(0) else f32(0)
            i = thread
            while i < plane:
                # Word i is word i % 4 of group (i / 4) % held of half i / 4 / held.
                group = u32(u32(i >> u32(2)) % held)
                part = u32(u32(i >> u32(2)) // held)
                column = add(
                    u32(add(begin, group) * u32(n)),
                    add(u32(part * u32(16)), u32(u32(i & u32(3)) * u32(4))),
                )
                high, low = u32(0), u32(0)
                for j in range(4):
                    at = add(u32(u32(b) * cols), add(column, u32(j)))
                    value = nearest(x[at] * up)
                    upper = i32(i32(value + i32(128)) >> i32(8))
                    lower = i32(value - i32(upper * i32(256)))
                    high = u32(high | u32(u32(upper & i32(255)) << u32(8 * j)))
                    low = u32(low | u32(u32(lower & i32(255)) << u32(8 * j)))
                place = add(u32(size), add(u32(u32(2 * b) * plane), i))
                tables[place] = high
                tables[add(place, plane)] = low
                i = add(i, threads)
        cuda.syncthreads()
        lane = u32(thread & u32(31))
        warps = u32(threads >> u32(5))
        per_tile = u32(u32(cuda.gridDim.x) // tiles)
        all_groups = u32(rows * groups)
        row = u32(
            add(u32(u32(u32(cuda.blockIdx.x) // tiles) * warps), u32(thread >> u32(5)))
            * u32(together)
        )
        step = u32(u32(per_tile * warps) * u32(together))
        words = cuda.local.array(words_held, numba.uint32)
        total = cuda.local.array(sums, numba.float32)
        while row < rows:
            for s in range(sums):
                total[s] = f32(0)
            group = lane
            while group < held:
                for r in range(together):
                    at = add(u32(min(add(row, u32(r)), sub(rows, u32(1))) * groups), add(begin, group))
                    w0, w1, w2, w3 = load(
                        planes, halves, bytes_, all_groups, at, whole, has_half, has_byte
                    )
                    decode(w0, w1, w2, w3, tables, pairs, words, r * four_bytes)
                    square = i32(0)
                    for w in range(four_bytes):
                        square = dp4a(words[r * four_bytes + w], words[r * four_bytes + w], square)
                    scale = floats[add(levels, field(w0, w1, w2, w3))] * rsqrt(f32(square))
                    for b in range(batch):
                        high, low = i32(0), i32(0)
                        for h in range(halves_of_x):
                            place = add(
                                add(u32(size // 4), u32(u32(2 * b * four_bytes // 4) * held)),
                                add(u32(u32(h) * held), group),
                            )
                            a = four(tables, place)
                            c = four(tables, add(place, u32(u32(four_bytes // 4) * held)))
                            for w in range(4):
                                held_word = words[r * four_bytes + 4 * h + w]
                                high = dp4a(held_word, a[w], high)
                                low = dp4a(held_word, c[w], low)
                        value = i32(i32(high * i32(256)) + low)
                        total[r * batch + b] += scale * f32(value)
                group = add(group, u32(32))
            for r in range(together):
                if add(row, u32(r)) < rows:
                    at = add(row, u32(r))
                    odd_one = add(odd_first[at], lane)
                    while odd_one < odd_first[add(at, u32(1))]:
                        start = u32(odd_one * u32(1 + four_bytes))
                        group = u32(odd[start] & u32(0xFFFFFF))
                        if begin <= group and group < add(begin, held):
                            group = sub(group, begin)
                            square = i32(0)
                            for w in range(four_bytes):
                                word = odd[add(start, u32(1 + w))]
                                square = dp4a(word, word, square)
                            level = floats[add(levels, u32(odd[start] >> u32(24)))]
                            scale = level * rsqrt(f32(square))
                            for b in range(batch):
                                high, low = i32(0), i32(0)
                                for w in range(four_bytes):
                                    word = odd[add(start, u32(1 + w))]
                                    place = add(
                                        add(u32(size), u32(u32(2 * b) * plane)),
                                        add(
                                            u32(
                                                add(u32(u32(w // 4) * held), group) * u32(4)
                                            ),
                                            u32(w % 4),
                                        ),
                                    )
                                    high = dp4a(word, tables[place], high)
                                    low = dp4a(word, tables[add(place, plane)], low)
                                value = i32(i32(high * i32(256)) + low)
                                total[r * batch + b] += scale * f32(value)
                        odd_one = add(odd_one, u32(32))
            for r in range(together):
                at = add(row, u32(r))
                for b in range(batch):
                    value = warp_sum(total[r * batch + b], lane, scratch)
                    if lane == u32(0) and at < rows:
                        if direct and u32(b) < columns:
                            value = value * (norms[at] * (largest[b] / f32(LARGEST)))
                            out[u64(at) * u64(out_row) + u64(b) * u64(out_column)] = value
                        if not direct:
                            out[(u64(tile) * u64(batch) + u64(b)) * u64(rows) + u64(at)] = value
            row = add(row, step)

    return product
