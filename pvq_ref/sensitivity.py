"""Sensitivity: what a unit of relative error in each layer costs the model (spec section 7.7).

A change of a layer's outputs by δ moves the distribution of the next token by a Kullback-Leibler
divergence of about ½ Σ f_r δ_r², with f_r the mean square of the gradient of the log-likelihood
by output r, tokens drawn from the model's own distribution (the diagonal of Fisher's information;
Amari 1998). An error of relative size ε in the weights, made up for by feedback, moves output
r by ε ||w_r||²/cols Σ tr(M) (section 7.1, M of each group). So, the halves aside,

    S = Σ_r f_r ||w_r||²/cols · Σ_groups tr(M).

The whole model is in memory for this, and gradients flow through it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvq_ref.curvature import curvature
from pvq_ref.extra import torch
from pvq_ref.feedback import steps
from pvq_ref.groups import Coding
from pvq_ref.language_model import LanguageModel


def sensitivities(
    model: LanguageModel,
    codings: Mapping[str, Coding],
    windows: NDArray[np.int64],
    damping: float,
    progress: Callable[[int], None] = lambda windows: None,
) -> dict[str, float]:
    """Return the sensitivity of every linear layer whose weights `codings` names.

    Parameters: model, in float32; codings by the names of weights; windows (count, window) of
    tokens; damping of the second moments. Tokens are drawn with a fixed seed.
    """
    layers = {
        f"{name}.weight": module
        for name, module in model.model.named_modules()
        if f"{name}.weight" in codings and isinstance(module, torch.nn.Linear)
    }
    inputs: dict[str, Any] = {}
    slopes: dict[str, Any] = {}
    handles = []
    for name, layer in layers.items():
        handles += [
            layer.register_forward_pre_hook(_input_hook(inputs, name)),
            layer.register_full_backward_hook(_slope_hook(slopes, name)),
        ]
    generator = torch.Generator(model.device).manual_seed(0)
    try:
        for window in windows:
            _backward(model, window, generator)
            progress(1)
    finally:
        for handle in handles:
            handle.remove()
    tokens = windows.size
    result = {}
    for name, layer in layers.items():
        coding, cols = codings[name], layer.weight.shape[1]
        curved = curvature((inputs[name] / tokens).cpu().numpy(), cols, coding.rotation, damping)
        metrics = [step.metric for step in steps(curved, coding.allotment)]
        traces = curved.unit * sum(float(np.trace(metric)) for metric in metrics)
        rows = (layer.weight.double() ** 2).sum(1) / cols * slopes[name] / tokens
        result[name] = float(rows.sum()) * traces
    return result


def _add(sums: dict[str, Any], name: str, value: Any) -> None:
    sums[name] = sums[name] + value if name in sums else value


def _input_hook(sums: dict[str, Any], name: str) -> Callable[..., None]:
    def hook(_: Any, args: tuple[Any, ...]) -> None:
        x = args[0].detach().reshape(-1, args[0].shape[-1])
        _add(sums, name, (x.T @ x).double())

    return hook


def _slope_hook(sums: dict[str, Any], name: str) -> Callable[..., None]:
    def hook(_: Any, by_input: Any, by_output: tuple[Any, ...]) -> None:
        slope = by_output[0]
        _add(sums, name, (slope.reshape(-1, slope.shape[-1]).double() ** 2).sum(0))

    return hook


def _backward(model: LanguageModel, window: NDArray[np.int64], generator: Any) -> None:
    """Send the gradient of the log-likelihood of drawn tokens back through the model."""
    ids = torch.from_numpy(window)[None].to(model.device)
    embedded = model.model.get_input_embeddings()(ids).detach().requires_grad_(True)
    logits = model.model(inputs_embeds=embedded, use_cache=False).logits[0].float()
    drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
    torch.nn.functional.cross_entropy(logits, drawn, reduction="sum").backward()
