"""Tuning: the norms of rows, for the model as a whole (spec section 7.8).

Once all layers are coded, the stored norm of each row is still free: it scales one output of its
layer. Norms are moved by gradient descent (Adam, Kingma and Ba 2015) so that the model's
distribution of next tokens comes nearer to the original's, in Kullback-Leibler divergence on the
calibration text. Indices, gains and levels stay, and so do format and decoder.

Original and compressed model are both in memory for this.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvq_ref.extra import torch
from pvq_ref.finishing import stored_norms
from pvq_ref.gain import Floats
from pvq_ref.language_model import LanguageModel
from pvq_ref.tensor import PVQTensor

STEP = 1e-3  # of Adam, at its greatest; it rises for a tenth of all steps and then falls to zero
WINDOWS = 8  # in a step
_functional = torch.nn.functional


class _Scaled(torch.nn.Module):  # type: ignore[misc]
    """A linear layer whose outputs are scaled by 1 + change."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.change = torch.nn.Parameter(torch.zeros_like(layer.weight[:, 0]))

    def forward(self, x: Any) -> Any:
        """Return the layer's outputs, its bias not scaled."""
        y = _functional.linear(x, self.layer.weight) * (1.0 + self.change)
        return y if self.layer.bias is None else y + self.layer.bias


def _rate(step: int, steps: int) -> float:
    """Return the part of STEP that a step takes: a ramp, then half a cosine."""
    rise = max(1, steps // 10)
    if step < rise:
        return (step + 1) / rise
    return 0.5 + 0.5 * float(np.cos(np.pi * (step - rise) / max(1, steps - rise)))


def _divergence(original: LanguageModel, ours: LanguageModel, windows: NDArray[np.int64]) -> Any:
    """Return the mean divergence of next tokens of some windows, original || ours."""
    ids = torch.from_numpy(windows).to(ours.device)
    fast = ours.device.type == "cuda"
    with torch.autocast(ours.device.type, dtype=torch.bfloat16, enabled=fast):
        with torch.no_grad():
            wanted = original.model(input_ids=ids, use_cache=False).logits
        got = ours.model(input_ids=ids, use_cache=False).logits
    wanted, got = (x.float().log_softmax(-1) for x in (wanted, got))
    return _functional.kl_div(got, wanted, reduction="sum", log_target=True) / ids.numel()


def tune(
    original: LanguageModel,
    ours: LanguageModel,
    names: list[str],
    windows: NDArray[np.int64],
    epochs: int,
    progress: Callable[[float], None] = lambda divergence: None,
) -> dict[str, Floats]:
    """Return factors (rows,) float64 for the row norms of the layers whose weights are named.

    Parameters: original and ours, in float32 on one device; ours has the decoded weights; windows
    (count, window) of tokens; epochs over them, in an order of a fixed seed; progress gets the
    divergence of each step. ours is used up.
    """
    scaled = {}
    for name in names:
        owner, _, last = name.removesuffix(".weight").rpartition(".")
        parent = ours.model.get_submodule(owner)
        scaled[name] = _Scaled(getattr(parent, last))
        setattr(parent, last, scaled[name])
    adam = torch.optim.Adam([s.change for s in scaled.values()], betas=(0.9, 0.99))
    random = np.random.default_rng(0)
    steps = epochs * -(-len(windows) // WINDOWS)
    step = 0
    for _ in range(epochs):
        order = random.permutation(len(windows))
        for start in range(0, len(windows), WINDOWS):
            chosen = windows[order[start : start + WINDOWS]]
            pieces = [chosen] if ours.device.type == "cuda" else list(chosen[:, None])
            total = 0.0
            for piece in pieces:  # a few windows at a time: logits are large
                loss = _divergence(original, ours, piece) / len(pieces)
                loss.backward()
                total += float(loss.detach())
            for group in adam.param_groups:
                group["lr"] = STEP * _rate(step, steps)
            adam.step()
            adam.zero_grad()
            step += 1
            progress(total)
    changes: Mapping[str, Any] = {name: s.change.detach().double() for name, s in scaled.items()}
    return {name: 1.0 + change.cpu().numpy() for name, change in changes.items()}


def with_norms(tensor: PVQTensor, factors: Floats) -> PVQTensor:
    """Return a tensor whose stored row norms are scaled by factors (rows,), none below zero."""
    norms = np.ldexp(tensor.row_norm.astype(np.float64), tensor.norm_exponent)
    row_norm, exponent = stored_norms(norms * np.maximum(factors, 0.0))
    return replace(tensor, row_norm=row_norm, norm_exponent=exponent)
