"""The oracle's tensors: rounding, row norms, decoding (spec section 8)."""

import math
import random
import struct
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvq_ref.errors import DomainError, MetadataError, NonFiniteError, PayloadError
from pvq_ref.oracle import count, rank, unrank
from pvq_ref.oracle.counting import bits
from pvq_ref.oracle.layout import read_layout
from pvq_ref.oracle.packing import pack, pack_mixed
from pvq_ref.oracle.rotation import inverse, plan
from pvq_ref.oracle.tensor import (
    decode,
    decode_row_norms,
    encode_row_norms,
    round_all,
    round_to,
    row_norm,
)

LAW = settings(deadline=None, derandomize=True, max_examples=200)


def halves(*values):
    return struct.pack(f"<{len(values)}e", *values)


def singles(*values):
    return struct.pack(f"<{len(values)}f", *values)


def described(**changes):
    """The metadata object of a 2 × 5 tensor, groups (3, 1, 1 …): two whole groups and a tail."""
    item = {
        "shape": [2, 5], "dtype": "F32", "n": 2, "k": 2, "tail_k": 3, "order": "fischer",
        "block": 0, "gain_bits": 1, "levels": "lloyd-max", "norm_exponent": 0, "rotation": None,
    }  # fmt: skip
    return {**item, **changes}


VECTORS = [[(1, -1), (0, 2), (-3,)], [(-2, 0), (1, 1), (3,)]]
GAINS = [0, 1, 0, 1, 1, 0]


def parts_of(order="fischer", block=4):
    """Entries of `described()`: the vectors and gains above, norms 2 and 1, levels of quarters."""
    indices = [rank(y, order, block) for row in VECTORS for y in row]
    return {
        "index": pack_mixed(indices, [3, 3, 1] * 2),
        "gain": pack(GAINS, 1),
        "row_norm": halves(2.0, 1.0),
        "levels": singles(0.25, 0.5, 0.75, 1.0),
    }


# Rounding


@LAW
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_rounding_agrees_with_struct(value):
    assert round_to(value, "F64") == struct.pack("<d", value)
    for dtype, code in (("F32", "f"), ("F16", "e")):
        try:
            ref = struct.pack(f"<{code}", value)
        except OverflowError:
            ref = struct.pack(f"<{code}", math.copysign(math.inf, value))
        assert round_to(value, dtype) == ref


@LAW
@given(st.floats(-70000, 70000))
def test_rounding_to_binary16_agrees_with_struct(value):
    try:
        ref = struct.pack("<e", value)
    except OverflowError:
        ref = struct.pack("<e", math.copysign(math.inf, value))
    assert round_to(value, "F16") == ref


@LAW
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_bfloat16_by_adding_half_of_its_last_place(value):
    """A binary32 number rounds by the usual trick on its bits."""
    (word,) = struct.unpack("<I", struct.pack("<f", value))
    ref = (word + 0x7FFF + (word >> 16 & 1)) >> 16
    assert round_to(value, "BF16") == ref.to_bytes(2, "little")


def test_bfloat16_rounds_binary64_once():
    tie = 1 + 2.0**-8
    assert round_to(tie, "BF16").hex() == "803f"  # to even: 1
    assert round_to(tie + 2.0**-40, "BF16").hex() == "813f"  # binary32 on the way would give 1
    assert round_to(1 + 3 * 2.0**-8, "BF16").hex() == "823f"  # to even: 1 + 2^-6


def test_edges_of_rounding():
    assert round_to(-0.0, "BF16").hex() == "0080"
    assert round_to(65519.99, "F16") == halves(65504)
    assert round_to(65520.0, "F16") == halves(math.inf)
    assert round_to(-65520.0, "F16") == halves(-math.inf)
    assert round_to(2.0**-25, "F16") == halves(0)
    assert round_to(3 * 2.0**-25, "F16") == halves(2.0**-23)
    assert round_to(5e-324, "F64") == struct.pack("<d", 5e-324)
    assert round_to(Fraction(1, 3), "F64") == struct.pack("<d", 1 / 3)
    assert round_to(Fraction(-1, 2**2000), "F32") == singles(-0.0)
    assert round_all([1.0, 2.0], "F16") == halves(1, 2)


