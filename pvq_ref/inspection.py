"""Inspection: what a compressed model says of itself, from its headers alone."""

from dataclasses import dataclass
from math import prod
from typing import Any

from pvq_ref import metadata, parsing
from pvq_ref.model import Model
from pvq_ref.tensor import PVQTensor


@dataclass(frozen=True)
class Description:
    """The compressed tensors of a model, and the sizes of its parts in bytes."""

    tensors: dict[str, PVQTensor]
    untouched: int
    untouched_size: int
    header_size: int

    @property
    def weights(self) -> int:
        """Weights that are compressed."""
        return sum(prod(t.shape) for t in self.tensors.values())

    @property
    def compressed_size(self) -> int:
        """Bytes of the compressed tensors."""
        return sum(t.nbytes for t in self.tensors.values())

    @property
    def file_rate(self) -> float:
        """Bits per compressed weight."""
        return 8 * self.compressed_size / self.weights if self.weights else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the description in the form that docs/cli.md describes."""
        return {
            "format_version": metadata.FORMAT_VERSION,
            "weights": self.weights,
            "compressed_bytes": self.compressed_size,
            "untouched_tensors": self.untouched,
            "untouched_bytes": self.untouched_size,
            "header_bytes": self.header_size,
            "bits_per_weight": self.file_rate,
            "tensors": [_tensor_json(name, t) for name, t in self.tensors.items()],
        }

    def lines(self) -> list[str]:
        """Return the description for people."""
        lines = []
        for name, t in self.tensors.items():
            shape = "×".join(map(str, t.shape))
            a = t.allotment
            tail = f", tail k={a.tail_k}" if a.tail_k else ""
            rotation = "not rotated" if t.rotation is None else f"seed {t.rotation.seed}"
            lines.append(
                f"{name}  {shape} {t.dtype}  n={a.grid.n} k={a.k}{tail}, {a.gain_bits} gain bits, "
                f"{t.coding.order}, {t.design}, {rotation}, {t.rates.file:.4f} bits per weight"
            )
        return [
            *lines,
            f"{len(self.tensors)} tensors, {self.weights:,} weights in {self.compressed_size:,} "
            f"bytes: {self.file_rate:.4f} bits per weight",
            f"{self.untouched} other tensors in {self.untouched_size:,} bytes, "
            f"headers of {self.header_size:,} bytes",
            "a loader that doesn't know pvq needs it decompressed first: pvq-ref decompress",
        ]


def _tensor_json(name: str, t: PVQTensor) -> dict[str, Any]:
    rates = t.rates
    return {
        "name": name,
        **metadata.object_of(t),
        "bytes": t.nbytes,
        "rates": {"fractional": rates.fractional, "coded": rates.coded, "file": rates.file},
    }


def describe(model: Model) -> Description:
    """Describe a compressed model. Raises MetadataError, VersionError."""
    tensors: dict[str, PVQTensor] = {}
    untouched = untouched_size = header_size = 0
    for header in model.headers.values():
        meta = parsing.parse(header)
        tensors |= meta.tensors
        untouched += len(meta.untouched)
        untouched_size += sum(header.entries[name].size for name in meta.untouched)
        header_size += header.data_start
    return Description(tensors, untouched, untouched_size, header_size)
