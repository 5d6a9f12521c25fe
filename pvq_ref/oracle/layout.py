"""The description of one tensor: its groups, fields and entries (spec sections 8.1, 8.3, 9.2, 9.3).

`read_layout` takes the metadata object of a tensor; everything else follows from it by arithmetic,
so that the sizes of a stranger's file are checked before anything is built from them.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pvq_ref.errors import DomainError, MetadataError
from pvq_ref.oracle.counting import bits
from pvq_ref.oracle.packing import byte_length
from pvq_ref.oracle.ranking import ORDERS
from pvq_ref.oracle.rotation import MASK, Block, sylvester_exponent

LARGEST = 2**31 - 1  # section 12
LARGEST_GROUP = 4096  # section 12
LARGEST_GAIN_BITS = 8
DTYPES = ("F16", "BF16", "F32", "F64")
DESIGNS = ("quantile", "panter-dite", "panter-dite-centroids", "lloyd-max", "fitted")
KEYS = {
    "shape", "dtype", "n", "k", "tail_k", "order", "block", "gain_bits", "levels",
    "norm_exponent", "rotation",
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """The metadata object of a tensor, checked (section 9.3); seed is None without a rotation."""

    shape: tuple[int, ...]
    dtype: str
    n: int
    k: int
    tail_k: int
    order: str
    block: int
    gain_bits: int
    levels: str
    norm_exponent: int
    seed: int | None
    blocks: tuple[Block, ...]

    @property
    def rows(self) -> int:
        """The product of all dimensions but the last (section 8.1)."""
        return math.prod(self.shape[:-1])

    @property
    def cols(self) -> int:
        """The last dimension (section 8.1)."""
        return self.shape[-1]

    @property
    def tail(self) -> int:
        """t, the coordinates of a row's tail (section 8.1)."""
        return self.cols % self.n

    @cached_property
    def row_groups(self) -> list[tuple[int, int]]:
        """(coordinates, pulses) of a row's groups from left to right (section 8.1)."""
        whole = [(self.n, self.k)] * (self.cols // self.n)
        return whole + ([(self.tail, self.tail_k)] if self.tail else [])

    @cached_property
    def row_widths(self) -> list[int]:
        """Index widths of a row's groups (section 8.3)."""
        width, tail_width = bits(self.n, self.k), bits(self.tail, self.tail_k)
        return [width] * (self.cols // self.n) + ([tail_width] if self.tail else [])

    @cached_property
    def index_bytes(self) -> int:
        """Bytes of the index sequence (sections 8.3 and 8.4)."""
        row = self.cols // self.n * bits(self.n, self.k) + bits(self.tail, self.tail_k)
        return byte_length(self.rows * row)

    @cached_property
    def gain_bytes(self) -> int:
        """Bytes of the gain sequence (sections 8.3 and 8.4)."""
        return byte_length(self.rows * -(-self.cols // self.n) * self.gain_bits)

    @property
    def entries(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """(type, shape) of the tensor's entries by the suffix of their name (section 9.2)."""
        return {
            "index": ("U8", (self.index_bytes,)),
            "row_norm": ("F16", (self.rows,)),
            "levels": ("F32", (2 if self.tail else 1, 2**self.gain_bits)),
            "gain": ("U8", (self.gain_bytes,)),
        }


def require(condition: bool, message: str) -> None:
    """Raise MetadataError unless a condition holds (section 11)."""
    if not condition:
        raise MetadataError(message)


def is_integer(value: object, low: int, high: int) -> bool:
    """Return whether a JSON value is an integer (not a boolean) in low … high."""
    return type(value) is int and low <= value <= high


def fields(value: object, keys: set[str], name: str) -> Mapping[str, object]:
    """Return a JSON object that has exactly these keys; MetadataError otherwise (section 9.3)."""
    require(isinstance(value, Mapping), f"{name} must be an object, got {value!r}")
    assert isinstance(value, Mapping)
    require(set(value) == keys, f"{name} must have the keys {sorted(keys)}, got {sorted(value)}")
    return value


def _integer(value: object, name: str, low: int, high: int) -> int:
    """Return an integer in low … high; MetadataError otherwise."""
    require(is_integer(value, low, high), f"{name} must be in {low} … {high}, got {value!r}")
    assert isinstance(value, int)
    return value


def _name(value: object, name: str, names: tuple[str, ...]) -> str:
    """Return one of some names; MetadataError otherwise."""
    require(isinstance(value, str) and value in names, f"{name} must be in {names}, got {value!r}")
    return str(value)


def _shape(value: object) -> tuple[int, ...]:
    """Return a shape of two or more dimensions (section 8.1)."""
    require(isinstance(value, list), f"shape must be a list, got {value!r}")
    assert isinstance(value, list)
    require(len(value) >= 2, f"shape must have at least 2 dimensions, got {value}")
    return tuple(_integer(size, "shape", 1, 2**63 - 1) for size in value)


def _rotation(value: object, cols: int) -> tuple[int | None, tuple[Block, ...]]:
    """Return seed and blocks of a rotation (sections 6.3 and 9.3)."""
    if value is None:
        return None, ()
    rotation = fields(value, {"seed", "blocks"}, "rotation")
    seed, blocks = rotation["seed"], rotation["blocks"]
    decimal = isinstance(seed, str) and re.fullmatch("0|[1-9][0-9]{0,19}", seed) is not None
    require(decimal and int(str(seed)) <= MASK, f"seed must be a decimal < 2^64, got {seed!r}")
    require(isinstance(blocks, list), f"blocks must be a list, got {blocks!r}")
    assert isinstance(blocks, list)
    found = tuple(_block(item) for item in blocks)
    total = sum(block.count * block.order for block in found)
    require(total == cols, f"blocks must cover {cols} columns, got {total}")
    return int(str(seed)), found


def _block(value: object) -> Block:
    """Return one block of a rotation that has a base and 2^e (section 6.3)."""
    item = fields(value, {"count", "order", "paley", "q"}, "block")
    block = Block(
        count=_integer(item["count"], "count", 1, 2**63 - 1),
        order=_integer(item["order"], "order", 1, 2**63 - 1),
        paley=_integer(item["paley"], "paley", 0, 2),
        q=_integer(item["q"], "q", 0, 1023),
    )
    try:
        sylvester_exponent(block)
    except DomainError as error:
        raise MetadataError(f"block must be a Hadamard matrix: {error}") from error
    return block


def read_layout(value: object) -> Layout:
    """Return the checked metadata object of a tensor; MetadataError if it breaks 9.3, 8.1 or 12."""
    item = fields(value, KEYS, "tensor")
    shape = _shape(item["shape"])
    cols = shape[-1]
    n = _integer(item["n"], "n", 1, min(cols, LARGEST_GROUP))
    order = _name(item["order"], "order", ORDERS)
    blocked = order == "blocked"
    seed, blocks = _rotation(item["rotation"], cols)
    return Layout(
        shape=shape,
        dtype=_name(item["dtype"], "dtype", DTYPES),
        n=n,
        k=_integer(item["k"], "k", 1, LARGEST),
        tail_k=_integer(item["tail_k"], "tail_k", *((1, LARGEST) if cols % n else (0, 0))),
        order=order,
        block=_integer(item["block"], "block", *((1, LARGEST) if blocked else (0, 0))),
        gain_bits=_integer(item["gain_bits"], "gain_bits", 0, LARGEST_GAIN_BITS),
        levels=_name(item["levels"], "levels", DESIGNS),
        norm_exponent=_integer(item["norm_exponent"], "norm_exponent", -551, 497),
        seed=seed,
        blocks=blocks,
    )
