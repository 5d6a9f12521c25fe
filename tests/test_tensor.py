"""Whole tensors: encoding and decoding against the oracle (spec section 8)."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvq_ref import dequantize, load, quantize
from pvq_ref.errors import DomainError, DTypeError, MetadataError, NonFiniteError, ShapeError
from pvq_ref.metadata import PARTS, object_of
from pvq_ref.oracle import tensor as oracle
from pvq_ref.tensor import DTYPES, round_to
from tests.strategies import ORDERS
from tests.tensors import encoded

SHAPES = [(6, 64), (5, 35), (1, 100), (3, 2, 40), (9, 33), (2, 577), (64, 16), (3, 12), (40, 9)]


def weights(shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def oracle_rows(t):
    """Decode by the oracle, from bytes and metadata alone."""
    return oracle.decode({part: getattr(t, part).tobytes() for part in PARTS}, object_of(t))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_decoding_equals_oracle_bit_for_bit(shape, order):
    t = quantize(weights(shape), bits=4, order=order, seed=3)
    assert dequantize(t).reshape(-1, shape[-1]).tolist() == oracle_rows(t)


@pytest.mark.uncompiled
@pytest.mark.parametrize("rotate", [True, False])
def test_decoding_equals_oracle_on_one_tail(rotate):
    t = quantize(weights((3, 20)), bits=6, group=8, rotate=rotate)
    assert dequantize(t).tolist() == oracle_rows(t)


@pytest.mark.parametrize("block", [1, 2, 5, 40])
def test_block_sizes(block):
    t = quantize(weights((6, 64)), block=block)
    assert t.coding.block == block
    assert dequantize(t).tolist() == oracle_rows(t)


@pytest.mark.parametrize("name", DTYPES)
def test_rounding_to_a_type_equals_oracle(name):
    t = quantize(weights((6, 64)).astype(DTYPES[name]))
    ref = b"".join(oracle.round_to(v, name) for row in oracle_rows(t) for v in row)
    assert dequantize(t, DTYPES[name]).tobytes() == ref
    assert t.dtype == name


def test_float64_is_the_default_result():
    t = quantize(weights((6, 64)).astype(np.float16))
    assert dequantize(t).dtype == np.float64
    assert dequantize(t, "bfloat16").dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("target", [1, 1.58, 2.25, 3, 3.25, 4.125, 6, 8])
@pytest.mark.parametrize("shape", [(64, 64), (31, 100)])
def test_error_falls_as_predicted_and_file_rate_is_kept(target, shape):
    w = weights(shape)
    t = quantize(w, bits=target)
    error = np.sum((w - dequantize(t)) ** 2) / np.sum(w**2)
    assert t.rates.file <= target
    assert error < 1.15 * t.allotment.predicted_error()
    if t.design == "lloyd-max":  # fitted levels may know these few gains by heart
        assert error > 0.85 * t.allotment.predicted_error()


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_change_nothing(threads):
    w = weights((700, 576))
    ref = quantize(w, threads=1)
    got = quantize(w, threads=threads)
    for part in PARTS:
        assert np.array_equal(getattr(ref, part), getattr(got, part))
    assert np.array_equal(dequantize(ref, threads=1), dequantize(ref, threads=threads))


@given(st.integers(-30, 30))
def test_powers_of_two_move_only_the_exponent(exponent):
    w = weights((4, 64))
    ref, got = quantize(w), quantize(np.ldexp(w, exponent))
    for part in PARTS:
        assert np.array_equal(getattr(ref, part), getattr(got, part))
    assert got.norm_exponent == ref.norm_exponent + exponent
    assert np.array_equal(dequantize(got), np.ldexp(dequantize(ref), exponent))


@pytest.mark.parametrize("scale", [1e-320, 1e-160, 1e-30, 1e30, 1e150])
def test_scales_of_any_size(scale):
    w = weights((4, 64)) * scale
    with np.errstate(under="ignore"):
        back = dequantize(quantize(w))
    assert np.all(np.isfinite(back))
    if scale >= 1e-100:  # below, sums of squares underflow and rows may become zero
        assert np.sum(((w - back) / scale) ** 2) < 0.05 * np.sum((w / scale) ** 2)


def test_zero_rows_stay_zero():
    w = weights((6, 64))
    w[[0, 3]] = 0.0
    back = dequantize(quantize(w))
    assert not back[[0, 3]].any()
    assert np.sum((w - back) ** 2) < 0.04 * np.sum(w**2)


def test_zero_tensor():
    assert not dequantize(quantize(np.zeros((4, 64)))).any()


def test_constant_rows():
    w = np.repeat(np.array([[1.0], [-3.0], [0.5]]), 64, axis=1)
    back = dequantize(quantize(w))
    assert np.sum((w - back) ** 2) < 0.05 * np.sum(w**2)


def test_rows_of_very_different_norms():
    w = weights((8, 64)) * 10.0 ** -np.arange(8)[:, None]
    back = dequantize(quantize(w))
    error = np.sum((w - back) ** 2, axis=1) / np.sum(w**2, axis=1)
    assert np.all(error < 0.06)


def test_unrotated_sparse_rows_get_fitted_levels():
    w = weights((64, 256)) * (np.random.default_rng(0).random((64, 256)) < 0.05)
    t = quantize(w, rotate=False)
    assert t.design == "fitted"
    law = quantize(w, rotate=False, design="lloyd-max")
    assert law.design == "lloyd-max"

    def error(one):
        return np.sum((w - dequantize(one)) ** 2)

    assert error(t) < error(law)


def test_rotated_rows_keep_the_levels_of_the_law():
    assert quantize(weights((256, 576))).design == "lloyd-max"


@pytest.mark.parametrize("design", ["quantile", "panter-dite", "panter-dite-centroids", "fitted"])
def test_designs(design):
    t = quantize(weights((64, 64)), design=design)
    assert t.design == design
    assert dequantize(t).tolist() == oracle_rows(t)


@pytest.mark.parametrize("gain_bits", [0, 1, 5, 8])
def test_gain_bits(gain_bits):
    t = quantize(weights((64, 64)), bits=4, gain_bits=gain_bits)
    assert t.levels.shape == (1, 2**gain_bits)
    assert dequantize(t).tolist() == oracle_rows(t)


@pytest.mark.parametrize("gain_bits", [0, 2])
def test_group_of_a_whole_row(gain_bits):
    t = quantize(weights((64, 16)), bits=5, group=16, gain_bits=gain_bits)
    assert dequantize(t).tolist() == oracle_rows(t)


@pytest.mark.parametrize("group", [1, 2, 3, 8, 16, 64, 128, 256])
def test_group_sizes(group):
    w = weights((64, 256))
    t = quantize(w, bits=5, group=group)
    assert t.rates.file <= 5
    assert np.sum((w - dequantize(t)) ** 2) < 0.01 * np.sum(w**2)


def test_nbytes_and_rates():
    w = weights((7, 100))
    t = quantize(w)
    assert t.nbytes == sum(getattr(t, part).nbytes for part in PARTS)
    assert t.rates.file == 8 * t.nbytes / w.size
    assert t.rates.fractional <= t.rates.coded <= t.rates.file
    assert t.shape == (7, 100)


@pytest.mark.uncompiled
@pytest.mark.parametrize("order", ORDERS)
def test_a_small_tensor_without_a_choice_of_pulses(order):
    t = encoded(weights((3, 10)), 4, 5, 2, order=order)
    rows = dequantize(t, np.float32, threads=1)
    assert rows.tobytes() == b"".join(oracle.round_all(row, "F32") for row in oracle_rows(t))
    assert t.nbytes == sum(getattr(t, part).nbytes for part in PARTS)
    assert t.rates.file == 8 * t.nbytes / 30
    assert t.rates.fractional <= t.rates.coded <= t.rates.file
    assert t.allotment.row_index_bits == 2 * 9 + 3  # V(4,5) = 360, V(2,2) = 8


def test_inputs_are_not_changed():
    w = weights((8, 64))
    w.flags.writeable = False
    t = quantize(w)
    dequantize(t)
    assert np.array_equal(w, weights((8, 64)))


def test_memory_layout_changes_nothing():
    w = weights((64, 64))
    assert np.array_equal(quantize(w).index, quantize(np.asfortranarray(w)).index)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(bad):
    w = weights((3000, 64))
    w[2900, 7] = bad
    with pytest.raises(NonFiniteError, match=f"finite, got {bad} in row 2900, column 7"):
        quantize(w)


def test_too_large_to_sum():
    with pytest.raises(NonFiniteError, match="finite sums of squares"):
        quantize(np.full((4, 64), 1e200))


@pytest.mark.uncompiled
def test_a_saved_tensor_comes_back(tmp_path):
    ref = encoded(weights((3, 10)), 4, 5, 2)
    ref.save(tmp_path / "file")
    got = load(tmp_path / "file")["weight"]
    assert object_of(got) == object_of(ref)
    for part in PARTS:
        assert np.array_equal(getattr(got, part), getattr(ref, part))


@pytest.mark.uncompiled
@pytest.mark.parametrize(
    ("shape", "dtype", "error"),
    [
        ((64,), float, ShapeError),
        ((), float, ShapeError),
        ((64, 1), float, DomainError),
        ((64, 0), float, DomainError),
        ((0, 64), float, DomainError),
        ((64, 64), int, DTypeError),
        ((64, 64), complex, DTypeError),
    ],
)
def test_refused_arrays(shape, dtype, error):
    with pytest.raises(error):
        quantize(np.zeros(shape, dtype))


@pytest.mark.uncompiled
@pytest.mark.parametrize(
    ("argument", "value"),
    [("bits", 0.5), ("bits", 9), ("group", 0), ("gain_bits", 9), ("order", "fast"), ("seed", -1),
     ("threads", 0), ("block", 0), ("design", "best")],
)  # fmt: skip
def test_refused_arguments(argument, value):
    with pytest.raises(DomainError, match=f"{argument} must be"):
        quantize(weights((8, 64)), **{argument: value})


@pytest.mark.uncompiled
def test_refused_result_type():
    with pytest.raises(DTypeError, match="type must be float16"):
        dequantize(encoded(weights((2, 4)), 4, 3), int)


@pytest.mark.uncompiled
def test_fields_of_the_wrong_size_are_refused():
    from dataclasses import replace

    t = encoded(weights((2, 4)), 4, 3)
    with pytest.raises(MetadataError, match="index must be of shape"):
        dequantize(replace(t, index=t.index[:-1]))


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_rounding_at_every_border_between_numbers_of_16_bits(name):
    """The nearest number, ties to even: below, at and above the middle of every two neighbours."""
    dtype = DTYPES[name]
    infinity = int(np.array(np.inf, dtype).view(np.uint16))
    bits = np.arange(infinity, dtype=np.uint16)
    numbers = bits.view(dtype).astype(np.float64)
    step = numbers[-1] - numbers[-2]
    middles = (numbers + np.append(numbers[1:], numbers[-1] + step)) / 2
    for sign in (1.0, -1.0):
        top = np.uint16(0 if sign > 0 else 0x8000)
        for x, ref in (
            (numbers, bits),
            (np.nextafter(middles, 0), bits),
            (middles, bits + bits % 2),
            (np.nextafter(middles, np.inf), bits + 1),
        ):
            got = round_to(sign * x, dtype).view(np.uint16)
            assert np.array_equal(got, ref | top)


@pytest.mark.uncompiled
@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_numbers_beside_infinity_are_rounded_as_without_it(name):
    dtype = DTYPES[name]
    middle = 1.0 + float(np.finfo(np.float16).eps if name == "F16" else 2.0**-7) / 2
    x = np.array([1.5, -0.0, middle, np.nextafter(middle, 2.0), -1e-42, 2.0**-130, 1e300])
    got = round_to(np.append(x, [np.inf, -np.inf, np.nan]), dtype)
    assert got.dtype == dtype
    assert np.array_equal(got[:-3].view(np.uint16), round_to(x, dtype).view(np.uint16))
    assert got[-3] == np.inf and got[-2] == -np.inf and np.isnan(got[-1])
