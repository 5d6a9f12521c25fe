"""The report of an evaluation: what was measured, as JSON and as lines (docs/evaluate.md)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvq_ref.estimates import Estimate, mean, mean_of
from pvq_ref.scoring import Floats, WindowLosses
from pvq_ref.tasks import CHOICE, Task


@dataclass(frozen=True)
class TaskScores:
    """What models made of a task; in every array one row for each model, the original last."""

    task: Task
    log_likelihood: Floats  # (models, items): of the right answer, in nats
    correct: NDArray[np.bool_]  # (models, items)
    normalized: NDArray[np.bool_] | None  # the same by length-normalized scores; None for a cloze

    def accuracy(self, model: int = 0) -> Estimate:
        """Return the share of items with the right answer."""
        return mean(self.correct[model])

    def difference(self) -> Estimate:
        """Return the accuracy less the original's, paired."""
        return mean(self.correct[0].astype(float) - self.correct[1])


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _pair(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """Return a value and its standard error under their two names."""
    value = None if estimate is None else _number(estimate.value)
    error = None if estimate is None else estimate.standard_error
    return {name: value, f"{name}_standard_error": None if error is None else _number(error)}


@dataclass(frozen=True)
class Report:
    """The measurements of one model, or of one and its original."""

    window: int
    text: WindowLosses | None
    tasks: tuple[TaskScores, ...]
    compared: bool

    def perplexity(self, model: int = 0) -> Estimate | None:
        """Return exp of the mean loss; windows count as independent."""
        return None if self.text is None else mean(self.text.losses[model]).exponential()

    def ratio(self) -> Estimate | None:
        """Return the perplexity over the original's, paired by windows."""
        if self.text is None or not self.compared:
            return None
        return mean(self.text.losses[0] - self.text.losses[1]).exponential()

    @property
    def tokens(self) -> int | None:
        """The number of scored tokens of the text."""
        return None if self.text is None else self.text.losses.shape[1] * self.text.scored

    def mean_accuracy(self, model: int = 0) -> Estimate:
        """Return the mean accuracy over tasks, each with the same weight."""
        return mean_of([one.accuracy(model) for one in self.tasks])

    def as_json(self) -> dict[str, Any]:
        """Return the report in the form of docs/schemas/evaluate.json."""
        return {
            **_pair("perplexity", self.perplexity()),
            "tokens": self.tokens,
            "window": None if self.text is None else self.window,
            "tasks": [_task_object(one) for one in self.tasks],
            "against": self._against() if self.compared else None,
        }

    def _against(self) -> dict[str, Any]:
        text = self.text
        return {
            **_pair("perplexity", self.perplexity(1)),
            **_pair("perplexity_ratio", self.ratio()),
            **_pair("kl_divergence", None if text is None or text.kl is None else mean(text.kl)),
            **_pair(
                "top_token_agreement",
                None if text is None or text.agreement is None else mean(text.agreement),
            ),
            "tasks": [_comparison(one) for one in self.tasks],
            "mean_accuracy": self._mean_object() if self.tasks else None,
        }

    def _mean_object(self) -> dict[str, Any]:
        got, ref = self.mean_accuracy(0).value, self.mean_accuracy(1).value
        return {
            "accuracy": got,
            "original": ref,
            **_pair("difference", mean_of([one.difference() for one in self.tasks])),
            "ratio": got / ref if ref > 0.0 else None,
        }

    def lines(self) -> list[str]:
        """Return the report for people."""
        found = []
        perplexity = self.perplexity()
        if perplexity is not None:
            found.append(
                f"perplexity {_shown(perplexity, 4)} on {self.tokens:,} tokens in windows of "
                f"{self.window}"
            )
            if self.compared:
                found += self._text_lines()
        for one in self.tasks:
            found += _task_lines(one, self.compared)
        if len(self.tasks) > 1:
            found.append(f"mean accuracy {_percent(self.mean_accuracy())}")
            if self.compared:
                difference = mean_of([one.difference() for one in self.tasks])
                found.append(
                    f"  original {_percent(self.mean_accuracy(1))}, "
                    f"difference {_percent(difference)}"
                )
        return found

    def _text_lines(self) -> list[str]:
        ref, ratio = self.perplexity(1), self.ratio()
        assert self.text is not None and self.text.kl is not None
        assert self.text.agreement is not None and ref is not None and ratio is not None
        return [
            f"  original {_shown(ref, 4)}, ratio {_shown(ratio, 4)}",
            f"  KL divergence {_shown(mean(self.text.kl), 5)} nats, same top token "
            f"{_percent(mean(self.text.agreement))}",
        ]


def _task_object(one: TaskScores) -> dict[str, Any]:
    likelihood = mean(one.log_likelihood[0])
    cloze = Estimate(-likelihood.value, likelihood.standard_error).exponential()
    return {
        "name": one.task.name,
        "kind": one.task.kind,
        "items": len(one.task.items),
        **_pair("accuracy", one.accuracy()),
        **_pair("normalized_accuracy", None if one.normalized is None else mean(one.normalized[0])),
        **_pair("perplexity", None if one.task.kind == CHOICE else cloze),
        **_pair("log_likelihood", likelihood),
    }


def _comparison(one: TaskScores) -> dict[str, Any]:
    normalized = one.normalized
    return {
        "name": one.task.name,
        **_pair("accuracy", one.accuracy(1)),
        **_pair("accuracy_difference", one.difference()),
        **_pair("normalized_accuracy", None if normalized is None else mean(normalized[1])),
        **_pair(
            "normalized_accuracy_difference",
            None if normalized is None else mean(normalized[0].astype(float) - normalized[1]),
        ),
        **_pair("log_likelihood", mean(one.log_likelihood[1])),
        **_pair("log_likelihood_difference", mean(one.log_likelihood[0] - one.log_likelihood[1])),
    }


def _shown(one: Estimate, digits: int) -> str:
    error = "" if one.standard_error is None else f" ± {one.standard_error:.{digits}f}"
    return f"{one.value:.{digits}f}{error}"


def _percent(one: Estimate) -> str:
    error = None if one.standard_error is None else 100 * one.standard_error
    return f"{_shown(Estimate(100 * one.value, error), 2)} %"


def _task_lines(one: TaskScores, compared: bool) -> list[str]:
    head = f"{one.task.name}: accuracy {_percent(one.accuracy())}"
    if one.normalized is not None:
        head += f", normalized {_percent(mean(one.normalized[0]))}"
    found = [f"{head}, {len(one.task.items):,} items"]
    if compared:
        found.append(
            f"  original {_percent(one.accuracy(1))}, difference {_percent(one.difference())}"
        )
    return found
