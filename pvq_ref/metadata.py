"""What a compressed file says of itself (spec sections 9.2 to 9.4): the side that writes.

The string `pvq` in the metadata is canonical JSON and authoritative. One hash covers the header,
others each entry. `pvq_ref.parsing` is the side that reads.
"""

import hashlib
from math import prod

from pvq_ref import __version__
from pvq_ref.container import Entry, canonical_json, header_bytes
from pvq_ref.gain import DESIGNS, FITTED
from pvq_ref.groups import Coding
from pvq_ref.rates import Allotment
from pvq_ref.rotation import Rotation
from pvq_ref.tensor import PVQTensor

FORMAT_VERSION = 1
MIN_EXPONENT, MAX_EXPONENT = -551, 497  # of row norms (spec section 8.2)
PARTS = ("index", "gain", "row_norm", "levels")
NO_HASH = "0" * 64


def entries_of(
    name: str, shape: tuple[int, ...], a: Allotment
) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return the four entries of a compressed tensor (spec section 9.2)."""
    return [
        (f"{name}_index", "U8", (a.index_size,)),
        (f"{name}_gain", "U8", (a.gain_size,)),
        (f"{name}_row_norm", "F16", (prod(shape[:-1]),)),
        (f"{name}_levels", "F32", (a.level_rows, 1 << a.gain_bits)),
    ]


def _rotation_object(rotation: Rotation | None) -> dict[str, object] | None:
    if rotation is None:
        return None
    return {
        "seed": str(rotation.seed),
        "blocks": [
            {"count": b.count, "order": b.order, "paley": b.base.paley, "q": b.base.q}
            for b in rotation.blocks
        ],
    }


def tensor_object(
    shape: tuple[int, ...], dtype: str, coding: Coding, design: str, norm_exponent: int
) -> dict[str, object]:
    """Return the JSON object of a tensor (spec section 9.3)."""
    a = coding.allotment
    return {
        "shape": list(shape),
        "dtype": dtype,
        "n": a.grid.n,
        "k": a.k,
        "tail_k": a.tail_k,
        "order": coding.order,
        "block": coding.block,
        "gain_bits": a.gain_bits,
        "levels": design,
        "norm_exponent": norm_exponent,
        "rotation": _rotation_object(coding.rotation),
    }


def object_of(t: PVQTensor) -> dict[str, object]:
    """Return the JSON object of a tensor that has been encoded."""
    return tensor_object(t.shape, t.dtype, t.coding, t.design, t.norm_exponent)


def longest_object(shape: tuple[int, ...], dtype: str, coding: Coding) -> dict[str, object]:
    """Return the longest object that a tensor of this coding can have, before it is encoded."""
    return tensor_object(shape, dtype, coding, max((*DESIGNS, FITTED), key=len), MIN_EXPONENT)


def build_header(
    entries: dict[str, Entry],
    hashes: dict[str, str],
    tensors: dict[str, dict[str, object]],
    source_metadata: dict[str, str],
    size: int = 0,
) -> bytes:
    """Return the header of a compressed file of `size` bytes at least, its own hash in it."""
    pvq = {
        "format_version": FORMAT_VERSION,
        "writer": f"pvq_ref {__version__}",
        "source_metadata": source_metadata,
        "sha256": hashes,
        "tensors": tensors,
    }
    return _with_hash(entries, pvq, header_hash(entries, pvq, size), size)


def header_hash(entries: dict[str, Entry], pvq: dict[str, object], size: int) -> str:
    """Return the hash of a header: of its bytes with zeros for the hash (spec section 9.4)."""
    return hashlib.sha256(_with_hash(entries, pvq, NO_HASH, size)).hexdigest()


def _with_hash(entries: dict[str, Entry], pvq: dict[str, object], digits: str, size: int) -> bytes:
    text = canonical_json(pvq | {"header_sha256": digits})
    return header_bytes(entries, {"format": "pt", "pvq": text}, size)
