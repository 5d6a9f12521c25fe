"""Reading what a compressed file says of itself (spec sections 9.2 to 9.4), whoever wrote it.

Nothing is believed before it is checked: types, ranges, the entries that the metadata accounts for,
sizes that follow from parameters, hashes.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from pvq_ref.container import (
    NUMPY_TYPES,
    Header,
    Reader,
    canonical_json,
    header_bytes,
    layout,
    parse_json,
)
from pvq_ref.counting import MAX_NUMBER, ORDERS
from pvq_ref.decoding import MAX_COLS
from pvq_ref.errors import (
    CapacityError,
    HeaderError,
    IntegrityError,
    MetadataError,
    VersionError,
)
from pvq_ref.gain import DESIGNS, FITTED, MAX_GAIN_BITS
from pvq_ref.groups import Coding
from pvq_ref.hadamard import MAX_BASE, Block, Construction, prime_power
from pvq_ref.metadata import (
    FORMAT_VERSION,
    MAX_EXPONENT,
    MIN_EXPONENT,
    PARTS,
    entries_of,
    header_hash,
)
from pvq_ref.parallel import map_over, thread_count
from pvq_ref.rates import Allotment, Grid
from pvq_ref.rotation import MAX_SEED, Rotation
from pvq_ref.tensor import DTYPES, PVQTensor
from pvq_ref.widths import check_width, check_work

MAX_GROUP = 4096
CHUNK = 1 << 22  # bytes that are hashed at a time
HASHING = 4  # threads that hash, at most: memory and files give no more


@dataclass(frozen=True)
class FileMetadata:
    """The parsed metadata of a compressed file; tensors have no fields yet."""

    source_metadata: dict[str, str]
    hashes: dict[str, str]
    tensors: dict[str, PVQTensor]
    untouched: tuple[str, ...]


class _Object:
    """A JSON object from a stranger, read key by key."""

    def __init__(self, raw: object, what: str, keys: Iterable[str]) -> None:
        if not isinstance(raw, dict) or raw.keys() != set(keys):
            got = sorted(raw) if isinstance(raw, dict) else raw
            raise MetadataError(f"{what} must have the keys {sorted(keys)}, got {got!r:.200}")
        self.raw: dict[str, Any] = raw
        self.what = what

    def refuse(self, key: str, wanted: str) -> MetadataError:
        return MetadataError(f"{self.what}: {key} must be {wanted}, got {self.raw[key]!r:.80}")

    def integer(self, key: str, least: int, most: int) -> int:
        value = self.raw[key]
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.refuse(key, f"an integer from {least} to {most}")
        return value

    def choice(self, key: str, names: Iterable[str]) -> str:
        value = self.raw[key]
        if not isinstance(value, str) or value not in names:
            raise self.refuse(key, f"one of {', '.join(names)}")
        return value

    def items(self, key: str) -> list[Any]:
        value = self.raw[key]
        if not isinstance(value, list):
            raise self.refuse(key, "a list")
        return value

    def strings(self, key: str) -> dict[str, str]:
        value = self.raw[key]
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise self.refuse(key, "an object of strings")
        return value


def _parse_block(raw: object, what: str) -> Block:
    o = _Object(raw, what, ("count", "order", "paley", "q"))
    count, order = o.integer("count", 1, MAX_NUMBER), o.integer("order", 1, MAX_NUMBER)
    base = Construction(o.integer("paley", 0, 2), o.integer("q", 0, MAX_BASE))
    if base.paley == 0 and base.q == 0:
        fits = True
    else:
        residue = {1: 3, 2: 1}.get(base.paley, -1)
        fits = base.q % 4 == residue and prime_power(base.q) is not None and base.order <= MAX_BASE
    power, rest = divmod(order, base.order)
    if not fits or rest or power & (power - 1) or power == 0:
        raise MetadataError(
            f"{what} must be a Hadamard matrix of spec section 6.3, got {raw!r:.120}"
        )
    return Block(count, order, base)


def _parse_rotation(raw: object, cols: int, what: str) -> Rotation | None:
    if raw is None:
        return None
    o = _Object(raw, what, ("seed", "blocks"))
    seed = o.raw["seed"]
    if not isinstance(seed, str) or re.fullmatch("0|[1-9][0-9]{0,19}", seed) is None:
        raise o.refuse("seed", "a string of decimal digits without leading zeros")
    blocks = tuple(_parse_block(block, f"{what}, a block") for block in o.items("blocks"))
    if int(seed) > MAX_SEED or sum(b.count * b.order for b in blocks) != cols:
        raise MetadataError(
            f"{what} must have a seed below 2^64 and blocks that cover {cols} columns"
        )
    return Rotation(int(seed), cols, blocks)


def _parse_tensor(name: str, raw: object) -> PVQTensor:
    what = f"tensor {name!r:.80}"
    keys = [
        "shape",
        "dtype",
        "n",
        "k",
        "tail_k",
        "order",
        "block",
        "gain_bits",
        "levels",
        "norm_exponent",
        "rotation",
    ]
    o = _Object(raw, what, keys)
    shape = o.items("shape")
    good = all(isinstance(d, int) and not isinstance(d, bool) and d >= 1 for d in shape)
    if not 2 <= len(shape) <= 64 or not good or prod(shape) >= 1 << 62:
        raise o.refuse("shape", "a list of two counts or more")
    n = o.integer("n", 1, min(MAX_GROUP, shape[-1]))
    tail = shape[-1] % n
    order = o.choice("order", ORDERS)
    allotment = Allotment(
        Grid(prod(shape[:-1]), shape[-1], n),
        o.integer("k", 1, MAX_NUMBER),
        o.integer("tail_k", 1 if tail else 0, MAX_NUMBER if tail else 0),
        o.integer("gain_bits", 0, MAX_GAIN_BITS),
    )
    block = o.integer("block", 1, MAX_NUMBER) if order == "blocked" else o.integer("block", 0, 0)
    rotation = _parse_rotation(o.raw["rotation"], shape[-1], f"{what}, rotation")
    return PVQTensor(
        shape=tuple(shape),
        dtype=o.choice("dtype", DTYPES),
        coding=Coding(allotment, order, block, rotation),
        design=o.choice("levels", (*DESIGNS, FITTED)),
        norm_exponent=o.integer("norm_exponent", MIN_EXPONENT, MAX_EXPONENT),
        index=np.zeros(0, np.uint8),
        gain=np.zeros(0, np.uint8),
        row_norm=np.zeros(0, np.float16),
        levels=np.zeros((0, 0), np.float32),
    )


def is_compressed(header: Header) -> bool:
    """Whether a file says that it was compressed by pvq_ref."""
    return "pvq" in header.metadata


def _check_canonical(header: Header) -> None:
    """Raise HeaderError unless the header has the one form that spec section 9.1 allows."""
    wanted = [(e.name, e.dtype, e.shape) for e in header.entries.values()]
    canonical = header_bytes(layout(wanted), header.metadata, len(header.raw))
    unknown = [e for e in header.entries.values() if e.dtype not in NUMPY_TYPES]
    if canonical != header.raw or len(header.raw) % 8 or unknown:
        raise HeaderError("the header of a compressed file must be canonical")


def _read_object(text: str) -> dict[str, Any]:
    """Return the object `pvq`; raise MetadataError unless it is canonical JSON."""
    try:
        raw = parse_json(text, "the metadata")
    except HeaderError as error:
        raise MetadataError(str(error)) from None
    if not isinstance(raw, dict) or canonical_json(raw) != text:
        raise MetadataError("the metadata must be a canonical JSON object")
    return raw


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def parse(header: Header) -> FileMetadata:
    """Parse and check the metadata of a file, and the hash of its header.

    Raises HeaderError, MetadataError, VersionError, IntegrityError, in spec section 11's order, and
    CapacityError for pyramids that would take long to count.
    """
    if not is_compressed(header):
        raise MetadataError("the metadata must have the key pvq: this file isn't compressed")
    _check_canonical(header)
    raw = _read_object(header.metadata["pvq"])
    version = raw.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise MetadataError(f"format_version must be an integer, got {version!r:.80}")
    if version != FORMAT_VERSION:
        raise VersionError(f"format_version must be {FORMAT_VERSION}, got {version!r:.80}")
    if header.metadata != {"format": "pt", "pvq": header.metadata["pvq"]}:
        raise MetadataError("the metadata must have format pt and pvq, and no other key")
    keys = ["format_version", "writer", "header_sha256", "source_metadata", "sha256", "tensors"]
    o = _Object(raw, "the metadata", keys)
    if not isinstance(o.raw["writer"], str):
        raise o.refuse("writer", "a string")
    if not _is_hash(o.raw["header_sha256"]):
        raise o.refuse("header_sha256", "64 lower-case hexadecimal digits")
    source_metadata = o.strings("source_metadata")
    if header_hash(header.entries, raw, len(header.raw)) != raw["header_sha256"]:
        raise IntegrityError(f"the header must have SHA-256 {raw['header_sha256']}")
    if not isinstance(o.raw["tensors"], dict):
        raise o.refuse("tensors", "an object")
    tensors = {name: _parse_tensor(name, value) for name, value in o.raw["tensors"].items()}
    for name, t in tensors.items():
        check_width(name, t.allotment, header.entries)
    check_work([t.allotment for t in tensors.values()])
    stored = _check_entries(header, tensors)
    hashes = o.strings("sha256")
    if hashes.keys() != header.entries.keys() or not all(map(_is_hash, hashes.values())):
        raise MetadataError("sha256 must have the hash of every entry of the file, and no other")
    untouched = tuple(name for name in header.entries if name not in stored)
    return FileMetadata(source_metadata, hashes, tensors, untouched)


def _check_entries(header: Header, tensors: dict[str, PVQTensor]) -> set[str]:
    """Return the names of the entries of compressed tensors, all of them there and right."""
    stored: set[str] = set()
    for name, t in tensors.items():
        if name in header.entries or name == "__metadata__":
            raise MetadataError(f"tensor {name!r:.80} must not be there both compressed and plain")
        for entry, dtype, shape in entries_of(name, t.shape, t.allotment):
            got = header.entries.get(entry)
            if got is None or entry in stored or (got.dtype, got.shape) != (dtype, shape):
                raise MetadataError(
                    f"entry {entry!r:.80} must be there once, {dtype} of shape {shape}, "
                    f"got {got!s:.200}"
                )
            stored.add(entry)
    return stored


def check_hash(name: str, digest: str, meta: FileMetadata) -> None:
    """Raise IntegrityError if an entry's data isn't what was written."""
    if digest != meta.hashes[name]:
        raise IntegrityError(
            f"entry {name!r:.80} must have SHA-256 {meta.hashes[name]}, got {digest}"
        )


def check_entry(reader: Reader, name: str, meta: FileMetadata) -> None:
    """Read an entry through and check its hash."""
    digest = hashlib.sha256()
    for chunk in reader.chunks(name, CHUNK):
        digest.update(chunk.data)
    check_hash(name, digest.hexdigest(), meta)


def with_fields(reader: Reader, name: str, bare: PVQTensor, meta: FileMetadata) -> PVQTensor:
    """Return a tensor of an open file with its fields, hashes checked, values not yet.

    Raises CapacityError for rows that would take too much memory to decode.
    """
    if bare.grid.cols > MAX_COLS:
        raise CapacityError(f"rows must have at most {MAX_COLS} columns, got {bare.grid.cols}")
    fields: dict[str, Any] = {}
    for part in PARTS:
        entry = f"{name}_{part}"
        fields[part] = reader.read(entry)
        check_hash(entry, hashlib.sha256(fields[part].tobytes()).hexdigest(), meta)
    return replace(bare, **fields)


def check_fields_of_all(reader: Reader, meta: FileMetadata, threads: int | None) -> None:
    """Check the hashes of all fields of compressed tensors, before anything is decoded."""
    names = meta.hashes.keys() - set(meta.untouched)
    workers = min(thread_count(threads), HASHING)
    for _ in map_over(lambda name: check_entry(reader, name, meta), sorted(names), workers):
        pass
