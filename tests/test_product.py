"""Products against decoded matrices, within the derived bound (spec section 10)."""

from math import log2, sqrt

import ml_dtypes
import numpy as np
import pytest

from pvq_ref import dequantize, matmul, quantize
from pvq_ref.errors import DTypeError, ShapeError
from tests.tensors import encoded

U = 2.0**-53


def weights(*shape):
    return np.random.default_rng(shape).standard_normal(shape)


def bound(t, x):
    """Return the bound of matmul's docstring, and the like for the decoded matrix, per row."""
    cols = t.grid.cols
    m = 2.0
    if t.rotation is not None:
        m += max(log2(b.order) + b.base.order for b in t.rotation.blocks)
    rows = np.linalg.norm(dequantize(t), axis=-1)
    factor = cols + m * sqrt(cols) + m + 8
    return 2.1 * factor * U * rows[..., None] * np.linalg.norm(x.reshape(cols, -1), axis=0)


@pytest.mark.parametrize("shape", [(50, 577), (3, 7, 40), (16, 384), (1, 64), (300, 36)])
@pytest.mark.parametrize("rotate", [True, False])
@pytest.mark.parametrize("batch", [(), (1,), (5,)])
def test_equals_the_decoded_product(shape, rotate, batch):
    t = quantize(weights(*shape), rotate=rotate)
    x = weights(shape[-1], *batch)
    got, ref = matmul(t, x), dequantize(t) @ x
    assert got.shape == ref.shape == shape[:-1] + batch
    assert got.dtype == np.float64
    difference = np.abs(got - ref).reshape(*shape[:-1], -1)
    assert np.all(difference <= bound(t, x).reshape(difference.shape))


@pytest.mark.uncompiled
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_the_decoded_product_on_a_small_matrix(batch):
    t = encoded(weights(4, 14), 4, 5, tail_k=3)
    x = weights(14, batch)
    assert np.all(np.abs(matmul(t, x) - dequantize(t) @ x) <= bound(t, x))


def test_threads_change_nothing():
    t = quantize(weights(800, 384))
    x = weights(384, 3)
    assert np.array_equal(matmul(t, x, threads=1), matmul(t, x, threads=3))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
def test_types_of_activations(dtype):
    t = quantize(weights(8, 64))
    x = weights(64).astype(dtype)
    assert np.allclose(matmul(t, x), dequantize(t) @ x.astype(np.float64), atol=1e-12)


def test_activations_are_not_changed():
    x = weights(64)
    x.flags.writeable = False
    matmul(quantize(weights(8, 64)), x)


@pytest.mark.uncompiled
def test_refused():
    t = encoded(weights(2, 4), 4, 3)
    with pytest.raises(ShapeError, match=r"x must be of shape \(4,\) or \(4, batch\), got \(3,\)"):
        matmul(t, np.ones(3))
    with pytest.raises(ShapeError):
        matmul(t, np.ones((4, 2, 2)))
    with pytest.raises(DTypeError, match="x must be floating"):
        matmul(t, np.ones(4, int))
