"""Kernels' functions that take words of the tree code apart (docs/gpu.md)."""

from collections.abc import Callable
from typing import Any

import numba
from numba import cuda

from pvq_ref.cuda.coding import Image, TreeLayout, sixteens
from pvq_ref.cuda.fixed import FixedLayout
from pvq_ref.cuda.fixed_kernels import make_fixed_decode
from pvq_ref.cuda.intrinsics import (
    SIMULATED,
    add,
    device,
    dp4a,
    entry,
    four,
    funnel_left,
    funnel_right,
    pick,
    shift_left,
    shift_right,
    sub,
    two,
)
from pvq_ref.cuda.layout import Layout
from pvq_ref.cuda.tree import UNIT

u32, i32 = numba.uint32, numba.int32
RAW = 19  # words that `fetch` of `make_read` writes, at most


def make_read(layout: Layout) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the device functions that read the words of a lane's runs.

    fetch(planes, halves, bytes, words of a plane, the lane's place, raw): what memory has, to
    RAW words, which nothing waits for until they're used
    arrange(raw, words): four words a run; those that it doesn't have are anything
    """
    whole, has_half, has_byte = layout.shape
    count, pairs, several = layout.together, 4 * layout.together, 4 * layout.together + 2

    @device
    def fetch(planes, halves, bytes_, plane_words, at, raw):
        for w in range(whole):
            start = add(u32(u32(w) * u32(plane_words // u32(count))), at)
            held = four(planes, start) if count == 4 else two(planes, start)
            for r in range(count):
                raw[4 * r + w] = held[r]
        if has_half and count == 4:
            raw[pairs], raw[pairs + 1] = two(halves, at)
        elif has_half:
            raw[pairs] = halves[at]
        if has_byte:
            raw[several] = u32(bytes_[at])

    @device
    def arrange(raw, words):
        for r in range(count):
            for w in range(whole):
                words[4 * r + w] = raw[4 * r + w]
            rest = u32(0)
            if has_half and has_byte:  # the half's two bytes above the byte
                selector = u32((0x3240 if r % 2 else 0x1040) + (r << 4))
                rest = pick(raw[pairs + r // 2], raw[several], selector)
            elif has_half:
                pair = raw[pairs + r // 2]
                rest = pair if r % 2 else u32(pair << u32(16))
            elif has_byte:
                rest = u32(raw[several] << u32(24 - 8 * r))
            for w in range(whole, 4):
                words[4 * r + w] = rest

    return fetch, arrange


def make_decoder(layout: Layout, image: Image) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the device functions that take the words of a lane's runs apart.

    field(held, r) -> number of the level of run r
    decode(held, tables, out): write 4 or 8 words of four int8 for each run to out
    held has four words a run.
    """
    place = layout.most_bits - layout.bits
    word, shift = layout.most_bits // 32 - 1 - place // 32, u32(place % 32)
    mask = u32((2 << layout.gain_bits) - 1)

    @device
    def field(held, r):
        return u32(u32(held[4 * r + word] >> shift) & mask)

    if isinstance(layout, TreeLayout):
        return field, _make_tree_decode(layout, image)
    assert isinstance(layout, FixedLayout)
    return field, make_fixed_decode(layout)


def make_squares(
    layout: Layout, fetch: Callable[..., Any], arrange: Callable[..., Any],
    decode: Callable[..., Any],
) -> Callable[..., Any]:  # fmt: skip
    """Return the device function that sums up the squares of whole groups.

    squares(words, planes, halves, bytes, words of a plane, the lane's place, tables, out): words
    are those of the lane's runs; all lanes of a warp call it. The simulator, which has no shuffles,
    decodes what other lanes have.
    """
    count, four_bytes, sharing = layout.together, layout.n // 4, layout.sharing
    words_out, words_in = count * four_bytes, 4 * count

    @device
    def add_own(words, out):
        for r in range(count):
            for w in range(four_bytes):
                word = words[r * four_bytes + w]
                out[r] = dp4a(word, word, out[r])

    @device
    def squares(words, planes, halves, bytes_, plane_words, at, tables, out):
        for r in range(count):
            out[r] = i32(0)
        add_own(words, out)
        if SIMULATED:
            for other in range(1, sharing):
                raw = cuda.local.array(RAW, numba.uint32)
                held = cuda.local.array(words_in, numba.uint32)
                others = cuda.local.array(words_out, numba.uint32)
                fetch(planes, halves, bytes_, plane_words, u32(at ^ u32(other)), raw)
                arrange(raw, held)
                decode(held, tables, others)
                add_own(others, out)
        else:
            for by in range(sharing // 2):  # 1 and 2 are half of 2 and of 4
                for r in range(count):
                    out[r] = i32(out[r] + cuda.shfl_xor_sync(0xFFFFFFFF, out[r], 1 << by))

    return squares


def _make_tree_decode(layout: TreeLayout, image: Image) -> Callable[..., Any]:
    """Return `decode` of `make_decoder` for the tree code.

    Groups go through each look-up together, so that they wait for it together.
    """
    guess, tree, count = layout.tree.guess, layout.tree, layout.together
    first = u32(32 - guess)
    eight, sixteen, top = u32(image.eight), u32(image.sixteen), u32(image.top)
    pulses, long = u32(tree.k << guess), tree.n == 32
    last = 64 - tree.bits  # after the code of 16 coordinates
    if long:
        sixteen = u32(image.sixteen - (sixteens(tree)[0] << guess))
    halves, eights = count * tree.n // 16, count * tree.n // 8

    @device
    def split(held, tables, high, low, row):
        for r in range(count):
            row[r] = entry(tables, u32(held[4 * r] >> first), top)
        for r in range(count):
            s = count - 1 - r  # entries are read before their places are written
            node = row[s]
            w0, w1, w2, w3 = held[4 * s], held[4 * s + 1], held[4 * s + 2], held[4 * s + 3]
            by, begin = u32(node >> u32(5)), u32(node >> u32(12))
            far, near = (by & u32(64)) != u32(0), (by & u32(96)) == u32(0)
            last = u32(0) if far else w2 if near else w3
            middle = w3 if far else w1 if near else w2
            start = w2 if far else w0 if near else w1
            high[2 * s + 1], low[2 * s + 1] = (
                funnel_left(middle, start, by), funnel_left(last, middle, by)
            )  # fmt: skip
            high[2 * s], low[2 * s] = funnel_left(w1, w0, node), funnel_left(w2, w1, node)
            row[2 * s + 1], row[2 * s] = sub(pulses, begin), begin

    @device
    def decode(held, tables, out):
        high = cuda.local.array(halves, numba.uint32)
        low = cuda.local.array(halves, numba.uint32)
        row = cuda.local.array(halves, numba.uint32)
        if long:
            split(held, tables, high, low, row)
        else:
            for r in range(count):
                high[r], low[r], row[r] = held[4 * r], held[4 * r + 1], u32(0)
        node = cuda.local.array(halves, numba.uint32)
        for h in range(halves):
            node[h] = entry(tables, add(row[h], u32(high[h] >> first)), sixteen)
        nodes = cuda.local.array(eights, numba.uint32)
        code = cuda.local.array(eights, numba.uint32)
        for h in range(halves):
            by, begin = u32(node[h] >> u32(5)), u32(node[h] >> u32(11))
            one = funnel_left(low[h], high[h], node[h])
            if long:
                far = (by & u32(32)) != u32(0)
                other = funnel_left(u32(0) if far else low[h], low[h] if far else high[h], by)
                rest = sub(row[h], begin)
            else:
                if last < 32:
                    other = funnel_right(low[h], high[h], u32(last))
                else:
                    other = shift_right(high[h], u32(last - 32))
                other = shift_left(other, by)
                rest = sub(pulses, begin)
            nodes[2 * h] = entry(tables, add(begin, u32(one >> first)), eight)
            nodes[2 * h + 1] = entry(tables, add(rest, u32(other >> first)), eight)
            code[2 * h], code[2 * h + 1] = one, other
        for m in range(eights):
            by = u32(nodes[m] >> u32(5))
            inner = shift_left(code[m], nodes[m])
            rest = shift_left(inner, sub(u32(0), by))
            one = add(u32(pick(nodes[m], u32(0), u32(0x4443)) * u32(UNIT)), shift_right(inner, by))
            by = u32(nodes[m] >> u32(10))
            other = add(u32(pick(nodes[m], u32(0), u32(0x4442)) * u32(UNIT)), shift_right(rest, by))
            out[2 * m], out[2 * m + 1] = tables[one], tables[other]

    return decode