def test_bad_rounding():
    with pytest.raises(DomainError, match="dtype must be one of"):
        round_to(1.0, "F8")
    with pytest.raises(NonFiniteError, match="value must be finite"):
        round_to(math.nan, "F16")


# 8.2


def test_row_norms_by_hand():
    assert row_norm([3.0, -4.0]) == 5.0
    # 5 = 0.625 · 2^3, so e = 3 - 15, and 5 is stored as 5 · 2^12
    assert encode_row_norms([[3.0, -4.0], [1.0, 0.0]]) == (halves(20480, 4096), -12)
    assert encode_row_norms([[0.0], [-0.0]]) == (halves(0, 0), 0)
    # a power of two: 1 = 0.5 · 2^1
    assert encode_row_norms([[1.0]]) == (halves(2.0**14), -14)


@LAW
@given(st.lists(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=4), min_size=1, max_size=4))
def test_stored_norms_are_near(rows):
    data, exponent = encode_row_norms(rows)
    got = decode_row_norms(data, exponent)
    norms = [row_norm(row) for row in rows]
    top = max(norms)
    for norm, value in zip(norms, got, strict=True):
        # half a unit in the last place of binary16, or half of its least number, 2^-38 of the top
        assert abs(Fraction(norm) - Fraction(value)) <= max(
            Fraction(norm) / 2048, Fraction(top) / 2**38, Fraction(1, 2**1074)
        )


def test_powers_of_two_move_only_the_norm_exponent():
    rows = [[0.3, 0.1], [0.7, -5.0]]
    data, exponent = encode_row_norms(rows)
    scaled = [[value * 2.0**40 for value in row] for row in rows]
    assert encode_row_norms(scaled) == (data, exponent + 40)


def test_the_least_and_greatest_norms():
    # squares below 2^-1075 vanish, and those above 2^1024 are infinite: e is in -551 … 497
    assert encode_row_norms([[2.0**-537]]) == (halves(2.0**14), -551)
    assert encode_row_norms([[2.0**-538]]) == (halves(0), 0)
    assert encode_row_norms([[math.nextafter(2.0**512, 0)]])[1] == 497
    assert decode_row_norms(halves(2.0**14), -551) == [2.0**-537]
    with pytest.raises(NonFiniteError, match="row norms must be finite"):
        encode_row_norms([[1e155, 1.0]])
    with pytest.raises(NonFiniteError, match="row norms must be finite"):
        encode_row_norms([[math.nan]])


# 8.1, 8.3


def test_groups_of_a_row():
    layout = read_layout(described())
    assert (layout.rows, layout.cols, layout.tail) == (2, 5, 1)
    assert layout.row_groups == [(2, 2), (2, 2), (1, 3)]
    assert layout.row_widths == [3, 3, 1]
    assert layout.index_bytes == 2
    assert layout.gain_bytes == 1
    assert layout.entries == {
        "index": ("U8", (2,)),
        "gain": ("U8", (1,)),
        "row_norm": ("F16", (2,)),
        "levels": ("F32", (2, 2)),
    }


def test_more_dimensions_are_rows():
    layout = read_layout(described(shape=[3, 4, 6], tail_k=0, gain_bits=0))
    assert (layout.rows, layout.cols, layout.tail) == (12, 6, 0)
    assert layout.index_bytes == 14  # 12 · 3 · 3 bits
    assert sorted(layout.entries) == ["gain", "index", "levels", "row_norm"]
    assert layout.entries["gain"] == ("U8", (0,))
    assert layout.entries["levels"] == ("F32", (1, 1))


ROTATION = {"seed": "7", "blocks": [{"count": 1, "order": 4, "paley": 0, "q": 0},
                                    {"count": 1, "order": 1, "paley": 0, "q": 0}]}  # fmt: skip


