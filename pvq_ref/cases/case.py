"""One case, and how its values are written (docs/conform.md, protocol)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pvq_ref.oracle.rotation import splitmix64

COMMON, UNCOMMON, FAULTY = "common", "uncommon", "faulty"

# What a failure of a case with this flag means.
FLAGS = {
    "bit-order": "bits or bytes of a sequence are taken from the wrong end",
    "boundary": "a value at the end of its range is treated as if it were outside, or the reverse",
    "byte-border": "a field that lies across bytes, or across 64 bits, is cut wrongly",
    "canonical": "more than one form of a header is accepted",
    "empty": "no elements, no bits or no pulses aren't handled",
    "error": "what must be refused is accepted, or refused under another name",
    "error-order": "of several defects of a file another one than the first is reported",
    "field": "arithmetic in GF(q), or the choice of its polynomial, is wrong",
    "index-range": "an index outside 0 … V(n,k) - 1 is accepted",
    "negative-zero": "-0 is taken for a negative number, or its sign is lost",
    "non-finite": "NaN or infinity is accepted",
    "order": "the order of the vectors of a pyramid is another one",
    "overflow": "an intermediate result is too large for its type",
    "rounding": "a result is rounded twice, or not to nearest with ties to even",
    "sign": "signs of coordinates or columns are wrong",
    "sum-order": "sums are made in another order, or multiplication and addition are fused",
    "tail": "the last, shorter group of a row is treated as a whole one",
    "tie-rule": "of several equally good results another one is taken",
    "transpose": "a base is transposed, or the factors of the Kronecker product change places",
    "underflow": "small numbers are lost, or rounded once too often",
    "unchecked": "a hash, a padding bit or a range isn't checked",
    "word-border": "a carry, borrow or comparison across 64-bit words is wrong",
}


@dataclass(frozen=True)
class Case:
    """One question: id, section of the specification, class, why it is asked, flags, operation."""

    id: str
    section: str
    comment: str
    op: str
    args: dict[str, Any]
    flags: Sequence[str] = field(default=())
    kind: str = COMMON


def number(value: float) -> str:
    """Return a binary64 number in the protocol's form."""
    return float(value).hex()


def numbers(values: Iterable[float]) -> list[str]:
    """Return binary64 numbers in the protocol's form."""
    return [number(value) for value in values]


def uniform(seed: int, count: int) -> list[float]:
    """Return numbers between -1 and 1 with 52 fractional bits, the same on every machine."""
    return [(word >> 11) * 2.0**-52 - 1.0 for word in islice(splitmix64(seed), count)]


def bell(seed: int, count: int) -> list[float]:
    """Return sums of four of `uniform`: weights that look like those of a model."""
    values = uniform(seed, 4 * count)
    return [sum(values[4 * i : 4 * i + 4]) for i in range(count)]


def integers(seed: int, count: int, most: int) -> list[int]:
    """Return integers from -most to most."""
    return [word % (2 * most + 1) - most for word in islice(splitmix64(seed), count)]
