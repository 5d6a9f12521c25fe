"""What models say of tokens: losses of windows, scores of continuations (docs/evaluate.md).

Several models run on the same batch, and their logits, (tokens, vocabulary) float32, are reduced
at once, some rows at a time. Sequences of different lengths are filled up at their ends, which a
causal model doesn't see at the places before.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvq_ref.errors import ModelError, NonFiniteError
from pvq_ref.language_model import LanguageModel, Tokens

ELEMENTS = 1 << 24  # of the logits that are reduced at once: 64 MB in float32
Floats = NDArray[np.float64]
Advance = Callable[[int], None]  # called with the tokens that were passed since the last call


@dataclass(frozen=True)
class WindowLosses:
    """Means over the scored tokens of each window; kl and agreement need two models."""

    losses: Floats  # (models, windows): negative log-probability in nats
    kl: Floats | None  # (windows,): of the last model's next-token distribution to the first's
    agreement: Floats | None  # (windows,): how often both have the same most probable token
    scored: int  # tokens of each window


@dataclass(frozen=True)
class Request:
    """Tokens of which those from `start` on are scored; start >= 1."""

    tokens: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class Scores:
    """Of each request and model."""

    log_likelihood: Floats  # (models, requests): sum over the scored tokens in nats
    greedy: NDArray[np.bool_]  # (models, requests): whether each was the most probable one


def window_losses(
    models: Sequence[LanguageModel], windows: Tokens, first: int, batch: int, advance: Advance
) -> WindowLosses:
    """Score the tokens of windows from position `first` >= 1 on, `batch` windows at a time.

    Parameters: one or two models; windows, (windows, window) int64; advance, for progress. Raises
    NonFiniteError, ModelError.
    """
    scored = windows.shape[1] - first
    pieces = []
    for start in range(0, len(windows), batch):
        part = windows[start : start + batch]
        logits = [_logits(m, part, first - 1, windows.shape[1] - 1) for m in models]
        rows = _reduced(logits, part[:, first:].reshape(-1))
        del logits
        pieces.append(rows.reshape(len(rows), len(part), scored).mean(axis=2))
        advance(part.size)
    means = np.concatenate(pieces, axis=1)
    count = len(models)
    kl, agreement = (means[count], means[count + 1]) if count == 2 else (None, None)
    return WindowLosses(means[:count], kl, agreement, scored)


def score(
    models: Sequence[LanguageModel], requests: Sequence[Request], budget: int, advance: Advance
) -> Scores:
    """Score the continuations of requests, in batches of at most `budget` tokens, at least one.

    Raises NonFiniteError, ModelError.
    """
    likelihood = np.zeros((len(models), len(requests)))
    greedy = np.zeros((len(models), len(requests)), np.bool_)
    for batch in _batches(requests, budget):
        chosen = [requests[i] for i in batch]
        longest = max(len(r.tokens) for r in chosen)
        filled = np.array([r.tokens + r.tokens[-1:] * (longest - len(r.tokens)) for r in chosen])
        begin = min(r.start for r in chosen)
        for which, model in enumerate(models):
            rows = _tokens_scored(_logits(model, filled, begin - 1, longest - 1), filled, begin)
            for row, (i, r) in enumerate(zip(batch, chosen, strict=True)):
                loss, best = rows[:, row, r.start - begin : len(r.tokens) - begin]
                likelihood[which, i] = -loss.sum()
                greedy[which, i] = best.all()
        advance(sum(len(r.tokens) for r in chosen))
    return Scores(likelihood, greedy)


def _batches(requests: Sequence[Request], budget: int) -> Iterator[list[int]]:
    """Yield positions of requests of like lengths, the longest first: memory fails early."""
    order = sorted(range(len(requests)), key=lambda i: -len(requests[i].tokens))
    while order:
        count = max(1, budget // len(requests[order[0]].tokens))
        yield order[:count]
        order = order[count:]


def _logits(model: LanguageModel, ids: Tokens, start: int, stop: int) -> Any:
    """Return the model's logits at places start … stop - 1, (sequences, places, vocabulary)."""
    import torch

    place = torch.from_numpy(np.ascontiguousarray(ids)).to(model.device)
    keep = {}
    if "logits_to_keep" in inspect.signature(model.model.forward).parameters:
        keep["logits_to_keep"] = torch.arange(start, stop, device=model.device)
    with torch.inference_mode():
        logits = model.model(input_ids=place, use_cache=False, **keep).logits
    return logits if keep else logits[:, start:stop]


def _reduced(logits: Sequence[Any], targets: Tokens) -> Floats:
    """Return, one row each: the models' losses, and of two models their divergence and agreement.

    Parameters: logits of each model, (sequences, places, vocabulary); targets, (tokens,).
    """
    import torch

    flat = [one.reshape(-1, one.shape[-1]) for one in logits]
    if len({one.shape for one in flat}) > 1:
        sizes = ", ".join(str(one.shape[-1]) for one in flat)
        raise ModelError(f"the models must have vocabularies of one size, got {sizes}")
    out = np.empty((len(flat) + (2 if len(flat) == 2 else 0), len(targets)))
    goal = torch.from_numpy(targets).to(flat[0].device)
    step = max(1, ELEMENTS // flat[0].shape[1])
    with torch.inference_mode():
        for start in range(0, len(targets), step):
            some = slice(start, start + step)
            logs = [torch.log_softmax(one[some].float(), dim=1) for one in flat]
            rows = [-log.gather(1, goal[some, None])[:, 0] for log in logs]
            if len(logs) == 2:
                got, ref = logs
                rows.append((ref.exp() * (ref - got)).sum(dim=1))
                rows.append((ref.argmax(dim=1) == got.argmax(dim=1)).float())
            out[:, some] = torch.stack(rows).cpu().numpy()
    _check_finite(out)
    return out


def _tokens_scored(logits: Any, filled: Tokens, begin: int) -> Floats:
    """Return losses and whether each was the likeliest: (2, sequences, tokens from `begin` on)."""
    import torch

    targets = torch.from_numpy(filled[:, begin:]).to(logits.device)
    out = np.empty((2, *targets.shape))
    step = max(1, ELEMENTS // (logits.shape[1] * logits.shape[2]))
    with torch.inference_mode():
        for start in range(0, len(targets), step):
            some = slice(start, start + step)
            log = torch.log_softmax(logits[some].float(), dim=2)
            loss = -log.gather(2, targets[some, :, None])[:, :, 0]
            best = (log.argmax(dim=2) == targets[some]).float()
            out[:, some] = torch.stack([loss, best]).cpu().numpy()
    _check_finite(out)
    return out


def _check_finite(values: Floats) -> None:
    if not np.isfinite(values).all():
        raise NonFiniteError("the model's outputs must be finite, got NaN or infinity")
