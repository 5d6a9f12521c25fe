"""Compress a model with calibration text, block by block (spec section 7).

Composition: windows of the text, the walk through the blocks (`calibrate`), feedback
(`compensated`), tuning, and the output as for data-free compression (`checkpoint`).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvq_ref.allocation import allocate
from pvq_ref.assembly import Assembly
from pvq_ref.blocks import Blocks
from pvq_ref.calibrate import walk
from pvq_ref.compensated import Feedback, Losses, encode
from pvq_ref.counting import checked_integer
from pvq_ref.curvature import Curvature, layer_curvature
from pvq_ref.decoding import dequantize
from pvq_ref.errors import DomainError, ModelError
from pvq_ref.extra import torch
from pvq_ref.gain import Floats
from pvq_ref.language_model import WHOLE, load, load_tokenizer, prefix, tokens, windows
from pvq_ref.memory import DEFAULT_MEMORY, Limits
from pvq_ref.model import Model
from pvq_ref.output import file_hash
from pvq_ref.parallel import thread_count
from pvq_ref.plan import Plan, TensorPlan
from pvq_ref.rotation import splitmix64
from pvq_ref.running import Result, Run, check_output, complete, settings_json, state_of, working
from pvq_ref.selection import reason_to_leave
from pvq_ref.sensitivity import sensitivities, token_slopes
from pvq_ref.tensor import DTYPES, PVQTensor
from pvq_ref.tuning import tune, with_norms
from pvq_ref.units import Method, Progress, Unit, all_units, code_units, get_tensor, put_tensor
from pvq_ref.workfolder import Say, WorkFolder

REPORT = "calibration.json"
ALLOCATION_TOKENS = 16384  # at most as many tokens measure sensitivities


@dataclass(frozen=True)
class Text:
    """Windows of a text: the part between two fractions, cut up, some of them drawn by a seed."""

    path: Path
    tokens: int = 32768
    window: int = 512
    part: tuple[float, float] = WHOLE
    seed: int = 0

    def windows(self, tokenizer: Any) -> NDArray[np.int64]:
        """Return windows (count, window), count · window <= tokens, in the order of the text.

        Raises DomainError, ModelError.
        """
        count = checked_integer("tokens", self.tokens, 1) // self.window
        if count == 0:
            raise DomainError(f"tokens must fill a window of {self.window}, got {self.tokens}")
        every = windows(tokens(tokenizer, self.path, self.part), self.window, prefix(tokenizer))
        drawn = np.argsort(splitmix64(self.seed, len(every)), kind="stable")[:count]
        return every[np.sort(drawn)]

    def as_json(self) -> dict[str, Any]:
        """Return what a report says of the text."""
        return asdict(self) | {"path": self.path.name, "sha256": file_hash(self.path)}


@dataclass(frozen=True)
class Calibration:
    """How a model is calibrated: its text, the feedback, the share of the way to W* (spec section
    7.5), epochs of tuning, the torch device with the windows that it takes at a time, and whether
    tokens count by what their errors cost (7.9).
    """

    text: Text
    how: Feedback = field(default_factory=Feedback)
    share: float = 0.7
    tune: int = 0
    device: str = "cpu"
    batch: int = 8
    weigh_tokens: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise DomainError(f"share must be from 0 to 1, got {self.share}")
        checked_integer("tune", self.tune, 0, 1000)
        checked_integer("batch", self.batch, 1)

    def as_json(self) -> dict[str, Any]:
        """Return what a report says of it."""
        return {
            "text": self.text.as_json(),
            "feedback": asdict(self.how),
            "share": self.share,
            "tune": self.tune,
            "weigh_tokens": self.weigh_tokens,
        }


class _Coder:
    """Codes layers as the walk comes to them, and keeps them in the work folder."""

    def __init__(
        self, plan: Plan, units: dict[str, Unit], how: Feedback, work: WorkFolder, run: Run
    ) -> None:
        self._units, self._design = units, plan.settings.design
        self._how, self._work = how, work
        self._threads, self._progress = run.limits.threads, run.progress
        self.losses: dict[str, Losses] = {}

    def __call__(
        self, names: list[str], targets: list[Floats], hessian: Floats
    ) -> Iterator[NDArray[np.floating]]:
        curved: dict[object, Curvature] = {}
        for name, weights in zip(names, targets, strict=True):
            unit, t = self._units[name], self._units[name].tensor
            assert t.coding is not None
            rotation = t.coding.rotation
            kept = self.kept(name)
            if kept is None:
                if rotation not in curved:
                    curved[rotation] = layer_curvature(
                        name, hessian, weights.shape[1], rotation, self._how.damping
                    )
                kept = self._encode(t, weights, curved[rotation])
                put_tensor(self._work, unit.name, kept[0], asdict(kept[1]))
            else:
                self._progress(name, t.weights)
            tensor, self.losses[name] = kept
            yield dequantize(tensor, DTYPES[tensor.dtype], threads=self._threads)

    def kept(self, name: str) -> tuple[PVQTensor, Losses] | None:
        """Return a layer that is finished, or None."""
        found = get_tensor(self._work, self._units[name].name, self._units[name].tensor)
        return None if found is None else (found[0], Losses(**found[1]))

    def _encode(
        self, t: TensorPlan, weights: Floats, curved: Curvature
    ) -> tuple[PVQTensor, Losses]:
        assert t.coding is not None
        name, cols = t.entry.name, t.entry.shape[-1]
        return encode(
            lambda start, stop: weights[start:stop],
            t.entry.shape,
            t.entry.dtype,
            t.coding,
            self._design,
            curved,
            self._how,
            self._threads,
            lambda rows: self._progress(name, rows * cols),
        )


def allocated(model: Model, plan: Plan, calibration: Calibration, say: Say) -> dict[str, float]:
    """Return rates by measured sensitivity, see `allocation`. The whole model is in memory.

    Embeddings and heads have a rate of their own, and no part in this.
    """
    language_model = load(model.path, device=calibration.device)
    chosen = calibration.text.windows(language_model.tokenizer)
    chosen = chosen[: max(1, ALLOCATION_TOKENS // chosen.shape[1])]
    codings = {
        t.entry.name: t.coding
        for t in plan.compressed
        if t.coding and reason_to_leave(t.entry) not in ("embedding", "head")
    }
    say(f"measuring how sensitive the model is to each layer, on {chosen.size:,} tokens")
    measured = sensitivities(language_model, codings, chosen, calibration.how.damping)
    return allocate(plan, measured, plan.settings)


def compress_calibrated(
    model: Model,
    plan: Plan,
    target: Path,
    calibration: Calibration,
    *,
    threads: int | None = None,
    force: bool = False,
    resume: bool = False,
    max_memory: int = DEFAULT_MEMORY,
    progress: Progress = lambda name, weights: None,
    say: Say = lambda line: None,
) -> tuple[Result, dict[str, Any]]:
    """Compress a model folder with calibration text; return the result and the report.

    Parameters: model and plan, see `open_model` and `make_plan`; target, the output folder;
    calibration; threads, all by default; force and resume as in `compress`, and so max_memory, but
    what the walk needs (a block, its Hessians, hidden states) comes on top; progress as in
    `compress`; say gets lines about what is going on. Linear layers outside the blocks and other
    tensors of the plan are coded without calibration. Raises what `compress` raises, and
    MissingExtraError.
    """
    if not model.is_folder or not model.config:
        raise ModelError("the model must be a folder with a config.json to be calibrated")
    check_output(model, plan, target, force)
    how = Run(Limits(threads, max_memory), force, resume, progress, say)
    torch.set_num_threads(thread_count(threads))
    tokenizer = load_tokenizer(model.path)
    chosen = calibration.text.windows(tokenizer)
    blocks = Blocks(model, calibration.device)
    reached = blocks.weights() & {t.entry.name for t in plan.compressed}
    if not reached:
        raise ModelError("the model must have linear layers in its blocks to calibrate, got none")
    kept = calibration.as_json() | {"tune": 0}  # it comes after what is kept
    method = Method(frozenset(reached), state={"calibration": kept})
    state = state_of(model, plan, method)
    units = all_units(plan, method.whole)
    layers = {unit.tensor.entry.name: unit for unit in units if unit.tensor.entry.name in reached}
    slopes = _slopes(model, reached, chosen, calibration, say)
    with working(target, state, how) as work:
        coder = _Coder(plan, layers, calibration.how, work, how)
        walk(
            blocks,
            blocks.enter(chosen, calibration.batch),
            reached,
            coder,
            damping=calibration.how.damping,
            share=calibration.share,
            slopes=slopes,
        )
        del blocks, slopes
        factors = _tuned(model, coder, chosen, calibration, say)
        others = [unit for unit in units if unit.tensor.entry.name not in reached]
        code_units(model, others, method, work, how.limits, progress)

        def tuned(name: str, tensor: PVQTensor) -> PVQTensor:
            return with_norms(tensor, factors[name]) if factors else tensor

        assembly = Assembly(model, plan, work, method.whole, how.limits.threads, tuned)
        report = _report(plan, calibration, coder.losses, int(chosen.size))
        write = partial(assembly.write, reports={REPORT: report})
        return complete(assembly, target, state["source"], force, write), report


def _slopes(
    model: Model,
    names: set[str],
    chosen: NDArray[np.int64],
    calibration: Calibration,
    say: Say,
) -> dict[str, Any] | None:
    """Return what tokens are weighed by, or None where all count the same."""
    if not calibration.weigh_tokens:
        return None
    say(f"measuring what errors cost at each of {chosen.size:,} tokens")
    return token_slopes(load(model.path, device=calibration.device), names, chosen)


def _tuned(
    model: Model,
    coder: _Coder,
    chosen: NDArray[np.int64],
    calibration: Calibration,
    say: Say,
) -> dict[str, Floats]:
    """Return factors for row norms, or none without tuning."""
    if not calibration.tune:
        return {}
    original = load(model.path, device=calibration.device)
    ours = load(model.path, device=calibration.device)
    names = sorted(coder.losses)
    for name in names:
        kept = coder.kept(name)
        assert kept is not None
        decoded = dequantize(kept[0], DTYPES[kept[0].dtype]).astype(np.float32)
        layer = ours.model.get_submodule(name.removesuffix(".weight"))
        layer.weight.data.copy_(torch.from_numpy(decoded))
    seen: list[float] = []
    factors = tune(original, ours, names, chosen, calibration.tune, seen.append)
    per_epoch = len(seen) // calibration.tune
    first, last = np.mean(seen[:per_epoch]), np.mean(seen[-per_epoch:])
    say(f"tuned: divergence from the original {first:.4f} in the first epoch, then {last:.4f}")
    return factors


def _report(
    plan: Plan, calibration: Calibration, losses: dict[str, Losses], seen: int
) -> dict[str, Any]:
    settings = plan.settings
    tensors = {}
    for t in plan.compressed:
        assert t.coding is not None
        a = t.coding.allotment
        one: dict[str, Any] = {"bits_per_weight": a.file_rate, "k": a.k, "gain_bits": a.gain_bits}
        own = losses.get(t.entry.name)
        tensors[t.entry.name] = one | {"loss": None if own is None else asdict(own)}
    return {
        "calibration": calibration.as_json() | {"tokens_seen": seen},
        "settings": settings_json(settings),
        "tensors": tensors,
    }
