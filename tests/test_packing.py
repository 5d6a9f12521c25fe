"""Packing against the oracle (spec section 8.4)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvq_ref import words
from pvq_ref.errors import PayloadError
from pvq_ref.oracle import packing as oracle
from pvq_ref.packing import check_padding, pack_into, packed_size, unpack_from

pytestmark = pytest.mark.uncompiled


def pack(fields, width, layout=None):
    layout = layout or (0, 1, width)
    rows, per_row = -(-len(fields) // layout[1]), layout[1]
    data = np.zeros(packed_size(layout[0] + rows * max(layout[2], per_row * width)), np.uint8)
    pack_into(data, words.from_integers(fields, max(1, -(-width // 64))), width, layout)
    return data


@given(st.data(), st.integers(0, 200))
def test_equals_oracle_and_unpack_is_its_inverse(data, width):
    fields = data.draw(st.lists(st.integers(0, 2**width - 1), min_size=1, max_size=9))
    got = pack(fields, width)
    assert got.tobytes() == oracle.pack(fields, width)
    back = unpack_from(got, width, len(fields), (0, 1, width))
    assert [words.to_integer(row) for row in back] == fields


@given(st.data(), st.integers(1, 70), st.integers(1, 70))
def test_two_kinds_of_fields_in_a_row(data, width, tail):
    """Rows of two whole groups and a tail, packed kind by kind, equal one sequence."""
    rows = data.draw(st.integers(1, 5))
    limits = [2**width - 1, 2**width - 1, 2**tail - 1]
    fields = [data.draw(st.integers(0, limit)) for _ in range(rows) for limit in limits]
    got = np.zeros(packed_size(rows * (2 * width + tail)), np.uint8)
    row_bits = 2 * width + tail
    whole = [field for i, field in enumerate(fields) if i % 3 < 2]
    pack_into(got, words.from_integers(whole, -(-width // 64)), width, (0, 2, row_bits))
    pack_into(
        got, words.from_integers(fields[2::3], -(-tail // 64)), tail, (2 * width, 1, row_bits)
    )
    assert got.tobytes() == oracle.pack_mixed(fields, [width, width, tail] * rows)
    back = unpack_from(got, tail, rows, (2 * width, 1, row_bits))
    assert [words.to_integer(row) for row in back] == fields[2::3]


def test_example_of_the_spec():
    assert pack([1, 2, 7, 4], 3).tobytes() == bytes([0xD1, 0x09])


def test_fields_without_bits_take_no_space():
    assert pack([0, 0, 0], 0).size == 0
    assert unpack_from(np.zeros(0, np.uint8), 0, 3, (0, 1, 0)).tolist() == [[0], [0], [0]]


def test_padding_must_be_zero():
    check_padding(np.array([0xFF, 0x0F], np.uint8), 12, "index")
    check_padding(np.array([0xFF, 0xFF], np.uint8), 16, "index")
    check_padding(np.zeros(0, np.uint8), 0, "index")
    with pytest.raises(PayloadError, match="index must end in zero bits"):
        check_padding(np.array([0xFF, 0x10], np.uint8), 12, "index")
