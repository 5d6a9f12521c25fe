"""Curvature: what errors of weights cost a layer's outputs (spec section 7.1).

Inputs x of a layer have the second moment H = E[x xᵀ], its Hessian. An error E (rows, cols) of the
weights makes the outputs miss by E ||E x||² = tr(E H Eᵀ). Rotated weights see R x, and so R H Rᵀ.
Damping adds to the diagonal. H = A Aᵀ with an upper triangular A turns the cost into ||E A||², to
which a column of E A adds what its own error and those of earlier columns bring: the form that
feedback needs. The factor of GPTQ's texts (Frantar et al. 2023), H⁻¹ = UᵀU, is U = A⁻¹; it is
never formed.
"""

from dataclasses import dataclass
from functools import cached_property
from math import frexp, ldexp

import numpy as np
import scipy  # its parts are imported when they are asked for
from numpy.typing import ArrayLike, NDArray

from pvq_ref.errors import ArgumentError, DomainError, DTypeError, NonFiniteError, ShapeError
from pvq_ref.gain import Floats
from pvq_ref.jit import kernel
from pvq_ref.rotation import Rotation

DAMPING = 0.01
MAX_DAMPING = 1e6
_STRIP = 128  # columns of a product at a time
_TILE = 32  # rows and columns that are looked at together
_ASYMMETRY = 2.0**-13  # of the largest element: Hessians are binary32 sums, not always symmetrized


@kernel
def _symmetrize(h: Floats) -> tuple[float, int, int]:
    """Replace h by the mean of it and its transpose; return the largest difference and its place.

    In tiles, since columns are far apart in memory.
    """
    n = h.shape[0]
    largest, row, column = 0.0, 0, 0
    for top in range(0, n, _TILE):
        for left in range(top, n, _TILE):
            for i in range(top, min(top + _TILE, n)):
                for j in range(max(left, i + 1), min(left + _TILE, n)):
                    difference = abs(h[i, j] - h[j, i])
                    if difference > largest:
                        largest, row, column = difference, i, j
                    h[i, j] = h[j, i] = (h[i, j] + h[j, i]) / 2.0
    return largest, row, column


def _scaled(x: Floats, exponent: int) -> Floats:
    """Return x · 2^exponent."""
    if abs(exponent) < 1000:
        return x * ldexp(1.0, exponent)  # the same as ldexp, in less time
    return np.asarray(np.ldexp(x, exponent))


@dataclass(frozen=True)
class Curvature:
    """The damped second moment of rotated inputs, unit · hessian, and the factor of hessian."""

    hessian: Floats  # (cols, cols)
    factor: Floats  # A (cols, cols), upper triangular, columns contiguous: hessian = A Aᵀ
    added: float  # to the diagonal of hessian, as damping
    unit: float  # a power of two

    def loss(self, error: Floats) -> float:
        """Return tr(E H Eᵀ) of errors (rows, cols) with the H that isn't damped, in its unit."""
        total = -self.added * float(np.vdot(error, error))
        for first in range(0, error.shape[1], _STRIP):  # A is zero below its diagonal
            stop = min(first + _STRIP, error.shape[1])
            product = error[:, :stop] @ self.factor[:stop, first:stop]
            total += float(np.vdot(product, product))
        return total

    @cached_property
    def _single(self) -> NDArray[np.float32]:
        return np.asfortranarray(self.factor, np.float32)

    def scale(self, w: Floats) -> float:
        """Return tr(W H Wᵀ) of weights (rows, cols) likewise, to about six digits, in less time.

        Losses are told in units of it.
        """
        largest = max(float(w.max(initial=0.0)), -float(w.min(initial=0.0)))
        exponent = frexp(largest)[1]
        single = _scaled(w, -exponent).astype(np.float32)
        total = -self.added * float(np.vdot(single, single))
        for first in range(0, w.shape[1], _STRIP):
            stop = min(first + _STRIP, w.shape[1])
            product = (single[:, :stop] @ self._single[:stop, first:stop]).astype(np.float64)
            total += float(np.vdot(product, product))
        return total * ldexp(1.0, exponent) * ldexp(1.0, exponent)


