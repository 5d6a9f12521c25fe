"""The oracle's bit sequences (spec section 8.4)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvq_ref.errors import DomainError, PayloadError, ShapeError
from pvq_ref.oracle.packing import pack, pack_mixed, unpack, unpack_mixed

LAW = settings(deadline=None, derandomize=True, max_examples=80)
FIELDS = st.lists(
    st.integers(0, 130).flatmap(
        lambda width: st.tuples(st.integers(0, 2**width - 1), st.just(width))
    ),
    max_size=12,
)


def test_example_of_the_spec():
    assert pack([1, 2, 7, 4], 3) == bytes([0xD1, 0x09])
    assert unpack(bytes([0xD1, 0x09]), 3, 4) == [1, 2, 7, 4]


@LAW
@given(FIELDS)
def test_packed_bytes_are_one_number(pairs):
    """The same rule by arithmetic: the sequence is an integer, least significant bit first."""
    total, position = 0, 0
    for field, width in pairs:
        total += field * 2**position
        position += width
    fields, widths = [field for field, _ in pairs], [width for _, width in pairs]
    got = pack_mixed(fields, widths)
    assert got == total.to_bytes((position + 7) // 8, "little")
    assert unpack_mixed(got, widths) == fields


def test_a_width_of_zero_takes_no_bytes():
    assert pack([0, 0, 0], 0) == b""
    assert unpack(b"", 0, 3) == [0, 0, 0]
    assert pack([], 7) == b""


@pytest.mark.parametrize("bit", [12, 13, 14, 15])
def test_padding_bits(bit):
    data = bytearray([0xD1, 0x09])
    data[1] |= 1 << (bit - 8)
    with pytest.raises(PayloadError, match="padding must be zero bits"):
        unpack(bytes(data), 3, 4)


def test_bad_arguments():
    with pytest.raises(DomainError, match="field must have at most 3 bits, got 8"):
        pack([8], 3)
    with pytest.raises(DomainError, match="field must be an integer >= 0, got -1"):
        pack([-1], 3)
    with pytest.raises(ShapeError, match="data must have 2 bytes, got 3"):
        unpack(bytes(3), 3, 4)
    with pytest.raises(ShapeError, match="widths must have 1 elements, got 2"):
        pack_mixed([1], [1, 1])
