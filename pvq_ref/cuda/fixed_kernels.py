"""Kernels' function that takes runs of integers of fixed width apart (`fixed.py`)."""

from collections.abc import Callable
from typing import Any

import numba

from pvq_ref.cuda.fixed import FixedLayout
from pvq_ref.cuda.intrinsics import add, device, pick

u32 = numba.uint32
_LOW, _TOP = 0x0F0F0F0F, 0x80808080


def make_fixed_decode(layout: FixedLayout) -> Callable[..., Any]:
    """Return the device function decode(held, tables, out) of `decode_kernels.make_decoder`."""
    count, width = layout.together, layout.width
    # To a byte without a sign: half the range is 128 there.
    more = u32((128 - (1 << (width - 1))) * 0x01010101)

    @device
    def nibbles(held, r, out):
        for i in range(2):
            word = held[4 * r + i]
            out[4 * r + 2 * i] = u32(word & u32(_LOW))
            out[4 * r + 2 * i + 1] = u32(u32(word >> u32(4)) & u32(_LOW))

    @device
    def fifth_bits(held, r, out):
        twice = pick(held[4 * r + 2], u32(0), u32(0x3322))
        high = u32(u32(twice >> u32(4)) & u32(0x0F000F00))
        bits = u32(u32(twice & u32(0x000F000F)) | high)  # four in each byte
        for i in range(4):
            moved = u32(bits << u32(4 - i))
            out[4 * r + i] = u32(out[4 * r + i] | u32(moved & u32(0x10101010)))

    @device
    def sixes(held, r, out):
        last = u32(0)
        for i in range(3):
            word = held[4 * r + i]
            out[4 * r + i] = u32(word & u32(0x3F3F3F3F))
            moved = u32(word >> u32(6 - 2 * i))
            last = u32(last | u32(moved & u32(0x03030303 << (2 * i))))
        out[4 * r + 3] = last

    @device
    def decode(held, tables, out):
        for r in range(count):
            if width == 6:
                sixes(held, r, out)
            else:
                nibbles(held, r, out)
                if width == 5:
                    fifth_bits(held, r, out)
        for w in range(4 * count):
            out[w] = u32(add(out[w], more) ^ u32(_TOP))

    return decode
