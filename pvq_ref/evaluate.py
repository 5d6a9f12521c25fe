"""Evaluation: perplexity of a text, accuracy on tasks, both against an original (docs/evaluate.md).

Needs the extra `calibrate`. Models run on the same batches side by side, so that their differences
are paired and nothing of the size of the vocabulary is kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np

from pvq_ref.errors import DomainError, ModelError
from pvq_ref.evaluation_report import Report, TaskScores
from pvq_ref.language_model import (
    WHOLE,
    LanguageModel,
    Tokens,
    encode,
    load,
    prefix,
    read_part,
    tokens,
    windows,
)
from pvq_ref.scoring import Request, score, window_losses
from pvq_ref.tasks import CLOZE, Task, read_tasks

Path = str | PathLike[str]
Progress = Callable[[str, int, int], None]  # what is done, tokens since the last call, all tokens
CPU_BATCH, GPU_BATCH = 1, 8  # windows at a time


@dataclass(frozen=True)
class _Asked:
    """A task with the requests of all its items, one after another."""

    task: Task
    requests: tuple[Request, ...]


def evaluate(
    model: Path | LanguageModel,
    *,
    text: Path | None = None,
    tasks: Sequence[Path] = (),
    against: Path | LanguageModel | None = None,
    window: int = 512,
    limit: int | None = None,
    items: int | None = None,
    part: tuple[float, float] = WHOLE,
    device: str = "cpu",
    dtype: str = "float32",
    batch: int | None = None,
    progress: Progress = lambda name, done, total: None,
) -> Report:
    """Measure a language model, plain or compressed.

    Parameters: model, its folder, or what `load` gave; text, a UTF-8 file for perplexity; tasks,
    files in the form of docs/evaluate.md; against, the original, to be measured on the same and
    compared; window, tokens of a window; limit, the most tokens of the text; items, the most of
    each task; part of the text, see `read_part`; device and dtype, see `load`; batch, windows at a
    time (1 on a CPU, else 8), and as many tokens of tasks; progress, called with what is under way,
    the tokens done since the last call and all tokens. Raises MissingExtraError, DomainError,
    ModelError, FormatError, NonFiniteError, OSError.
    """
    if text is None and not tasks:
        raise DomainError("an evaluation must have a text or tasks, got neither")
    for name, number, least in (("window", window, 2), ("batch", batch, 1), ("tokens", limit, 1)):
        if number is not None and number < least:
            raise DomainError(f"{name} must be at least {least}, got {number}")
    if text is not None and not read_part(text, part):
        raise ModelError(f"the text must not be empty, got {text}")
    read = read_tasks(tasks, items)
    models = [
        one if isinstance(one, LanguageModel) else load(one, dtype, device)
        for one in (model, against)
        if one is not None
    ]
    _check_alike(models)
    before = prefix(models[0].tokenizer)
    cut = None
    if text is not None:
        _check_window(models, window)
        cut = windows(tokens(models[0].tokenizer, text, part, limit), window, before)
    asked = [_Asked(task, _requests(task, models, before)) for task in read]
    return _measure(models, cut, asked, window, len(before), batch, progress)


def _measure(
    models: list[LanguageModel],
    cut: Tokens | None,
    asked: list[_Asked],
    window: int,
    special: int,
    batch: int | None,
    progress: Progress,
) -> Report:
    total = sum(len(r.tokens) for one in asked for r in one.requests)
    total += 0 if cut is None else cut.size
    count = batch or (CPU_BATCH if models[0].device.type == "cpu" else GPU_BATCH)
    measured = None
    if cut is not None:
        measured = window_losses(
            models, cut, max(1, special), count, lambda done: progress("text", done, total)
        )
    scores = tuple(
        _answers(one, models, count * window, lambda name, done: progress(name, done, total))
        for one in asked
    )
    return Report(window, measured, scores, len(models) == 2)


def _answers(
    one: _Asked,
    models: list[LanguageModel],
    budget: int,
    advance: Callable[[str, int], None],
) -> TaskScores:
    """Score a task and decide its items."""
    task = one.task
    scores = score(models, one.requests, budget, lambda done: advance(task.name, done))
    if task.kind == CLOZE:
        return TaskScores(task, scores.log_likelihood, scores.greedy, None)
    right = np.zeros((len(models), len(task.items)))
    correct, normalized = (np.zeros(right.shape, np.bool_) for _ in range(2))
    start = 0
    for i, item in enumerate(task.items):
        answers = scores.log_likelihood[:, start : start + len(item.pairs)]
        start += len(item.pairs)
        lengths = [max(1, len(answer.removeprefix(" "))) for _, answer in item.pairs]
        right[:, i] = answers[:, item.gold]
        correct[:, i] = answers.argmax(axis=1) == item.gold
        normalized[:, i] = (answers / lengths).argmax(axis=1) == item.gold
    return TaskScores(task, right, correct, normalized)


def _requests(
    task: Task, models: list[LanguageModel], before: tuple[int, ...]
) -> tuple[Request, ...]:
    """Tokenize all pairs of a task. Raises ModelError for a continuation without tokens."""
    tokenizer = models[0].tokenizer
    pairs = [pair for item in task.items for pair in item.pairs]
    # Spaces between the two belong to the continuation, as most tokens begin with theirs.
    contexts = [context.rstrip() for context, _ in pairs]
    whole = encode(tokenizer, [context + answer for context, answer in pairs])
    heads = encode(tokenizer, contexts)
    longest = min((m.longest for m in models if m.longest is not None), default=None)
    found = []
    for pair, ids, head in zip(pairs, whole, heads, strict=True):
        if len(ids) <= len(head):
            raise ModelError(f"{task.name}: an answer must have at least one token, got {pair!r}")
        lead = before if before or head else _beginning(tokenizer)
        every, start = (*lead, *ids), len(lead) + len(head)
        surplus = 0 if longest is None else max(0, len(every) - longest)
        if surplus >= start:
            raise ModelError(
                f"{task.name}: an answer must have fewer tokens than the model takes, {longest}, "
                f"got {len(every) - start}"
            )
        found.append(Request(every[surplus:], start - surplus))
    return tuple(found)


def _beginning(tokenizer: object) -> tuple[int, ...]:
    """Return the token that stands for nothing before a text: the one that begins or ends texts."""
    for name in ("bos_token_id", "eos_token_id"):
        value = getattr(tokenizer, name, None)
        if value is not None:
            return (int(value),)
    raise ModelError("the tokenizer must have a token that begins texts, for an empty context")


def _check_window(models: list[LanguageModel], window: int) -> None:
    for model in models:
        if model.longest is not None and window > model.longest:
            raise DomainError(
                f"window must be at most {model.longest}, which the model takes, got {window}"
            )


def _check_alike(models: list[LanguageModel]) -> None:
    """Raise ModelError if two models don't have the same tokens."""
    if len(models) == 2:
        mine, other = (model.tokenizer.get_vocab() for model in models)
        if mine != other:
            raise ModelError("the original must have the same tokens, got another tokenizer")
