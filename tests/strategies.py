"""Inputs for property tests, valid by construction."""

import numpy as np
from hypothesis import strategies as st

from pvq_ref import count

ORDERS = ("fischer", "opus", "blocked")


@st.composite
def pyramids(draw, max_n=40, max_k=60):
    """Draw (n, k)."""
    return draw(st.integers(1, max_n)), draw(st.integers(0, max_k))


@st.composite
def pyramids_and_indices(draw, max_n=40, max_k=60):
    """Draw (n, k, list of indices below V(n,k)), the ends among them."""
    n, k = draw(pyramids(max_n, max_k))
    last = count(n, k) - 1
    indices = draw(st.lists(st.integers(0, last), max_size=5))
    return n, k, [0, last, *indices]


def coordinates(width=64):
    """Draw numbers that make searches hard: ties, zeros, spikes, near ties, small integers."""
    return st.one_of(
        st.integers(-3, 3).map(float),
        st.sampled_from([0.0, -0.0, 1.0, 0.5, -1.0, 1.0 + 2.0**-23, 1.0 - 2.0**-24, 1e-30, -1e30]),
        st.floats(-100, 100, width=width, allow_subnormal=False),
        st.floats(allow_nan=False, allow_infinity=False, width=width),
    )


@st.composite
def vectors(draw, max_n=8, width=64):
    """Draw a vector of coordinates."""
    values = draw(st.lists(coordinates(width), min_size=1, max_size=max_n))
    return np.array(values, np.float64 if width == 64 else np.float32)
