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

_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_3, _6, _7, _8 = np.uint64(3), np.uint64(6), np.uint64(7), np.uint64(8)
_63, _64 = np.uint64(63), np.uint64(64)

# Place of the first field, fields in a row, and bits from row to row: a row of a tensor holds the
# fields of its whole groups one after the other, and then that of its tail.
Layout = tuple[int, int, int]


@kernel
def _pack(fields: Words, width: int, data: Bytes, layout: Layout) -> None:
    """Write fields (groups, words) of `width` bits."""
    first, per_row, row_bits = layout
    for group in range(fields.shape[0]):
        bit = np.uint64(first + group // per_row * row_bits + group % per_row * width)
        done = _ZERO
        while done < np.uint64(width):
            word, shift = fields[group, done >> _6], done & _63
            inside = bit & _7
            take = min(_8 - inside, np.uint64(width) - done, _64 - shift)
            piece = (word >> shift) & ((_ONE << take) - _ONE)
            data[bit >> _3] |= np.uint8(piece << inside)
            done += take
            bit += take


@kernel
def _unpack(data: Bytes, width: int, fields: Words, layout: Layout) -> None:
    """Read fields (groups, words): the inverse of `_pack`."""
    first, per_row, row_bits = layout
    for group in range(fields.shape[0]):
        fields[group] = _ZERO
        bit = np.uint64(first + group // per_row * row_bits + group % per_row * width)
        done = _ZERO
        while done < np.uint64(width):
            shift = done & _63
            inside = bit & _7
            take = min(_8 - inside, np.uint64(width) - done, _64 - shift)
            piece = (np.uint64(data[bit >> _3]) >> inside) & ((_ONE << take) - _ONE)
            fields[group, done >> _6] |= piece << shift
            done += take
            bit += take


def packed_size(total_bits: int) -> int:
    """Return the bytes of a sequence of bits."""
    return -(-total_bits // 8)


def pack_into(data: Bytes, fields: Words, width: int, layout: Layout) -> None:
    """Set the bits of fields (groups, words) in data, which has zeros there."""
    _pack(fields, width, data, layout)


def unpack_from(data: Bytes, width: int, groups: int, layout: Layout) -> Words:
    """Return the fields (groups, words) that `pack_into` set."""
    fields = np.empty((groups, max(1, -(-width // 64))), np.uint64)
    _unpack(data, width, fields, layout)
    return fields


def check_padding(data: Bytes, total_bits: int, name: str) -> None:
    """Raise PayloadError if a bit after the last field is set."""
    if total_bits % 8 and data[-1] >> (total_bits % 8):
        raise PayloadError(f"{name} must end in zero bits, got a last byte of {int(data[-1])}")
