"""Kernels that decode the tree code and multiply (docs/gpu.md)."""

from collections.abc import Callable
from typing import Any

import numba
from numba import cuda

from pvq_ref.cuda.coding import Image
from pvq_ref.cuda.decode_kernels import RAW, make_decoder, make_read, make_squares
from pvq_ref.cuda.intrinsics import (
    SIMULATED,
    add,
    copy_four,
    device,
    dp4a,
    entry,
    four,
    in_order,
    let_next_start,
    meet_at,
    put_four,
    rsqrt,
    sub,
    wait_for_copies,
    wait_for_last,
)
from pvq_ref.cuda.layout import Layout
from pvq_ref.cuda.multiply_kernels import ZEROS, is_shared_out, make_multiply
from pvq_ref.cuda.rotation_kernels import LARGEST, packed_place

u32, u64, i32, f32 = numba.uint32, numba.uint64, numba.int32, numba.float32
MOST_COLUMNS = 16


def make_copy(compute_8: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the device functions that copy words to shared memory, while a kernel goes on.

    start(source, target, begin, size, at, i, threads): start to copy source[begin : begin + size]
    to target[at:], the i-th thread of so many; all but these are multiples of four. wait(): for all
    that the calling thread has started. Before compute capability 8 a copy is done when `start`
    returns.
    """

    @device
    def start(source, target, begin, size, at, i, threads):
        fours, first, place = u32(size >> u32(2)), u32(begin >> u32(2)), u32(at >> u32(2))
        while i < fours:
            if compute_8:
                copy_four(target, add(place, i), source, add(first, i))
            else:
                put_four(target, add(place, i), four(source, add(first, i)))
            i = add(i, threads)

    @device
    def wait():
        if compute_8:
            wait_for_copies()

    return start, wait


@device
def meet(slice_, row_blocks, is_busy):
    """Wait for the other warps of a slice; in the simulator, of the block."""
    if SIMULATED:
        cuda.syncthreads()
    elif row_blocks == u32(1):
        in_order()
    elif is_busy:  # at most 8 slices have several warps
        meet_at(add(slice_, u32(1)), u32(row_blocks << u32(5)))


@device
def next_entries(tables, counter, lane):
    """Return the first of the next 32 numbers, counted for the block, for this warp to share out.

    In the simulator a thread gets a number of its own.
    """
    if SIMULATED:
        return u32(cuda.atomic.add(tables, counter, u32(1)))
    first = i32(0)
    if lane == u32(0):
        first = i32(cuda.atomic.add(tables, counter, u32(32)))
    return u32(cuda.shfl_sync(0xFFFFFFFF, first, 0))


def edge_words(rows: int) -> int:
    """Return the words of shared memory for what a block of so many rows keeps of them."""
    return -(-(2 * rows + 2 + MOST_COLUMNS) // 4) * 4


def make_product(
    layout: Layout,
    image: Image,
    batch: int,
    direct: bool,
    overlap: bool,
    compute_8: bool,
) -> Callable[..., None]:
    """Return the kernel that multiplies `batch` columns.

    Four lanes have a row, and the runs of a quad. A lane has several rows, 8 apart, so that a
    warp reads activations once for all of them (`Layout`). A block has `row_blocks` times these
    rows, and `slices` warps for each, which share out the quads of a row; their sums are added in
    order at the end. A slice's warps have their own part of shared memory for activations; these
    come in tiles of `part` quads, and while one is multiplied, the next one is copied. Only these
    warps meet there, so that others go on. While runs are multiplied, the next ones are looked
    up, and the words after them are on their way. Either the product is written, or (not direct)
    the sums, (batch, rows), for `finish`.
    """
    four_bytes, sixteens = layout.n // 4, layout.n // 16
    together, block_rows = layout.together, layout.rows
    fetch, arrange = make_read(layout)
    field, decode = make_decoder(layout, image)
    squares = make_squares(layout, fetch, arrange, decode)
    begin_lane, multiply = make_multiply(batch, together, sixteens, image.size, compute_8)
    start_copy, wait_for_own_copies = make_copy(compute_8)
    levels, size = u32(image.levels), image.size
    shared_out = is_shared_out(batch, compute_8)
    columns_held, pieces_held = (batch // 4, 1) if shared_out else (batch, 4)  # by a lane; of a row
    words_out, words_in, sums = together * four_bytes, 4 * together, together * columns_held

    @device
    def scale(words, held, planes, halves, bytes_, plane_words, at, tables, floats, scales):
        square = cuda.local.array(together, numba.int32)
        squares(words, planes, halves, bytes_, plane_words, at, tables, square)
        for r in range(together):
            scales[r] = entry(floats, field(held, r), levels) * rsqrt(f32(square[r]))

    @device
    def copy_tile(packed, tables, begin, held, part, at, packed_step, i, threads):
        """Start to copy `held` quads of activations from quad `begin` on to tables[at:].

        A column has room for `part` quads.
        """
        for b in range(batch):
            start = add(u32(u32(b) * packed_step), u32(begin * u32(8 * four_bytes)))
            target = add(at, u32(u32(u32(b) * part) * u32(8 * four_bytes)))
            start_copy(packed, tables, start, u32(held * u32(8 * four_bytes)), target, i, threads)

    @device
    def read_odd(odd, i, level_table, words):
        """Read a run that is kept apart; return its scale, and the place of its first word."""
        start = u32(i * u32(2 + four_bytes))
        square = odd[add(start, u32(1))]
        for w in range(four_bytes):
            words[w] = odd[add(start, u32(2 + w))]
        run, level = u32(odd[start] & u32(0xFFFFFF)), level_table[u32(odd[start] >> u32(24))]
        return level * rsqrt(f32(square)), u32(run * u32(four_bytes))

    @device
    def odd_product(words, scale_, first, packed, packed_step, b):
        """Return its product with a column."""
        upper, lower = i32(0), i32(0)
        for h in range(sixteens):
            place = packed_place(add(first, u32(4 * h)), u32(sixteens))
            place = u32(add(u32(b * packed_step), place) >> u32(2))
            x, other = four(packed, place), four(packed, add(place, u32(4)))
            for w in range(4):
                upper = dp4a(words[4 * h + w], x[w], upper)
                lower = dp4a(words[4 * h + w], other[w], lower)
        return scale_ * f32(i32(i32(upper * i32(256)) + lower))

    def product(
        planes, halves, bytes_, tables_in, level_table, odd_first, odd, norms, packed, largest, out,
        out_row, out_column, rows, quads, part, slices, row_blocks, columns, packed_step,
        edges, odd_place, buffers,
    ):  # fmt: skip
        tables = cuda.shared.array(0, numba.uint32)
        floats = cuda.shared.array(0, numba.float32)
        thread, threads = u32(cuda.threadIdx.x), u32(cuda.blockDim.x)
        if overlap:
            let_next_start()
        start_copy(tables_in, tables, u32(0), u32(size), u32(0), thread, threads)
        if thread < u32(ZEROS):
            tables[add(u32(size), thread)] = u32(0)
        # What the end needs of the block's rows: where their runs that are kept apart begin, norms,
        # scales of columns; and how many such runs are done.
        held_rows = u32(row_blocks * u32(block_rows))
        first_row = u32(u32(cuda.blockIdx.x) * held_rows)
        last_row = min(add(first_row, held_rows), rows)
        norms_at = add(edges, add(held_rows, u32(1)))
        scales_at = add(norms_at, held_rows)
        counter = add(scales_at, u32(batch))
        i = thread
        while i <= held_rows:
            row = min(add(first_row, i), rows)
            tables[add(edges, i)] = odd_first[row]
            if row < last_row:
                floats[add(norms_at, i)] = norms[row]
            i = add(i, threads)
        if thread == u32(0):
            tables[counter] = u32(0)
        lane, warp = u32(thread & u32(31)), u32(thread >> u32(5))
        # Warps of one slice, which wait for each other, are on different schedulers.
        slice_, block = u32(warp // row_blocks), u32(warp % row_blocks)
        is_busy = slice_ < slices
        row_block = add(u32(u32(cuda.blockIdx.x) * row_blocks), block)
        is_used = is_busy and u32(row_block * u32(block_rows)) < rows
        all_blocks = u32(add(rows, u32(block_rows - 1)) // u32(block_rows))
        plane_words = u32(all_blocks * u32(quads * u32(32 * together)))
        place = add(u32(min(row_block, sub(all_blocks, u32(1))) * u32(quads * u32(32))), lane)
        own_lane = begin_lane(lane)
        total = cuda.local.array(sums, numba.float32)
        for s in range(sums):
            total[s] = f32(0)
        now = cuda.local.array(words_out, numba.uint32)
        then = cuda.local.array(words_out, numba.uint32)
        held_words = cuda.local.array(words_in, numba.uint32)
        coming = cuda.local.array(RAW, numba.uint32)
        scales = cuda.local.array(together, numba.float32)
        next_scales = cuda.local.array(together, numba.float32)
        # The quads of this warp, and where its slice's activations stand, in units of 32 words.
        each, last = u32(add(quads, sub(slices, u32(1))) // slices), sub(quads, u32(1))
        quad = u32(slice_ * each)
        end = min(add(quad, each), quads)
        tile = u32(u32(part * u32(sixteens)) * u32(batch))
        first_tile = u32(slice_ * u32(tile * buffers))
        region = add(u32(size + ZEROS), u32(first_tile << u32(5)))
        copier, copiers = add(u32(block << u32(5)), lane), u32(row_blocks << u32(5))
        at = add(place, u32(u32(min(quad, last)) << u32(5)))
        fetch(planes, halves, bytes_, plane_words, at, coming)
        arrange(coming, held_words)
        next_at = add(place, u32(u32(min(add(quad, u32(1)), last)) << u32(5)))
        fetch(planes, halves, bytes_, plane_words, next_at, coming)
        wait_for_own_copies()
        cuda.syncthreads()
        decode(held_words, tables, now)
        scale(now, held_words, planes, halves, bytes_, plane_words, at, tables, floats, scales)
        if overlap:
            wait_for_last()
        if thread < u32(batch):
            floats[add(scales_at, thread)] = largest[thread] / f32(LARGEST)
        held, buffer = u32(0), u32(0)
        if is_busy and quad < end:
            held = min(part, sub(end, quad))
            copy_tile(packed, tables, quad, held, part, region, packed_step, copier, copiers)
        for _ in range(u32(add(each, sub(part, u32(1))) // part)):
            wait_for_own_copies()
            meet(slice_, row_blocks, is_busy)
            begin, follow = buffer, u32(0)
            stop = add(quad, held)
            if is_busy and stop < end:
                follow = min(part, sub(end, stop))
                buffer = sub(tile, buffer)
                at = add(region, u32(buffer << u32(5)))
                copy_tile(packed, tables, stop, follow, part, at, packed_step, copier, copiers)
            which = add(first_tile, begin)
            while is_used and quad < stop:
                arrange(coming, held_words)
                at = next_at
                next_at = add(place, u32(u32(min(add(quad, u32(2)), last)) << u32(5)))
                fetch(planes, halves, bytes_, plane_words, next_at, coming)
                in_order()
                decode(held_words, tables, then)
                multiply(now, scales, tables, own_lane, which, part, total)
                scale(
                    then, held_words, planes, halves, bytes_, plane_words, at, tables, floats,
                    next_scales,
                )  # fmt: skip
                for w in range(words_out):
                    now[w] = then[w]
                for r in range(together):
                    scales[r] = next_scales[r]
                quad, which = add(quad, u32(1)), add(which, u32(sixteens))
            quad, held = stop, follow
        # Products of runs that are kept apart, (entry, column), behind all else if there is room,
        # by the warps that are done first.
        odd_begin, odd_end = tables[edges], tables[add(edges, held_rows)]
        odd_words = cuda.local.array(four_bytes, numba.uint32)
        odd_count = sub(odd_end, odd_begin) if odd_place != u32(0) else u32(0)
        begun = next_entries(tables, counter, lane)
        while begun < odd_count:
            i = begun if SIMULATED else add(begun, lane)
            if i < odd_count:
                at = add(odd_begin, i)
                odd_scale, first = read_odd(odd, at, level_table, odd_words)
                slot = add(odd_place, u32(i * u32(batch)))
                for b in range(batch):
                    value = odd_product(odd_words, odd_scale, first, packed, packed_step, u32(b))
                    floats[add(slot, u32(b))] = value
            begun = next_entries(tables, counter, lane)
        cuda.syncthreads()
        # In the place of tables and activations, sums of lanes: (column, slice and lane, row).
        # 8 and 4 spread what lanes write and what they read over the banks.
        row_step, pieces = add(held_rows, u32(8)), u32(slices * u32(pieces_held))
        column_step = add(u32(pieces * row_step), u32(4))
        if is_busy:
            own = u32(lane & u32(3))
            slot = add(u32(block * u32(block_rows)), u32(lane >> u32(2)))
            if shared_out:
                slot = add(slot, add(u32(slice_ * row_step), u32(own * column_step)))
            else:
                slot = add(slot, u32(add(u32(slice_ * u32(4)), own) * row_step))
            for c in range(columns_held):
                column = u32(u32(4 * c if shared_out else c) * column_step)
                for r in range(together):
                    floats[add(add(slot, column), u32(8 * r))] = total[r * columns_held + c]
        cuda.syncthreads()
        i = thread
        while i < u32(sub(last_row, first_row) * u32(batch)):
            row, b = u32(i // u32(batch)), u32(i % u32(batch))
            at = add(first_row, row)
            one, stop = tables[add(edges, row)], tables[add(edges, add(row, u32(1)))]
            factor = floats[add(norms_at, row)] * floats[add(scales_at, b)]
            slot = add(u32(b * column_step), row)
            value = f32(0)
            for _ in range(slices):
                for s in range(pieces_held):
                    value += floats[add(slot, u32(u32(s) * row_step))]
                slot = add(slot, u32(u32(pieces_held) * row_step))
            while one < stop:
                if odd_place != u32(0):
                    value += floats[add(odd_place, add(u32(sub(one, odd_begin) * u32(batch)), b))]
                else:
                    odd_scale, first = read_odd(odd, one, level_table, odd_words)
                    value += odd_product(odd_words, odd_scale, first, packed, packed_step, b)
                one = add(one, u32(1))
            if not direct:
                out[u64(b) * u64(rows) + u64(at)] = value
            elif b < columns:
                out[u64(at) * u64(out_row) + u64(b) * u64(out_column)] = value * factor
            i = add(i, threads)

    return product
