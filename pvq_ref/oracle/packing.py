"""Fields of bits in bytes (spec section 8.4).

Bit i of the sequence is bit (i mod 8), counted from the least significant, of byte floor(i/8).
"""

from collections.abc import Sequence

from pvq_ref.errors import DomainError, PayloadError, ShapeError
from pvq_ref.oracle.counting import check_natural


def byte_length(bit_count: int) -> int:
    """Return the number of bytes of a sequence of bits."""
    return -(-bit_count // 8)


def pack_mixed(fields: Sequence[int], widths: Sequence[int]) -> bytes:
    """Return fields of various widths packed (section 8.4); DomainError if one doesn't fit.

    >>> pack_mixed([1, 2, 7, 4], [3, 3, 3, 3]).hex()
    'd109'
    """
    if len(fields) != len(widths):
        raise ShapeError(f"widths must have {len(fields)} elements, got {len(widths)}")
    sequence: list[int] = []
    for field, width in zip(fields, widths, strict=True):
        check_natural(field=field, width=width)
        if field >> width:
            raise DomainError(f"field must have at most {width} bits, got {field}")
        sequence += [field >> j & 1 for j in range(width)]
    data = bytearray(byte_length(len(sequence)))
    for i, bit in enumerate(sequence):
        data[i // 8] |= bit << (i % 8)
    return bytes(data)


def pack(fields: Sequence[int], width: int) -> bytes:
    """Return fields of one width packed (section 8.4)."""
    return pack_mixed(fields, [width] * len(fields))


def unpack_mixed(data: bytes, widths: Sequence[int]) -> list[int]:
    """Return the fields, the inverse of `pack_mixed` (section 8.4).

    Raises ShapeError for another number of bytes, PayloadError if padding bits are set.
    """
    if len(data) != byte_length(sum(widths)):
        raise ShapeError(f"data must have {byte_length(sum(widths))} bytes, got {len(data)}")
    sequence = [byte >> j & 1 for byte in data for j in range(8)]
    fields = []
    start = 0
    for width in widths:
        fields.append(sum(bit << j for j, bit in enumerate(sequence[start : start + width])))
        start += width
    if any(sequence[start:]):
        raise PayloadError(f"padding must be zero bits, got byte 0x{data[-1]:02x} at the end")
    return fields


def unpack(data: bytes, width: int, count: int) -> list[int]:
    """Return `count` fields of one width, the inverse of `pack` (section 8.4).

    >>> unpack(bytes.fromhex("d109"), 3, 4)
    [1, 2, 7, 4]
    """
    return unpack_mixed(data, [width] * count)
