"""One configuration of quality.py: code a model block by block, and measure what it has become."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import report
from pvq_ref.blocks import Blocks
from pvq_ref.calibrate import walk
from pvq_ref.calibrated import Text
from pvq_ref.curvature import DAMPING
from pvq_ref.estimates import Estimate, mean
from pvq_ref.language_model import Tokens, load, prefix, tokens, windows
from pvq_ref.model import open_model
from pvq_ref.plan import Settings, make_plan
from pvq_ref.scoring import window_losses
from quality_list import Calibration, Configuration, Evaluation
from quality_methods import Floats, Weights
from quality_results import Result, code_sha256

FIRST_HALF, SECOND_HALF = (0.0, 0.5), (0.5, 1.0)
PACKAGES = ("torch", "transformers", "numpy", "scipy", "numba")
BATCH = {"cpu": 1}  # windows at a time, else 8


class Bench:
    """A model, twice in memory: as it is, and with its linear layers as they were coded last."""

    def __init__(self, folder: Path, text: Path, device: str, threads: int) -> None:
        threadpool_limits(threads)
        torch.set_num_threads(threads)
        model = open_model(folder)
        self.note = report.noted(folder)
        entries = [one.entry for one in make_plan(model, Settings()).compressed]
        self.dtypes = {one.name: one.dtype for one in entries}
        self.text, self.threads = text, threads
        self.blocks = Blocks(model, device)
        self.modules = {
            self.blocks.name_of(number, layer): f"{self.blocks.prefix}.{number}.{layer}"
            for number in range(len(self.blocks))
            for layer in self.blocks.linear_layers(number)
        }
        _none_left(self.dtypes.keys() - self.modules.keys())
        self.original, self.coded = (load(folder, device=device) for _ in range(2))
        self.batch = BATCH.get(self.original.device.type, 8)
        self.before = prefix(self.original.tokenizer)

    def windows(self, part: tuple[float, float], window: int, limit: int | None = None) -> Tokens:
        """Return windows of a part of the text."""
        return windows(tokens(self.original.tokenizer, self.text, part, limit), window, self.before)

    def calibration_windows(self, c: Calibration) -> Tokens:
        """Return the windows that a calibration sees, in the order of the text."""
        if c.seed is None:
            found = self.windows(FIRST_HALF, c.window)[: c.tokens // c.window]
        else:
            text = Text(self.text, c.tokens, c.window, FIRST_HALF, c.seed)
            found = text.windows(self.original.tokenizer)
        if len(found) < c.tokens // c.window:
            raise ValueError(f"the text has {found.size} tokens to calibrate, and not {c.tokens}")
        return found

    def code(self, one: Configuration) -> Result:
        """Code every layer, and return the rate and each layer's tr(E H Eᵀ) / tr(W H Wᵀ).

        H is the second moment of the layer's inputs, not damped, and W its target.
        """
        method, losses, done, bits = one.method, dict[str, float](), list[str](), 0
        if method is None:
            raise ValueError("the original isn't coded")

        def coder(names: list[str], targets: list[Floats], h: Floats) -> Iterator[Weights]:
            nonlocal bits
            for name, w in zip(names, targets, strict=True):
                decoded, took = method.code(w, h, self.dtypes[name], self.threads)
                bits += took
                error = w - decoded.astype(np.float64)
                losses[name] = float(np.sum((error @ h) * error) / np.sum((w @ h) * w))
                layer = self.coded.model.get_submodule(self.modules[name])
                layer.weight.copy_(torch.from_numpy(decoded.astype(np.float32)))
                done.append(self.modules[name])
                yield decoded

        c = one.calibration
        stream = self.blocks.enter(self.calibration_windows(c), self.batch)
        walk(
            self.blocks, stream, self.dtypes, coder,
            damping=DAMPING, share=c.share, one_pass=c.one_pass,
        )  # fmt: skip
        _none_left(self.dtypes.keys() - losses.keys())
        weights = sum(self.coded.model.get_submodule(one).weight.numel() for one in done)
        return {"weights": weights, "bits": bits, "file_rate": bits / weights, "losses": losses}

    def measure(self, e: Evaluation, coded: bool) -> Result:
        """Measure the coded model, or the original, beside the original."""
        cut = self.windows(SECOND_HALF, e.window, e.tokens)
        models = [self.coded if coded else self.original, self.original]
        found = window_losses(models, cut, max(1, len(self.before)), self.batch, lambda done: None)
        ours, original = found.losses
        return {
            "tokens": found.scored * len(cut),
            "perplexity": _stated(mean(ours).exponential()),
            "original": _stated(mean(original).exponential()),
            "ratio": _stated(mean(ours - original).exponential()),
            "kl": _stated(mean(found.kl)),
            "agreement": _stated(mean(found.agreement)),
        }

    def run(self, one: Configuration, asked: Result) -> Result:
        """Return the line of a configuration."""
        start = time.perf_counter()
        coded = {} if one.method is None else self.code(one)
        middle = time.perf_counter()
        measured = self.measure(one.evaluation, one.method is not None)
        seconds = {"coding": middle - start, "evaluation": time.perf_counter() - middle}
        return {
            "asked": asked,
            "model": self.note,
            "family": one.family,
            **coded,
            **measured,
            "seconds": seconds,
            "threads": self.threads,
            "device": self.device(),
            "code_sha256": code_sha256(),
            "versions": report.versions(*PACKAGES),
        }

    def device(self) -> str:
        """Return the name of what the model ran on, and of the processor that coded."""
        place = self.original.device
        if place.type == "cpu":
            return report.processor()
        return f"{torch.cuda.get_device_name(place)}, {report.processor()}"


def _none_left(names: set[str]) -> None:
    if names:
        raise SystemExit(f"every layer must be in a block that runs, got {min(names)} outside")


def _stated(one: Estimate) -> dict[str, Any]:
    return {"value": one.value, "standard_error": one.standard_error}
