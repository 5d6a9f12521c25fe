"""Sensitivity: what a unit of relative error in each layer costs the model (spec section 7.7).

A change of a layer's outputs by δ moves the distribution of the next token by a Kullback-Leibler
divergence of about ½ Σ f_r δ_r², with f_r the mean square of the gradient of the log-likelihood
by output r, tokens drawn from the model's own distribution (the diagonal of Fisher's information;
Amari 1998). An error of relative size ε in the weights, made up for by feedback, moves output
r by ε ||w_r||²/cols Σ tr(M) (section 7.1, M of each group). So, the halves aside,

    S = Σ_r f_r ||w_r||²/cols · Σ_groups tr(M).

The same derivatives, summed over outputs and not over tokens, say what an error costs at each token
(spec section 7.9). The whole model is in memory for both, and gradients flow through it.
"""

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
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
    inputs: dict[str, Any] = {}
    slopes: dict[str, Any] = {}

    def see_input(name: str, x: Any) -> None:
        _add(inputs, name, (x.T @ x).double())

    def see_slope(name: str, slope: Any) -> None:
        _add(slopes, name, (slope.double() ** 2).sum(0))

    layers = _linear_layers(model, codings)
    with _watched(layers, see_slope, see_input):
        _backward(model, windows, progress)
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


def token_slopes(
    model: LanguageModel,
    names: Container[str],
    windows: NDArray[np.int64],
    progress: Callable[[int], None] = lambda windows: None,
) -> dict[str, Any]:
    """Return the squared derivatives by all outputs of a layer at each token, summed over outputs.

    Parameters as in `sensitivities`; names are those of the layers' weights. Returns float32
    tensors (tokens,) on the model's device, tokens in the order of the windows.
    """
    slopes: dict[str, list[Any]] = {}

    def see(name: str, slope: Any) -> None:
        slopes.setdefault(name, []).append((slope.float() ** 2).sum(1))

    with _watched(_linear_layers(model, names), see):
        _backward(model, windows, progress)
    return {name: torch.cat(parts) for name, parts in slopes.items()}


def _linear_layers(model: LanguageModel, names: Container[str]) -> dict[str, Any]:
    return {
        f"{name}.weight": module
        for name, module in model.model.named_modules()
        if f"{name}.weight" in names and isinstance(module, torch.nn.Linear)
    }


@contextmanager
def _watched(
    layers: Mapping[str, Any],
    see_slope: Callable[[str, Any], None],
    see_input: Callable[[str, Any], None] = lambda name, x: None,
) -> Iterator[None]:
    """Call back with a layer's name and its derivatives (tokens, outputs), or inputs."""

    def backward(name: str) -> Callable[..., None]:
        return lambda _, by_input, by_output: see_slope(name, by_output[0].flatten(0, -2))

    def forward(name: str) -> Callable[..., None]:
        return lambda _, args: see_input(name, args[0].detach().flatten(0, -2))

    handles = []
    for name, layer in layers.items():
        handles += [
            layer.register_full_backward_hook(backward(name)),
            layer.register_forward_pre_hook(forward(name)),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add(sums: dict[str, Any], name: str, value: Any) -> None:
    sums[name] = sums[name] + value if name in sums else value


def _backward(
    model: LanguageModel, windows: NDArray[np.int64], progress: Callable[[int], None]
) -> None:
    """Send gradients of the log-likelihood of drawn tokens back, one window at a time."""
    generator = torch.Generator(model.device).manual_seed(0)
    for window in windows:
        ids = torch.from_numpy(window)[None].to(model.device)
        embedded = model.model.get_input_embeddings()(ids).detach().requires_grad_(True)
        logits = model.model(inputs_embeds=embedded, use_cache=False).logits[0].float()
        drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        torch.nn.functional.cross_entropy(logits, drawn, reduction="sum").backward()
        progress(1)
