"""Packing: fields of fixed width <-> bytes (spec section 8.4).

Bit i of the sequence is bit (i mod 8), from the least significant, of byte floor(i/8); a field puts
its least significant bit first. Fields follow each other without gaps; zero bits fill the last
byte.
"""

import numpy as np
from numpy.typing import NDArray

from pvq_ref.errors import PayloadError
from pvq_ref.jit import kernel
from pvq_ref.words import Words

Bytes = NDArray[np.uint8]

_ZERO, _ONE, _6, _63 = np.uint64(0), np.uint64(1), np.uint64(6), np.uint64(63)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)

# Place of the first field, fields in a row, and bits from row to row: a row of a tensor holds the
# fields of its whole groups one after the other, and then that of its tail.
Layout = tuple[int, int, int]


@kernel
def _pack(fields: Words, width: int, stream: Words, layout: Layout) -> None:
    """Write fields (groups, words) of `width` bits into zero words, one more than they reach."""
    first, per_row, row_bits = layout
    groups, count = fields.shape
    highest = _ALL >> np.uint64(-width & 63) if width else _ZERO
    for start in range(0, groups, max(1, per_row)):
        bit = np.uint64(first + start // per_row * row_bits)
        for group in range(start, min(start + per_row, groups)):
            place, shift = bit >> _6, bit & _63
            for w in range(count):
                word = fields[group, w] & highest if w == count - 1 else fields[group, w]
                stream[place] |= word << shift
                place += _ONE
                stream[place] |= (word >> _ONE) >> (_63 - shift)
            bit += np.uint64(width)


@kernel
def _unpack(stream: Words, width: int, fields: Words, layout: Layout) -> None:
    """Read fields (groups, words): the inverse of `_pack`."""
    first, per_row, row_bits = layout
    groups, count = fields.shape
    highest = _ALL >> np.uint64(-width & 63) if width else _ZERO
    for start in range(0, groups, max(1, per_row)):
        bit = np.uint64(first + start // per_row * row_bits)
        for group in range(start, min(start + per_row, groups)):
            place, shift = bit >> _6, bit & _63
            for w in range(count):
                low, high = stream[place], stream[place + _ONE]
                fields[group, w] = (low >> shift) | ((high << _ONE) << (_63 - shift))
                place += _ONE
            fields[group, count - 1] &= highest
            bit += np.uint64(width)


def packed_size(total_bits: int) -> int:
    """Return the bytes of a sequence of bits."""
    return -(-total_bits // 8)


def _stream(size: int) -> NDArray[np.uint64]:
    """Return zero words, least significant byte first, for `size` bytes and one word more."""
    return np.zeros(size // 8 + 2, "<u8")


def pack_into(data: Bytes, fields: Words, width: int, layout: Layout) -> None:
    """Set the bits of fields (groups, words) in data, which has zeros there."""
    stream = _stream(data.size).astype(np.uint64, copy=False)
    _pack(fields, width, stream, layout)
    data |= stream.astype("<u8", copy=False).view(np.uint8)[: data.size]


def unpack_from(data: Bytes, width: int, groups: int, layout: Layout) -> Words:
    """Return the fields (groups, words) that `pack_into` set."""
    first, per_row, row_bits = layout
    begin = first // 8
    end = packed_size(first + (groups - 1) // per_row * row_bits + per_row * width)
    part = data[begin:end]
    stream = _stream(part.size)
    stream.view(np.uint8)[: part.size] = part
    fields = np.empty((groups, max(1, -(-width // 64))), np.uint64)
    inside = (first - 8 * begin, per_row, row_bits)
    _unpack(stream.astype(np.uint64, copy=False), width, fields, inside)
    return fields


def check_padding(data: Bytes, total_bits: int, name: str) -> None:
    """Raise PayloadError if a bit after the last field is set."""
    if total_bits % 8 and data[-1] >> (total_bits % 8):
        raise PayloadError(f"{name} must end in zero bits, got a last byte of {int(data[-1])}")