def rotated(**changes):
    block = {"count": 1, "order": 4, "paley": 0, "q": 0, **changes}
    return {"seed": "7", "blocks": [block, ROTATION["blocks"][1]]}


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [5]}, {"shape": [2, 0]}, {"shape": [2, -5]}, {"shape": "2"}, {"shape": [2, 5.0]},
        {"shape": [True, 5]}, {"dtype": "I8"}, {"dtype": None}, {"n": 0}, {"n": 6}, {"n": 2.0},
        {"n": True}, {"k": 0}, {"k": 2**31}, {"tail_k": 0}, {"tail_k": 2**31}, {"n": 5},
        {"shape": [2, 4]}, {"shape": [1, 5000], "n": 4097}, {"order": "rfc"}, {"block": 4},
        {"order": "blocked"}, {"order": "blocked", "block": -1}, {"gain_bits": 9},
        {"gain_bits": -1}, {"levels": "best"}, {"norm_exponent": 1.5}, {"norm_exponent": None},
        {"rotation": {}}, {"rotation": []}, {"rotation": {**ROTATION, "seed": 7}},
        {"rotation": {**ROTATION, "seed": "18446744073709551616"}},
        {"rotation": {**ROTATION, "seed": "07"}}, {"rotation": {**ROTATION, "seed": "-1"}},
        {"rotation": {**ROTATION, "seed": "٣"}}, {"rotation": {**ROTATION, "blocks": {}}},
        {"rotation": {**ROTATION, "blocks": []}}, {"rotation": rotated(count=2)},
        {"rotation": rotated(count=0)}, {"rotation": rotated(order=3)},
        {"rotation": rotated(paley=1)}, {"rotation": rotated(paley=3)}, {"rotation": rotated(q=3)},
        {"rotation": rotated(paley=2, q=5)}, {"rotation": rotated(extra=1)},
        {"unknown": 1},
    ],
)  # fmt: skip
def test_metadata_objects_that_break_the_spec(changes):
    with pytest.raises(MetadataError):
        read_layout(described(**changes))


@pytest.mark.parametrize("key", sorted(described()))
def test_metadata_objects_that_lack_a_key(key):
    item = described()
    del item[key]
    with pytest.raises(MetadataError, match="tensor must have the keys"):
        read_layout(item)


