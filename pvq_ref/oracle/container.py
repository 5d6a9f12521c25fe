"""Files (spec section 9, with the errors of section 11 and the limits of section 12).

A container is a safetensors file: the length of the header, the header (JSON), the data. The
checks of `read` come in this order, and the first that fails gives the error: the frame
(HeaderError), `pvq` as JSON (MetadataError), the version (VersionError), the keys (MetadataError),
the hash of the header (IntegrityError), tensors and entries (MetadataError), the hashes of the
entries (IntegrityError), the payload (PayloadError).
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pvq_ref.errors import DomainError, HeaderError, IntegrityError, MetadataError, VersionError
from pvq_ref.oracle.frame import (
    METADATA,
    Entry,
    canonical,
    frame,
    offsets,
    parse_canonical,
    read_entries,
    read_header,
    storage_order,
)
from pvq_ref.oracle.layout import Layout, fields, read_layout, require
from pvq_ref.oracle.tensor import decode_layout, read_payload, round_all

FORMAT_VERSION = 1
NO_HASH = "0" * 64
SUFFIXES = ("index", "gain", "row_norm", "levels")
PVQ_KEYS = {"format_version", "writer", "header_sha256", "source_metadata", "sha256", "tensors"}


@dataclass(frozen=True)
class Container:
    """A file, checked: its entries by name, its layouts by name, and the object `pvq`."""

    entries: dict[str, Entry]
    layouts: dict[str, Layout]
    metadata: dict[str, object]

    def parts(self, name: str) -> dict[str, bytes]:
        """Return the entries of a compressed tensor by suffix (section 9.2)."""
        suffixes = self.layouts[name].entries
        return {suffix: self.entries[f"{name}_{suffix}"].data for suffix in suffixes}


# 9.3: metadata


def _is_string_map(value: object) -> bool:
    """Return whether a JSON value is an object of strings."""
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _is_hash(value: object) -> bool:
    """Return whether a JSON value is a SHA-256 in 64 lower-case hexadecimal digits."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _read_metadata(header: Mapping[str, object]) -> dict[str, object]:
    """Return the object `pvq`, its version and keys checked (section 9.3)."""
    outer = header.get(METADATA, {})
    if not _is_string_map(outer):
        raise HeaderError(f"{METADATA} must be an object of strings, got {outer!r}")
    assert isinstance(outer, dict)
    require("pvq" in outer, f"{METADATA} must have the key pvq, got {sorted(outer)}")
    pvq = parse_canonical(outer["pvq"], MetadataError)
    version = pvq.get("format_version")
    require(type(version) is int, f"format_version must be an integer, got {version!r}")
    if version != FORMAT_VERSION:
        raise VersionError(f"format_version must be {FORMAT_VERSION}, got {version}")
    require(
        set(outer) == {"format", "pvq"} and outer["format"] == "pt",
        f"{METADATA} must have format pt and pvq, got {sorted(outer)}",
    )
    fields(pvq, PVQ_KEYS, "pvq")
    require(isinstance(pvq["writer"], str), f"writer must be a string, got {pvq['writer']!r}")
    require(_is_hash(pvq["header_sha256"]), "header_sha256 must be 64 hexadecimal digits")
    require(_is_string_map(pvq["source_metadata"]), "source_metadata must be an object of strings")
    return pvq


def _read_hashes(value: object, entries: Mapping[str, Entry]) -> dict[str, str]:
    """Return the hashes of all entries (section 9.3); MetadataError if names are not theirs."""
    require(isinstance(value, dict), f"sha256 must be an object, got {value!r}")
    assert isinstance(value, dict)
    require(all(map(_is_hash, value.values())), "sha256 must have 64 hexadecimal digits each")
    different = sorted(set(value) ^ set(entries))
    require(not different, f"sha256 must name the file's entries, got other names {different}")
    return value


def _read_layouts(value: object, entries: Mapping[str, Entry]) -> dict[str, Layout]:
    """Return the layouts of the compressed tensors, whose entries all fit (sections 9.2, 9.3)."""
    require(isinstance(value, dict), f"tensors must be an object, got {value!r}")
    assert isinstance(value, dict)
    layouts = {name: read_layout(item) for name, item in value.items()}
    for name, layout in layouts.items():
        expected = layout.entries
        require(name not in entries, f"tensor {name!r} must be an entry or compressed, not both")
        for suffix in SUFFIXES:
            entry = entries.get(f"{name}_{suffix}")
            got = None if entry is None else (entry.dtype, entry.shape)
            want = expected.get(suffix)
            require(got == want, f"entry {name}_{suffix} must be {want}, got {got}")
    return layouts


# 9.4: hashes


