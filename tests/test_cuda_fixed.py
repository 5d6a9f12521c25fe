"""Integers of fixed width: their words, and what kernels make of them."""

from importlib import import_module

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pvq_ref.cuda", reason="needs the extra `cuda`", exc_type=ImportError)
fixed = import_module("pvq_ref.cuda.fixed")
SIMULATED = import_module("pvq_ref.cuda.intrinsics").SIMULATED
Image = import_module("pvq_ref.cuda.coding").Image
make_decoder = import_module("pvq_ref.cuda.decode_kernels").make_decoder


def decoded(whole, half, byte, layout):
    """Return the coordinates (runs, 16) and levels of planes as a kernel's functions have them."""
    field, decode = make_decoder(layout, Image(np.zeros(4, np.uint32), 0, 0, 0, 0))
    runs, together = whole.shape[1], layout.together
    y, fields = np.empty((runs, 16), np.int8), np.empty(runs, np.int64)
    for first in range(0, runs, together):
        some = range(first, min(first + together, runs))
        held, out = np.zeros((together, 4), np.uint32), np.zeros(4 * together, np.uint32)
        for r, i in enumerate(some):
            rest = (int(half[i]) << 16 if half.size else 0) | int(byte[i]) << (
                8 if half.size else 24
            )
            held[r] = [*whole[:, i], *[rest] * (4 - len(whole))]
        decode(held.reshape(-1), None, out)
        for r, i in enumerate(some):
            y[i] = out[4 * r : 4 * r + 4].view(np.int8)
            fields[i] = field(held.reshape(-1), r)
    return y, fields


@st.composite
def groups(draw):
    """A layout, and groups that it holds, with levels."""
    gain_bits = draw(st.integers(0, 7))
    width, group = draw(st.sampled_from(fixed.WIDTHS)), draw(st.sampled_from(fixed.GROUPS))
    layout = fixed.FixedLayout(width, group, gain_bits)
    half, count = 1 << (width - 1), draw(st.integers(1, 5))
    value = st.integers(-half, half - 1)
    y = draw(st.lists(value, min_size=count * group, max_size=count * group))
    level = st.integers(0, (2 << gain_bits) - 1)
    fields = draw(st.lists(level, min_size=count, max_size=count))
    return layout, np.array(y, np.int8).reshape(count, group), np.array(fields, np.uint8)


@pytest.mark.skipif(not SIMULATED, reason="a device's functions can't be called here")
@given(groups())
def test_kernels_get_back_what_was_packed(case):
    layout, y, fields = case
    whole, half, byte = fixed.planes(y, fields, layout)
    runs, (count, has_half, has_byte) = y.size // 16, layout.shape
    assert layout.fits and layout.bits == 32 * count + 16 * has_half + 8 * has_byte
    assert whole.shape == (count, runs)
    assert (len(half), len(byte)) == (has_half * runs, has_byte * runs)
    assert (whole.dtype, half.dtype, byte.dtype) == (np.uint32, np.uint16, np.uint8)
    got, levels = decoded(whole, half, byte, layout)
    assert np.array_equal(got, y.reshape(-1, 16))
    assert np.array_equal(levels, np.repeat(fields, layout.sharing))


@given(st.lists(st.integers(-127, 127), min_size=1, max_size=8))
def test_the_reach_of_a_group_is_the_least_half_range_that_holds_it(values):
    y = np.array([values], np.int8)
    reach = int(fixed.reach(y)[0])
    assert -reach <= min(values) and max(values) < reach
    assert min(values) < -reach + 1 or max(values) >= reach - 1