def test_metadata_objects_at_the_limits():
    layout = read_layout(described(shape=[1, 4097], n=4096, k=2**31 - 1, tail_k=2**31 - 1))
    assert layout.index_bytes == -(-(bits(4096, 2**31 - 1) + 1) // 8)
    paley = {"seed": "0", "blocks": [{"count": 1, "order": 4, "paley": 1, "q": 3}]}
    assert read_layout(described(shape=[1, 4], tail_k=0, rotation=paley)).blocks[0].q == 3


# 8.5


def test_decoding_by_hand():
    got = decode(parts_of(), described())
    a, b = 2 * 0.25 / math.sqrt(2), 2 * 0.5 / math.sqrt(4)
    assert got[0] == [a, -a, 0.0, 2 * b, -3 * (2 * 0.75 / math.sqrt(9))]
    a, b = 1 * 0.5 / math.sqrt(4), 1 * 0.5 / math.sqrt(2)
    assert got[1] == [-2 * a, 0.0, b, b, 3 * (1 * 0.75 / math.sqrt(9))]


def test_norm_of_a_group_is_norm_times_level():
    for row, norm in zip(decode(parts_of(), described()), (2, 1), strict=True):
        for i, group in enumerate((row[:2], row[2:4], row[4:])):
            gain = GAINS[i + 3 * (norm == 1)]
            level = ((0.25, 0.5), (0.75, 1.0))[i == 2][gain]
            assert math.isclose(math.hypot(*group), norm * level, rel_tol=1e-15)


@pytest.mark.parametrize(("order", "block"), [("opus", 0), ("blocked", 1), ("blocked", 4)])
def test_orders_decode_the_same(order, block):
    ref = decode(parts_of(), described())
    assert decode(parts_of(order, block or 4), described(order=order, block=block)) == ref


def test_norm_exponent_scales():
    ref = decode(parts_of(), described())
    got = decode(parts_of(), described(norm_exponent=-3))
    assert got == [[value / 8 for value in row] for row in ref]


def test_rotation_is_inverted_row_by_row():
    ref = [inverse(row, 7, plan(5)) for row in decode(parts_of(), described())]
    assert decode(parts_of(), described(rotation=ROTATION)) == ref


def test_operations_come_in_the_stated_order():
    """amplitude / sqrt(b), then times y_i: other orders of the operations round differently."""
    generator = random.Random(3)
    n, k, others = 3, 7, [0, 0]
    item = described(shape=[1, 3], n=n, k=k, tail_k=0, gain_bits=0, norm_exponent=-9)
    for _ in range(100):
        index = generator.randrange(count(n, k))
        norm = generator.randint(1, 2000)
        level = struct.unpack("<f", singles(generator.random()))[0]
        parts = {"index": pack([index], bits(n, k)), "row_norm": halves(norm),
                 "levels": singles(level), "gain": b""}  # fmt: skip
        y = unrank(index, n, k)
        root = math.sqrt(sum(value * value for value in y))
        amplitude = norm * 2.0**-9 * level
        got = decode(parts, item)
        assert got == [[amplitude / root * value for value in y]]
        others[0] += got != [[amplitude * value / root for value in y]]
        others[1] += got != [[amplitude * (1 / root) * value for value in y]]
    assert min(others) > 10


def test_a_zero_norm_gives_zeros():
    parts = {**parts_of(), "row_norm": halves(0, 0)}
    assert decode(parts, described()) == [[0.0] * 5] * 2


@pytest.mark.parametrize(
    ("part", "data"),
    [
        ("index", pack_mixed([0, 0, 0, 0, 0, 0, 1], [3, 3, 1, 3, 3, 1, 1])),  # padding
        ("gain", b"\x40"),  # padding
        ("row_norm", halves(1, -1)),
        ("row_norm", halves(1, math.inf)),
        ("row_norm", halves(math.nan, 1)),
        ("levels", singles(0.5, 0.25, 0, 1)),
        ("levels", singles(0.25, 0.5, 1, 0.75)),
        ("levels", singles(0.25, math.inf, 0, 1)),
        ("levels", singles(math.nan, 0.5, 0, 1)),
    ],
)
def test_payloads_outside_their_range(part, data):
    with pytest.raises(PayloadError):
        decode({**parts_of(), part: data}, described())


def test_an_index_beyond_the_pyramid():
    item = described(shape=[1, 3], n=3, k=2, tail_k=0, gain_bits=0)  # V = 18, five bits
    parts = {"row_norm": halves(1), "levels": singles(1), "gain": b""}
    assert decode({**parts, "index": pack([17], 5)}, item) == [[-1.0, 0.0, 0.0]]
    with pytest.raises(PayloadError, match="index must be below 18, got 18 at group 0"):
        decode({**parts, "index": pack([18], 5)}, item)


def test_the_greatest_fields_stay_finite():
    parts = {**parts_of(), "levels": singles(3e38, 3e38, 3e38, 3e38)}
    got = decode(parts, described(norm_exponent=497))
    assert all(math.isfinite(value) for row in got for value in row)


@pytest.mark.parametrize("exponent", [-552, 498, 10**30])
def test_exponents_that_no_encoder_can_make(exponent):
    with pytest.raises(MetadataError, match="norm_exponent"):
        decode(parts_of(), described(norm_exponent=exponent))


def test_levels_may_be_equal_and_negative():
    parts = {**parts_of(), "levels": singles(-0.5, -0.5, 1, 1)}
    assert decode(parts, described())[0][0] == 2 * -0.5 / math.sqrt(2)


@pytest.mark.parametrize("part", ["index", "gain", "row_norm", "levels"])
def test_parts_of_another_size(part):
    parts = parts_of()
    for data in (parts[part] + b"\0", parts[part][:-1]):
        with pytest.raises(MetadataError, match="entries must have the sizes"):
            decode({**parts, part: data}, described())
    del parts[part]
    with pytest.raises(MetadataError, match="entries must have the sizes"):
        decode(parts, described())
