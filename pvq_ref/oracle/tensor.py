"""Row norms, decoding and rounding of one tensor (spec section 8).

    amplitude = (norm · 2^e) · level,   scale = amplitude / sqrt(b),   W'_i = scale · y_i,

b the sum of y_i². All in binary64, one operation after the other.
"""

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from pvq_ref.errors import DomainError, MetadataError, NonFiniteError, PayloadError
from pvq_ref.oracle.counting import count_closed_form
from pvq_ref.oracle.layout import Layout, read_layout
from pvq_ref.oracle.packing import unpack, unpack_mixed
from pvq_ref.oracle.ranking import unrank
from pvq_ref.oracle.rotation import inverse

# Precision in bits, least exponent of a normal number, and bytes of an IEEE type.
FORMATS = {"F16": (11, -14, 2), "BF16": (8, -126, 2), "F32": (24, -126, 4), "F64": (53, -1022, 8)}
NORM_BITS = 15  # the largest row norm is stored in [2^14, 2^15)


@dataclass(frozen=True)
class Payload:
    """The fields of a tensor, unpacked and in range (sections 8.2 to 8.4)."""

    indices: list[int]
    gains: list[int]
    norms: list[float]
    levels: list[tuple[float, ...]]


# Rounding


def round_to(value: float | Fraction, dtype: str) -> bytes:
    """Return a finite number in F16, BF16, F32 or F64, little-endian (section 8.5).

    To nearest, ties to even, by integers; a number too large becomes infinity, as in IEEE 754.

    >>> round_to(1.0, "BF16").hex()
    '803f'
    """
    if dtype not in FORMATS:
        raise DomainError(f"dtype must be one of {tuple(FORMATS)}, got {dtype!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise NonFiniteError(f"value must be finite, got {value}")
    precision, least, size = FORMATS[dtype]
    negative = math.copysign(1.0, value) < 0 if isinstance(value, float) else value < 0
    pattern = _magnitude_bits(abs(Fraction(value)), precision, least)
    infinity = (2 * (2 - least) - 1) << (precision - 1)
    pattern = min(pattern, infinity) | negative << (8 * size - 1)
    return pattern.to_bytes(size, "little")


def _magnitude_bits(magnitude: Fraction, precision: int, least: int) -> int:
    """Return exponent and fraction bits of a rounded magnitude, as if exponents had no end.

    With N units in the last place, u places above the last place of the subnormal numbers, the
    bits are u · 2^(precision-1) + N: a carry out of N moves on into the exponent.
    """
    if magnitude == 0:
        return 0
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if magnitude < Fraction(2) ** exponent:
        exponent -= 1  # now 2^exponent <= magnitude < 2^(exponent+1)
    unit = max(exponent, least) - (precision - 1)
    units = round(magnitude / Fraction(2) ** unit)  # ties to even
    return ((max(exponent, least) - least) << (precision - 1)) + units


def round_all(values: Iterable[float], dtype: str) -> bytes:
    """Return numbers in one of the types, one after the other (section 8.5)."""
    return b"".join(round_to(value, dtype) for value in values)


# Row norms


def row_norm(row: Sequence[float]) -> float:
    """Return rho, the root of the sum of squares in index order (section 8.2)."""
    total = 0.0
    for value in row:
        total += value * value
    return math.sqrt(total)


def encode_row_norms(rows: Sequence[Sequence[float]]) -> tuple[bytes, int]:
    """Return the stored norms of the rows of W' and the norm exponent (section 8.2).

    Raises NonFiniteError if a norm isn't finite.
    """
    norms = [row_norm(row) for row in rows]
    if not all(map(math.isfinite, norms)):
        raise NonFiniteError("row norms must be finite")
    largest = max(norms, default=0.0)
    exponent = math.frexp(largest)[1] - NORM_BITS if largest > 0 else 0
    # Exact: as a fraction, not as a product with 2^-e, which may not be a binary64 number.
    stored = [Fraction(norm) * Fraction(2) ** -exponent for norm in norms]
    return b"".join(round_to(norm, "F16") for norm in stored), exponent


def decode_row_norms(data: bytes, exponent: int) -> list[float]:
    """Return the stored norms times 2^e (section 8.2); PayloadError for a bad one."""
    stored = struct.unpack(f"<{len(data) // 2}e", data)
    for i, norm in enumerate(stored):
        if not math.isfinite(norm) or math.copysign(1.0, norm) < 0:
            raise PayloadError(f"norms must be finite, without a sign, got {norm} at {i}")
    return [math.ldexp(norm, exponent) for norm in stored]


# Payload


def _read_levels(data: bytes, gain_bits: int) -> list[tuple[float, ...]]:
    """Return the rows of levels; PayloadError unless they are finite and ascend (5.5, 11)."""
    values = struct.unpack(f"<{len(data) // 4}f", data)
    length = 2**gain_bits
    rows = [values[i : i + length] for i in range(0, len(values), length)]
    for row in rows:
        if not all(map(math.isfinite, row)) or list(row) != sorted(row):
            raise PayloadError(f"levels must be finite and ascend, got {row}")
    return rows


def _read_indices(data: bytes, layout: Layout) -> list[int]:
    """Return the indices; PayloadError for one that isn't below V (sections 8.3, 8.4, 11)."""
    indices = unpack_mixed(data, layout.row_widths * layout.rows)
    sizes = {group: count_closed_form(*group) for group in set(layout.row_groups)}
    for i, index in enumerate(indices):
        size = sizes[layout.row_groups[i % len(layout.row_groups)]]
        if index >= size:
            raise PayloadError(f"index must be below {size}, got {index} at group {i}")
    return indices


def read_payload(parts: Mapping[str, bytes], layout: Layout) -> Payload:
    """Return the fields of a tensor's entries, named index, gain, row_norm and levels.

    Raises MetadataError for an entry that is missing, too many, or of another size (section 9.2),
    PayloadError for a field outside its range (section 11).
    """
    widths = {"U8": 1, "F16": 2, "F32": 4}
    sizes = {
        suffix: widths[dtype] * math.prod(shape)
        for suffix, (dtype, shape) in layout.entries.items()
    }
    if (got := {suffix: len(data) for suffix, data in parts.items()}) != sizes:
        raise MetadataError(f"entries must have the sizes {sizes}, got {got}")
    groups = layout.rows * len(layout.row_groups)
    return Payload(
        indices=_read_indices(parts["index"], layout),
        gains=unpack(parts["gain"], layout.gain_bits, groups),
        norms=decode_row_norms(parts["row_norm"], layout.norm_exponent),
        levels=_read_levels(parts["levels"], layout.gain_bits),
    )


# Decoding


def decode_group(y: Sequence[int], norm: float, level: float) -> list[float]:
    """Return a group of W' from its vector, norm · 2^e and level (section 8.5)."""
    amplitude = norm * level
    scale = amplitude / math.sqrt(sum(value * value for value in y))
    return [scale * value for value in y]


def _decode_row(row: int, payload: Payload, layout: Layout) -> list[float]:
    """Return one row of W' (section 8.5)."""
    result: list[float] = []
    for j, (n, k) in enumerate(layout.row_groups):
        group = row * len(layout.row_groups) + j
        levels = payload.levels[j >= layout.cols // layout.n]  # the second row is the tail's
        y = unrank(payload.indices[group], n, k, layout.order, layout.block or 1)
        result += decode_group(y, payload.norms[row], levels[payload.gains[group]])
    return result


def decode_layout(parts: Mapping[str, bytes], layout: Layout) -> list[list[float]]:
    """Return the rows of W (section 8.5), before the rounding to the type of the result."""
    payload = read_payload(parts, layout)
    rows = [_decode_row(row, payload, layout) for row in range(layout.rows)]
    if layout.seed is not None:
        rows = [inverse(row, layout.seed, layout.blocks) for row in rows]
    return rows


def decode(parts: Mapping[str, bytes], metadata: object) -> list[list[float]]:
    """Return the rows of W from a tensor's entries and its metadata object (sections 8.5, 9.3).

    parts maps index, gain (if there are gain bits), row_norm and levels to their bytes. Raises
    MetadataError and PayloadError.
    """
    return decode_layout(parts, read_layout(metadata))
