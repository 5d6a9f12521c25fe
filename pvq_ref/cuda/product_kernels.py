"""Kernels that decode the tree code and multiply (docs/gpu.md)."""

from collections.abc import Callable
from typing import Any

import numba
from numba import cuda

from pvq_ref.cuda.coding import Image, Layout, sixteens
from pvq_ref.cuda.intrinsics import (
    add,
    device,
    dp4a,
    four,
    funnel_left,
    nearest,
    put_four,
    rsqrt,
    shift_left,
    shift_right,
    sub,
    wait_for_last,
)

u8, u32, u64 = numba.uint8, numba.uint32, numba.uint64
i32, f32 = numba.int32, numba.float32
LARGEST = 32639  # of 16-bit activations: two signed bytes, the high one up to 127


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


def make_decoder(
    layout: Layout, image: Image, count: int
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the device functions that take the words of `count` groups apart.

    field(held, r) -> number of the level of group r
    decode(held, tables, pairs, out): write 4 or 8 words of four int8 for each group to out
    held has four words a group. Groups go through each look-up together, so that they wait for it
    together.
    """
    guess, tree = layout.tree.guess, layout.tree
    first = u32(32 - guess)
    eight, sixteen, top = u32(image.eight // 2), u32(image.sixteen), u32(image.top)
    place = (128 if tree.n == 32 else 64) - layout.bits
    word, shift = (3 if tree.n == 32 else 1) - place // 32, u32(place % 32)
    mask = u32((2 << layout.gain_bits) - 1)
    pulses, long = u32(tree.k << guess), tree.n == 32
    if long:
        sixteen = u32((image.sixteen - (sixteens(tree)[0] << guess)) & 0xFFFFFFFF)
    halves, eights = count * tree.n // 16, count * tree.n // 8

    @device
    def field(held, r):
        return u32(u32(held[4 * r + word] >> shift) & mask)

    @device
    def split(held, tables, high, low, row):
        for r in range(count):
            row[r] = tables[add(top, u32(held[4 * r] >> first))]
        for r in range(count):
            s = count - 1 - r  # entries are read before their places are written
            entry = row[s]
            w0, w1, w2, w3 = held[4 * s], held[4 * s + 1], held[4 * s + 2], held[4 * s + 3]
            by, begin = u32(entry >> u32(5)), u32(entry >> u32(12))
            far, near = (by & u32(64)) != u32(0), (by & u32(96)) == u32(0)
            last = u32(0) if far else w2 if near else w3
            middle = w3 if far else w1 if near else w2
            start = w2 if far else w0 if near else w1
            high[2 * s + 1], low[2 * s + 1] = (
                funnel_left(middle, start, by), funnel_left(last, middle, by)
            )  # fmt: skip
            high[2 * s], low[2 * s] = funnel_left(w1, w0, entry), funnel_left(w2, w1, entry)
            row[2 * s + 1], row[2 * s] = sub(pulses, begin), begin

    @device
    def decode(held, tables, pairs, out):
        high = cuda.local.array(halves, numba.uint32)
        low = cuda.local.array(halves, numba.uint32)
        row = cuda.local.array(halves, numba.uint32)
        if long:
            split(held, tables, high, low, row)
        else:
            for r in range(count):
                high[r], low[r], row[r] = held[4 * r], held[4 * r + 1], u32(0)
        entry = cuda.local.array(halves, numba.uint32)
        for h in range(halves):
            entry[h] = tables[add(add(sixteen, row[h]), u32(high[h] >> first))]
        nodes = cuda.local.array(eights, numba.uint64)
        code = cuda.local.array(eights, numba.uint32)
        for h in range(halves):
            by, begin = u32(entry[h] >> u32(5)), u32(entry[h] >> u32(11))
            far = (by & u32(32)) != u32(0)
            one = funnel_left(low[h], high[h], entry[h])
            other = funnel_left(u32(0) if far else low[h], low[h] if far else high[h], by)
            rest = sub(row[h] if long else pulses, begin)
            nodes[2 * h] = pairs[add(add(eight, begin), u32(one >> first))]
            nodes[2 * h + 1] = pairs[add(add(eight, rest), u32(other >> first))]
            code[2 * h], code[2 * h + 1] = one, other
        for m in range(eights):
            shifts = u32(nodes[m] >> u64(32))
            one = add(shift_right(code[m], shifts), u32(nodes[m] & u64(0xFFFFFFFF)))
            rest = shift_left(code[m], sub(u32(0), shifts))
            other = add(shift_right(rest, u32(shifts >> u32(5))), u32(shifts >> u32(10)))
            out[2 * m], out[2 * m + 1] = tables[one], tables[other]

    return field, decode


@device
def copy_fours(source, target, begin, size, at):
    """Copy words four at a time to target[at:], from source[begin:]; all are multiples of four."""
    i, threads = u32(cuda.threadIdx.x), u32(cuda.blockDim.x)
    fours, start, place = u32(size >> u32(2)), u32(begin >> u32(2)), u32(at >> u32(2))
    far = u32(threads * u32(3))
    while add(i, far) < fours:  # four loads are on their way at once
        a = four(source, add(start, i))
        b = four(source, add(start, add(i, threads)))
        c = four(source, add(start, add(i, u32(threads * u32(2)))))
        d = four(source, add(start, add(i, far)))
        put_four(target, add(place, i), a)
        put_four(target, add(place, add(i, threads)), b)
        put_four(target, add(place, add(i, u32(threads * u32(2)))), c)
        put_four(target, add(place, add(i, far)), d)
        i = add(i, u32(threads * u32(4)))
    while i < fours:
        put_four(target, add(place, i), four(source, add(start, i)))
        i = add(i, threads)


def make_product(
    layout: Layout, image: Image, batch: int, together: int, direct: bool, overlap: bool
) -> Callable[..., None]:
    """Return the kernel that multiplies `batch` columns.

    A lane has `together` rows, 32 apart, so that a warp reads activations once for all of them. A
    block has `row_blocks` times 32 · together rows, and `slices` warps for each of these, which
    share out the groups of a row; their sums are added in order at the end. Activations go
    through shared memory a tile of groups at a time. While groups are multiplied, the next ones are
    looked up, and the words after them are on their way. Either the product is written, or (not
    direct) the sums, (batch, rows), for `finish`.
    """
    four_bytes, quarters = layout.tree.n // 4, layout.tree.n // 16
    whole, has_half, has_byte = layout.shape
    field, decode = make_decoder(layout, image, together)
    levels, size = u32(image.levels), image.size
    words_out, words_in, sums = together * four_bytes, 4 * together, together * batch

    @device
    def read(planes, halves, bytes_, all_groups, bases, group, words):
        for r in range(together):
            at = add(bases[r], u32(group << u32(5)))
            words[4 * r], words[4 * r + 1], words[4 * r + 2], words[4 * r + 3] = load(
                planes, halves, bytes_, all_groups, at, whole, has_half, has_byte
            )

    @device
    def scale(words, held, floats, scales):
        for r in range(together):
            square = i32(0)
            for w in range(four_bytes):
                word = words[r * four_bytes + w]
                square = dp4a(word, word, square)
            scales[r] = floats[add(levels, field(held, r))] * rsqrt(f32(square))

    @device
    def multiply(words, scales, tables, group, held, total):
        for b in range(batch):
            high = cuda.local.array(together, numba.int32)
            low = cuda.local.array(together, numba.int32)
            for r in range(together):
                high[r], low[r] = i32(0), i32(0)
            place = add(u32(size // 4), u32(add(u32(u32(2 * b) * held), group) * u32(quarters)))
            for q in range(quarters):
                a = four(tables, add(place, u32(q)))
                c = four(tables, add(add(place, u32(q)), u32(held * u32(quarters))))
                for r in range(together):
                    for w in range(4):
                        word = words[r * four_bytes + 4 * q + w]
                        high[r] = dp4a(word, a[w], high[r])
                        low[r] = dp4a(word, c[w], low[r])
            for r in range(together):
                value = i32(i32(high[r] * i32(256)) + low[r])
                total[r * batch + b] += scales[r] * f32(value)

    def product(
        planes, halves, bytes_, tables_in, odd_first, odd, norms, packed, largest, out, out_row,
        out_column, rows, groups, tile_groups, slices, row_blocks, columns, packed_step,
    ):  # fmt: skip
        tables = cuda.shared.array(0, numba.uint32)
        pairs = cuda.shared.array(0, numba.uint64)
        floats = cuda.shared.array(0, numba.float32)
        thread, threads = u32(cuda.threadIdx.x), u32(cuda.blockDim.x)
        copy_fours(tables_in, tables, u32(0), u32(size), u32(0))
        lane, warp = u32(thread & u32(31)), u32(thread >> u32(5))
        slice_, block = u32(warp % slices), u32(warp // slices)
        row_block = u32(add(u32(u32(cuda.blockIdx.x) * row_blocks), block) * u32(together))
        is_used = block < row_blocks and u32(row_block << u32(5)) < rows
        last_block = u32(sub(rows, u32(1)) >> u32(5))
        all_groups = u32(add(last_block, u32(1)) * u32(groups * u32(32)))
        total = cuda.local.array(sums, numba.float32)
        for s in range(sums):
            total[s] = f32(0)
        now = cuda.local.array(words_out, numba.uint32)
        then = cuda.local.array(words_out, numba.uint32)
        held_words = cuda.local.array(words_in, numba.uint32)
        coming = cuda.local.array(words_in, numba.uint32)
        scales = cuda.local.array(together, numba.float32)
        next_scales = cuda.local.array(together, numba.float32)
        bases = cuda.local.array(together, numba.uint32)
        if overlap:
            wait_for_last()
        begin = u32(0)
        while begin < groups:
            held = min(tile_groups, sub(groups, begin))
            cuda.syncthreads()
            plane = u32(held * u32(four_bytes))
            for p in range(2 * batch):
                start = add(u32(u32(p) * packed_step), u32(begin * u32(four_bytes)))
                copy_fours(packed, tables, start, plane, add(u32(size), u32(u32(p) * plane)))
            cuda.syncthreads()
            share = u32(u32(add(held, sub(slices, u32(1)))) // slices)
            group = u32(slice_ * share)
            stop = min(add(group, share), held)
            if is_used and group < stop:
                last = sub(stop, u32(1))
                for r in range(together):
                    at = min(add(row_block, u32(r)), last_block)
                    bases[r] = add(u32(add(u32(at * groups), begin) << u32(5)), lane)
                read(planes, halves, bytes_, all_groups, bases, group, held_words)
                following = min(add(group, u32(1)), last)
                read(planes, halves, bytes_, all_groups, bases, following, coming)
                decode(held_words, tables, pairs, now)
                scale(now, held_words, floats, scales)
                while group < stop:
                    for w in range(words_in):
                        held_words[w] = coming[w]
                    following = min(add(group, u32(2)), last)
                    read(planes, halves, bytes_, all_groups, bases, following, coming)
                    decode(held_words, tables, pairs, then)
                    multiply(now, scales, tables, group, held, total)
                    scale(then, held_words, floats, next_scales)
                    for w in range(words_out):
                        now[w] = then[w]
                    for r in range(together):
                        scales[r] = next_scales[r]
                    group = add(group, u32(1))
            begin = add(begin, tile_groups)
        # What follows stands where activations were: sums of warps (slice, row of the block), then
        # products of groups without a code, a thread each.
        held_rows = u32(row_blocks * u32(32 * together))
        first_row = u32(u32(cuda.blockIdx.x) * held_rows)
        last_row = min(add(first_row, held_rows), rows)
        odd_begin, odd_end = odd_first[first_row], odd_first[last_row]
        at = add(first_row, thread)
        is_mine = thread < held_rows and at < rows
        mine_begin, mine_end = u32(0), u32(0)
        if is_mine:
            mine_begin, mine_end = odd_first[at], odd_first[add(at, u32(1))]
        values = add(u32(size), u32(slices * held_rows))
        for b in range(batch):
            cuda.syncthreads()
            if block < row_blocks:
                place = add(u32(slice_ * held_rows), add(u32(block * u32(32 * together)), lane))
                for r in range(together):
                    floats[add(add(u32(size), place), u32(32 * r))] = total[r * batch + b]
            cuda.syncthreads()
            value = f32(0)
            if is_mine:
                for s in range(slices):
                    value += floats[add(u32(size), add(u32(u32(s) * held_rows), thread))]
            begin = odd_begin
            while begin < odd_end:
                one = add(begin, thread)
                if one < odd_end:
                    start = u32(one * u32(1 + four_bytes))
                    place = add(
                        u32(u32(2 * b) * packed_step),
                        u32(u32(odd[start] & u32(0xFFFFFF)) * u32(four_bytes)),
                    )
                    square, high, low = i32(0), i32(0), i32(0)
                    for w in range(four_bytes):
                        word = odd[add(start, u32(1 + w))]
                        square = dp4a(word, word, square)
                        high = dp4a(word, packed[add(place, u32(w))], high)
                        low = dp4a(word, packed[add(add(place, u32(w)), packed_step)], low)
                    level = floats[add(levels, u32(odd[start] >> u32(24)))]
                    product_ = i32(i32(high * i32(256)) + low)
                    floats[add(values, thread)] = level * rsqrt(f32(square)) * f32(product_)
                cuda.syncthreads()
                if is_mine:
                    one = max(mine_begin, begin)
                    while one < min(mine_end, add(begin, threads)):
                        value += floats[add(values, sub(one, begin))]
                        one = add(one, u32(1))
                cuda.syncthreads()
                begin = add(begin, threads)
            if is_mine and u32(b) < columns:
                if direct:
                    value = value * (norms[at] * (largest[b] / f32(LARGEST)))
                    out[u64(at) * u64(out_row) + u64(b) * u64(out_column)] = value
                else:
                    out[u64(b) * u64(rows) + u64(at)] = value

    return product