def _sha256(data: bytes) -> str:
    """Return a SHA-256 in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _header(entries: Mapping[str, Entry], metadata: Mapping[str, object]) -> dict[str, object]:
    """Return the header of a file (sections 9.1 to 9.3)."""
    return {METADATA: {"format": "pt", "pvq": canonical(metadata)}, **offsets(entries)}


def header_hash(
    entries: Mapping[str, Entry], metadata: Mapping[str, object], length: int = 0
) -> str:
    """Return header_sha256: the hash of the frame with 64 zeros in its place (section 9.4).

    The JSON is canonical, so the frame can be made again from what it stands for and its length.
    """
    return _sha256(frame(_header(entries, {**metadata, "header_sha256": NO_HASH}), length))


# Public functions


def read(data: bytes) -> Container:
    """Return a file, with every check of sections 9, 11 and 12.

    Raises HeaderError, MetadataError, VersionError, IntegrityError, PayloadError.
    """
    header, body = read_header(data)
    entries = read_entries(header, body)
    metadata = _read_metadata(header)
    got = header_hash(entries, metadata, int.from_bytes(data[:8], "little"))
    if metadata["header_sha256"] != got:
        raise IntegrityError(f"header_sha256 must be {metadata['header_sha256']}, got {got}")
    hashes = _read_hashes(metadata["sha256"], entries)
    layouts = _read_layouts(metadata["tensors"], entries)
    for name, entry in entries.items():
        if (got := _sha256(entry.data)) != hashes[name]:
            raise IntegrityError(f"sha256 of {name!r} must be {hashes[name]}, got {got}")
    container = Container(entries, layouts, metadata)
    for name, layout in layouts.items():
        read_payload(container.parts(name), layout)
    return container


def seal(entries: Mapping[str, Entry], metadata: Mapping[str, object]) -> bytes:
    """Return a file of entries and the object `pvq`, its header_sha256 computed, unchecked."""
    sealed = {**metadata, "header_sha256": header_hash(entries, metadata)}
    body = b"".join(entries[name].data for name in storage_order(entries))
    return frame(_header(entries, sealed)) + body


def describe(
    entries: Mapping[str, Entry],
    tensors: Mapping[str, object],
    source_metadata: Mapping[str, str],
    writer: str,
) -> dict[str, object]:
    """Return the object `pvq` of a file, without header_sha256 (section 9.3)."""
    return {
        "format_version": FORMAT_VERSION,
        "writer": writer,
        "source_metadata": dict(source_metadata),
        "sha256": {name: _sha256(entry.data) for name, entry in entries.items()},
        "tensors": dict(tensors),
    }


def compressed_entries(
    compressed: Mapping[str, tuple[Mapping[str, bytes], object]],
) -> dict[str, Entry]:
    """Return the entries of encoded tensors: name to (parts, metadata object) (section 9.2)."""
    entries = {}
    for name, (parts, item) in compressed.items():
        layout = read_layout(item)
        read_payload(parts, layout)
        for suffix, (dtype, shape) in layout.entries.items():
            entries[f"{name}_{suffix}"] = Entry(dtype, shape, parts[suffix])
    return entries


def write(
    compressed: Mapping[str, tuple[Mapping[str, bytes], object]],
    plain: Mapping[str, Entry],
    source_metadata: Mapping[str, str],
    writer: str = "pvq_ref.oracle",
) -> bytes:
    """Return a file of encoded tensors (parts and metadata object each) and plain ones (section 9).

    Raises DomainError where two tensors would have the same name, MetadataError or PayloadError
    for an encoded tensor that breaks the spec.
    """
    entries = compressed_entries(compressed)
    taken = {f"{name}_{suffix}" for name in compressed for suffix in SUFFIXES} | {METADATA}
    clash = (taken & compressed.keys()) | (plain.keys() & (taken | compressed.keys()))
    if clash:
        raise DomainError(f"names must be free, got {sorted(clash)}")
    entries.update(plain)
    tensors = {name: item for name, (_, item) in compressed.items()}
    return seal(entries, describe(entries, tensors, source_metadata, writer))


def decode_file(data: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return (dtype, shape, bytes) of every tensor of a file by name, decoded (sections 8.5, 9)."""
    container = read(data)
    packed = {f"{name}_{suffix}" for name in container.layouts for suffix in SUFFIXES}
    tensors = {
        name: (entry.dtype, entry.shape, entry.data)
        for name, entry in container.entries.items()
        if name not in packed
    }
    for name, layout in container.layouts.items():
        rows = decode_layout(container.parts(name), layout)
        values = (value for row in rows for value in row)
        tensors[name] = (layout.dtype, layout.shape, round_all(values, layout.dtype))
    return tensors
