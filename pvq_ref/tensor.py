"""PVQTensor: a compressed tensor in memory (spec section 8)."""

from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from pvq_ref.errors import DTypeError, MetadataError, PayloadError
from pvq_ref.groups import Coding
from pvq_ref.jit import kernel
from pvq_ref.packing import Bytes, check_padding
from pvq_ref.rates import Allotment, Grid
from pvq_ref.rotation import Rotation
from pvq_ref.words import Words

DTYPES = {
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}


def dtype_name(dtype: DTypeLike) -> str:
    """Return the safetensors name of a floating type, or raise DTypeError."""
    for name, known in DTYPES.items():
        if np.dtype(dtype) == known:
            return name
    raise DTypeError(f"type must be float16, bfloat16, float32 or float64, got {np.dtype(dtype)}")


# Of types of 16 bits: the bits of a binary64 mantissa that they don't have, the difference of the
# exponents' biases, the reciprocal of the least number, and the bits of infinity.
_NARROW = {
    "F16": (42, 1023 - 15, 2.0**24, 0x7C00),
    "BF16": (45, 1023 - 127, 2.0**133, 0x7F80),
}


@kernel
def _round_bits(
    x: NDArray[np.float64], bits: Words, cut: int, bias: int, unit: float, infinity: int,
    out: NDArray[np.uint16],
) -> bool:  # fmt: skip
    """Round x (size,), with its bits, to 16 bits; return whether all of it was finite."""
    one, shift, least = np.uint64(1), np.uint64(cut), np.uint64((bias + 1) << 52)
    half, base = np.uint64((1 << (cut - 1)) - 1), np.uint64(bias << (52 - cut))
    most, finite = np.uint64(infinity), True
    for i in range(x.size):
        magnitude = bits[i] & np.uint64(0x7FFFFFFFFFFFFFFF)
        finite &= magnitude < np.uint64(0x7FF0000000000000)
        if magnitude < least:  # a subnormal number, or the least normal one
            rounded = np.uint64(np.rint(abs(x[i]) * unit))
        else:
            rounded = ((magnitude + half + (magnitude >> shift & one)) >> shift) - base
        out[i] = min(rounded, most) | (bits[i] >> np.uint64(63)) << np.uint64(15)
    return finite


def round_to(x: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Round to a type of DTYPES once, ties to even; what is too large becomes infinity.

    ml_dtypes goes from binary64 to bfloat16 through binary32, which would round twice.
    """
    name = dtype_name(dtype)
    if name in _NARROW:
        flat, out = np.ascontiguousarray(x).reshape(-1), np.empty(x.shape, np.uint16)
        if _round_bits(flat, flat.view(np.uint64), *_NARROW[name], out.reshape(-1)):
            return out.view(dtype)
    return _rounded_by_numpy(x, dtype)


def _rounded_by_numpy(x: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Round likewise; NaN and infinity too.

    For bfloat16 binary32 is rounded to odd first (Boldo and Melquiond 2008): the last bit says that
    something was cut.
    """
    with np.errstate(over="ignore"):
        if dtype != DTYPES["BF16"]:
            return x.astype(dtype)
        single = x.astype(np.float32)
        inner = np.nextafter(single, np.float32(0))
        single = np.where(np.abs(single) > np.abs(x), inner, single)
        odd = single.view(np.uint32) | (single != x).astype(np.uint32)
        return np.asarray(odd.view(np.float32).astype(dtype))


@dataclass(frozen=True)
class Rates:
    """Bits per weight (spec section 1): log2 V, whole bits, and every byte in the file."""

    fractional: float
    coded: float
    file: float


@dataclass(frozen=True)
class PVQTensor:
    """A compressed tensor: its parameters (spec section 9.3) and its fields (9.2).

    shape and dtype are the source's; coding says how it is coded; design names the gain levels.
    index and gain are bytes (uint8), row_norm is (rows,) float16, in units of 2^norm_exponent,
    levels is (1 or 2, 2^gain_bits) float32: whole groups, then tails.
    """

    shape: tuple[int, ...]
    dtype: str
    coding: Coding
    design: str
    norm_exponent: int
    index: Bytes
    gain: Bytes
    row_norm: NDArray[np.float16]
    levels: NDArray[np.float32]

    @property
    def allotment(self) -> Allotment:
        """Pulses and gain bits, and the sizes that follow from them."""
        return self.coding.allotment

    @property
    def grid(self) -> Grid:
        """Rows, columns and group size."""
        return self.coding.allotment.grid

    @property
    def rotation(self) -> Rotation | None:
        """The rotation of the rows, or None."""
        return self.coding.rotation

    @property
    def nbytes(self) -> int:
        """Bytes in a file, header aside."""
        return self.allotment.size

    @cached_property
    def rates(self) -> Rates:
        """The three rates in bits per weight."""
        a = self.allotment
        return Rates(a.fractional_rate, a.coded_rate, a.file_rate)

    def save(self, path: str | PathLike[str], name: str = "weight") -> None:
        """Write a file with this tensor alone; `pvq_ref.load` reads it. Raises OutputError."""
        from pvq_ref.checkpoint import save_tensor  # files are above tensors

        save_tensor(path, name, self)


def check_fields(t: PVQTensor) -> None:
    """Raise MetadataError or PayloadError if sizes, norms, levels or padding break the spec."""
    a = t.allotment
    sizes = {
        "index": (t.index.shape, (a.index_size,)),
        "gain": (t.gain.shape, (a.gain_size,)),
        "row_norm": (t.row_norm.shape, (a.grid.rows,)),
        "levels": (t.levels.shape, (a.level_rows, 1 << a.gain_bits)),
    }
    for name, (got, expected) in sizes.items():
        if got != expected:
            raise MetadataError(f"{name} must be of shape {expected}, got {got}")
    if not np.isfinite(t.row_norm).all() or np.signbit(t.row_norm).any():
        raise PayloadError("row_norm must be finite, without a sign")
    if not np.isfinite(t.levels).all() or (np.diff(t.levels, axis=1) < 0).any():
        raise PayloadError("levels must be finite and ascend")
    check_padding(t.index, a.grid.rows * a.row_index_bits, "index")
    check_padding(t.gain, a.grid.rows * a.grid.groups * a.gain_bits, "gain")