def checked_damping(damping: float) -> float:
    """Return the damping, or raise DomainError."""
    if isinstance(damping, bool) or not isinstance(damping, int | float):
        raise DomainError(f"damping must be a number, got {damping!r}")
    if not 0.0 <= damping <= MAX_DAMPING:
        raise DomainError(f"damping must be from 0 to {MAX_DAMPING:g}, got {damping}")
    return float(damping)


def checked_hessian(hessian: ArrayLike, cols: int) -> tuple[Floats, float]:
    """Return a Hessian (cols, cols), made symmetric, and a power of two, its unit.

    In this unit the largest element is from 1 to 2 (zero stays zero), so that powers of two times a
    Hessian give the same matrix. Raises ShapeError, DTypeError, NonFiniteError, DomainError.
    """
    array = np.asarray(hessian)
    if array.shape != (cols, cols):
        raise ShapeError(f"hessian must be of shape ({cols}, {cols}), got {array.shape}")
    if not np.can_cast(array.dtype, np.float64):
        raise DTypeError(f"hessian must be of real numbers, got {array.dtype}")
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        value = array[row, column]
        raise NonFiniteError(f"hessian must be finite, got {value} at ({row}, {column})")
    exponent = frexp(max(float(array.max()), -float(array.min())))[1] - 1
    h = _scaled(np.array(array, np.float64, order="C"), -exponent)
    if (np.diag(h) < 0.0).any():
        i = int(np.argmin(np.diag(h)))
        raise DomainError(
            f"hessian must have no negative diagonal, got {array[i, i]} at ({i}, {i})"
        )
    difference, row, column = _symmetrize(h)
    if difference > _ASYMMETRY * max(float(h.max()), -float(h.min())):
        raise DomainError(
            f"hessian must be symmetric, got {array[row, column]} at ({row}, {column}) and "
            f"{array[column, row]} at ({column}, {row})"
        )
    return h, float(np.ldexp(1.0, exponent))


def _rotated(h: Floats, rotation: Rotation) -> Floats:
    """Return R H Rᵀ, symmetric; a multiple of the identity stays exactly what it is."""
    if not h[0, 1:].any() and np.array_equal(h, h[0, 0] * np.eye(len(h))):
        return h
    rotation.forward(h)  # H Rᵀ, and its transpose is R H
    h = np.ascontiguousarray(h.T)
    rotation.forward(h)
    _symmetrize(h)
    return h


def curvature(
    hessian: ArrayLike, cols: int, rotation: Rotation | None, damping: float = DAMPING
) -> Curvature:
    """Rotate, damp and factor a Hessian (spec section 7.1).

    Parameters: hessian (cols, cols), real numbers, the second moment of the layer's inputs,
    symmetric; rotation of the weights, or None; damping, in units of the mean diagonal, 0 to
    MAX_DAMPING. An input that is always zero is no obstacle, and a Hessian that is zero throughout
    counts as the identity. Raises ShapeError, DTypeError, NonFiniteError, DomainError (not
    symmetric, a negative diagonal, not positive definite after damping).
    """
    damping = checked_damping(damping)
    h, unit = checked_hessian(hessian, cols)
    if not h.any():
        h, unit = np.eye(cols), 1.0
    added = damping * float(np.mean(np.diag(h)))
    if rotation is not None:
        h = _rotated(h, rotation)
    h[np.diag_indices(cols)] += added
    try:  # backwards, the lower factor that LAPACK gives becomes an upper one
        backwards = h[::-1, ::-1].copy().T  # in Fortran's order, as LAPACK wants it
        lower = scipy.linalg.cholesky(backwards, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        raise DomainError(
            f"hessian must be positive definite, and isn't with a damping of {damping:g}: "
            "use more of it, or more tokens"
        ) from None
    return Curvature(h, np.asfortranarray(lower[::-1, ::-1]), added, unit)


def layer_curvature(
    name: str, hessian: ArrayLike, cols: int, rotation: Rotation | None, damping: float
) -> Curvature:
    """Return the curvature of a layer, whose name errors then tell; see `curvature`."""
    try:
        return curvature(hessian, cols, rotation, damping)
    except ArgumentError as error:
        raise type(error)(f"inputs of {name!r}: {error}") from None
