"""Inspection: what a compressed model says of itself, from its headers alone.

Entropies, which take a decode of all indices, are measured only when asked for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from pvq_ref import metadata, parsing
from pvq_ref.container import Reader
from pvq_ref.entropy import NOTHING, Entropy, entropy
from pvq_ref.errors import PVQError
from pvq_ref.model import Model
from pvq_ref.tensor import PVQTensor


@dataclass(frozen=True)
class Description:
    """The compressed tensors of a model, the sizes of its parts in bytes, entropies if measured."""

    tensors: dict[str, PVQTensor]
    untouched: int
    untouched_size: int
    header_size: int
    entropies: Mapping[str, Entropy] = field(default_factory=dict)

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
        described = {
            "format_version": metadata.FORMAT_VERSION,
            "weights": self.weights,
            "compressed_bytes": self.compressed_size,
            "untouched_tensors": self.untouched,
            "untouched_bytes": self.untouched_size,
            "header_bytes": self.header_size,
            "bits_per_weight": self.file_rate,
            "tensors": [self._tensor_json(name, t) for name, t in self.tensors.items()],
        }
        if self.entropies:
            described["entropy"] = sum(self.entropies.values(), NOTHING).per_weight()
        return described

    def _tensor_json(self, name: str, t: PVQTensor) -> dict[str, Any]:
        rates = t.rates
        described = {
            "name": name,
            **metadata.object_of(t),
            "bytes": t.nbytes,
            "rates": {"fractional": rates.fractional, "coded": rates.coded, "file": rates.file},
        }
        if name in self.entropies:
            described["entropy"] = self.entropies[name].per_weight()
        return described

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
            if name in self.entropies:
                lines.append(f"    {_entropy_line(self.entropies[name])}")
        if self.entropies:
            lines.append(f"all tensors: {_entropy_line(sum(self.entropies.values(), NOTHING))}")
        return [
            *lines,
            f"{len(self.tensors)} tensors, {self.weights:,} weights in {self.compressed_size:,} "
            f"bytes: {self.file_rate:.4f} bits per weight",
            f"{self.untouched} other tensors in {self.untouched_size:,} bytes, "
            f"headers of {self.header_size:,} bytes",
            "a loader that doesn't know pvq needs it decompressed first: pvq-ref decompress",
        ]


def _entropy_line(measured: Entropy) -> str:
    """Return widths and entropies for people."""
    rates = measured.per_weight()
    index = rates["index_entropy"]
    return (
        f"indices of {rates['index_width']:.4f} bits per weight have an entropy of "
        f"{'(not counted)' if index is None else f'{index:.4f}'}, "
        f"gains of {rates['gain_width']:.4f} one of {rates['gain_entropy']:.4f}"
    )


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


def entropies(
    model: Model,
    threads: int | None = None,
    progress: Callable[[str, int], None] = lambda name, weights: None,
) -> dict[str, Entropy]:
    """Measure the entropies of the fields of every compressed tensor; hashes are checked.

    Parameters: model; threads, all by default; progress, called with the name and the weights of
    each tensor done. Raises FormatError and its children, CapacityError.
    """
    measured: dict[str, Entropy] = {}
    for file, header in model.headers.items():
        meta = parsing.parse(header)
        with Reader(model.file(file), header) as reader:
            for name, bare in meta.tensors.items():
                try:
                    tensor = parsing.with_fields(reader, name, bare, meta)
                    measured[name] = entropy(tensor, threads)
                except PVQError as error:
                    raise type(error)(f"tensor {name!r:.80}: {error}") from None
                progress(name, prod(tensor.shape))
    return measured
