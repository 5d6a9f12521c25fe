"""The plan of a compression: what happens to each tensor, and what it will take."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from pvq_ref.container import Entry
from pvq_ref.decoding import MAX_COLS
from pvq_ref.encoding import checked_design, coding_for
from pvq_ref.errors import DomainError, ModelError
from pvq_ref.groups import Coding
from pvq_ref.model import Model
from pvq_ref.rates import checked_target
from pvq_ref.selection import choose, reason_to_leave, refuse_quantized

EXAMPLE_EMBED_BITS = 4.25  # the rate at which the saving by --embed-bits is told


@dataclass(frozen=True)
class Settings:
    """How a model is compressed; the names are those of `pvq_ref.compress`."""

    bits: float = 3.25
    embed_bits: float | None = None
    group: int = 32
    gain_bits: int | None = None
    order: str = "blocked"
    block: int = 4
    seed: int = 0
    rotate: bool = True
    design: str = "auto"
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    rates: Mapping[str, float] = field(default_factory=dict)  # of single tensors, before all else

    def coding(self, shape: tuple[int, ...], bits: float) -> Coding | None:
        """Return how a tensor is coded at a rate, or None where nothing fits."""
        return coding_for(
            shape, bits, self.group, self.gain_bits, self.order, self.block, self.seed, self.rotate
        )


@dataclass(frozen=True)
class TensorPlan:
    """What happens to one tensor: a coding, or the reason why it stays as it is."""

    file: str
    entry: Entry
    coding: Coding | None
    reason: str | None

    @property
    def weights(self) -> int:
        """Elements of the tensor."""
        return prod(self.entry.shape)

    @property
    def size(self) -> int:
        """Bytes in the output, header aside."""
        return self.coding.allotment.size if self.coding else self.entry.size


@dataclass(frozen=True)
class Plan:
    """The plans of all tensors, in the order of the files."""

    settings: Settings
    tensors: list[TensorPlan] = field(default_factory=list)

    @property
    def compressed(self) -> list[TensorPlan]:
        """The tensors that are compressed."""
        return [t for t in self.tensors if t.coding]

    @property
    def untouched_size(self) -> int:
        """Bytes of the tensors that stay as they are."""
        return sum(t.size for t in self.tensors if not t.coding)

    @property
    def weights(self) -> int:
        """Weights that are compressed."""
        return sum(t.weights for t in self.compressed)

    @property
    def compressed_size(self) -> int:
        """Bytes that the compressed tensors take in the output."""
        return sum(t.size for t in self.compressed)

    @property
    def source_size(self) -> int:
        """Bytes that the same tensors took in the source."""
        return sum(t.entry.size for t in self.compressed)

    @property
    def file_rate(self) -> float:
        """Bits per compressed weight."""
        return 8 * self.compressed_size / self.weights if self.weights else 0.0

    def embedding_saving(self) -> tuple[int, int]:
        """Return the bytes of untouched embeddings and heads, and what EXAMPLE_EMBED_BITS would
        save.
        """
        left = [t for t in self.tensors if t.reason in ("embedding", "head")]
        saved = 0
        for t in left:
            coding = self.settings.coding(t.entry.shape, EXAMPLE_EMBED_BITS)
            saved += t.entry.size - coding.allotment.size if coding else 0
        return sum(t.entry.size for t in left), saved

    def as_json(self) -> dict[str, Any]:
        """Return the plan in the form that docs/cli.md describes."""
        return {
            "weights": self.weights,
            "source_bytes": self.source_size,
            "compressed_bytes": self.compressed_size,
            "untouched_bytes": self.untouched_size,
            "bits_per_weight": self.file_rate,
            "tensors": [_tensor_json(t) for t in self.tensors],
        }


def _tensor_json(t: TensorPlan) -> dict[str, Any]:
    result: dict[str, Any] = {
        "name": t.entry.name,
        "file": t.file,
        "shape": list(t.entry.shape),
        "dtype": t.entry.dtype,
        "source_bytes": t.entry.size,
        "bytes": t.size,
    }
    if t.coding is None:
        return result | {"left_as_is": t.reason}
    a = t.coding.allotment
    return result | {
        "n": a.grid.n,
        "k": a.k,
        "tail_k": a.tail_k,
        "gain_bits": a.gain_bits,
        "rates": {"fractional": a.fractional_rate, "coded": a.coded_rate, "file": a.file_rate},
        "predicted_db": a.predicted_db,
    }


def make_plan(model: Model, settings: Settings) -> Plan:
    """Decide what happens to each tensor. Raises ModelError, DomainError."""
    checked_target(settings.bits)
    if settings.embed_bits is not None:
        checked_target(settings.embed_bits, "embed_bits")
    checked_design(settings.design)
    entries = list(model.entries())
    for name, rate in settings.rates.items():
        checked_target(rate, f"the rate of {name!r}")
        if name not in {entry.name for _, entry in entries}:
            raise DomainError(f"rates must be of tensors of the model, got {name!r}")
    refuse_quantized(model.config, model.headers.values())
    reasons = choose([entry for _, entry in entries], settings.include, settings.exclude)
    plan = Plan(settings, [_plan_tensor(file, e, reasons[e.name], settings) for file, e in entries])
    if not plan.compressed:
        raise ModelError("the model must have a tensor to compress, got none that fits")
    return plan


def _plan_tensor(file: str, entry: Entry, reason: str | None, settings: Settings) -> TensorPlan:
    bits = settings.bits
    is_embedding = reason_to_leave(entry) in ("embedding", "head")
    if settings.embed_bits is not None and is_embedding and reason in ("embedding", "head", None):
        reason, bits = None, settings.embed_bits
    if reason is not None:
        return TensorPlan(file, entry, None, reason)
    if entry.shape[-1] > MAX_COLS:
        return TensorPlan(file, entry, None, "rows too long to be read again")
    coding = settings.coding(entry.shape, settings.rates.get(entry.name, bits))
    if coding is None:
        return TensorPlan(file, entry, None, "nothing fits the rate")
    if coding.allotment.size >= entry.size:
        return TensorPlan(file, entry, None, "would not become smaller")
    return TensorPlan(file, entry, coding, None)
