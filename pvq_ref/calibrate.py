"""Calibration: walk through a model block by block, coding each layer for what it sees (spec 7.5).

Two streams of hidden states go through the model: x, what the original's layers see, and x^, what
they see behind layers that are already coded. A layer's outputs should be W x, and its input
will be x^, so the best weights are

    W* = W (E[x x^ᵀ] + μ I)(E[x^ x^ᵀ] + μ I)⁻¹,

and errors on top of them count with the Hessian E[x^ x^ᵀ]. Layers of one input share both means;
layers that come later in a block see those before them coded. Tokens may count differently in the
means (spec 7.9).
"""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvq_ref.blocks import Blocks, Stream
from pvq_ref.extra import torch
from pvq_ref.gain import Floats


@dataclass(frozen=True)
class Moments:
    """Means over tokens of x^ x^ᵀ and x^ xᵀ, both (cols, cols) float64."""

    own: Any
    cross: Any
    tokens: int


# (names of layers with one input, their targets, the Hessian) -> their weights as decoded. Targets
# are (rows, cols) float64, and the Hessian is (cols, cols) float64.
Coder = Callable[[list[str], list[Floats], Floats], Iterable[NDArray[np.floating]]]


def moments(pairs: Iterable[tuple[Any, Any]], counts: Any = None) -> Moments:
    """Return the moments of batches (x^, x), each (tokens, cols) float32.

    counts (all tokens,) float32, of mean 1, says how much each token counts; None is the same.
    """
    sums: list[Any] = []
    tokens = 0
    for ours, original in pairs:
        left = ours
        if counts is not None:
            left = ours * counts[tokens : tokens + len(ours), None]
        own = (left.T @ ours).double()
        products = [own, own if ours is original else (left.T @ original).double()]
        sums = [a + b for a, b in zip(sums, products, strict=True)] if sums else products
        tokens += len(ours)
    return Moments(sums[0] / tokens, sums[1] / tokens, tokens)


def token_counts(slopes: Mapping[str, Any], names: Iterable[str]) -> Any:
    """Return how much each token counts for layers of one input, (tokens,) float32 of mean 1.

    slopes are squared derivatives (tokens,) by the names of weights, see `token_slopes`. Where all
    are zero, all tokens count the same.
    """
    root = torch.stack([slopes[name] for name in names]).sum(0).sqrt()
    mean = root.mean(dtype=torch.float64)
    return root / mean if mean > 0 else torch.ones_like(root)


def target(weight: Any, m: Moments, damping: float, share: float) -> Floats:
    """Return (1 - share) W + share W* (rows, cols), with μ = damping times the mean diagonal."""
    w = weight.double()
    if share == 0.0:
        return np.asarray(w.cpu().numpy())
    added = damping * m.own.diagonal().mean() * torch.eye(len(m.own)).to(m.own)
    best = torch.linalg.solve(m.own + added, (m.cross + added) @ w.T).T
    return np.asarray(((1.0 - share) * w + share * best).cpu().numpy())


def walk(
    blocks: Blocks,
    stream: Stream,
    layers: Container[str],
    code: Coder,
    *,
    damping: float,
    share: float = 1.0,
    one_pass: bool = False,
    slopes: Mapping[str, Any] | None = None,
) -> None:
    """Code the linear layers whose weights `layers` names, block by block.

    stream comes from `blocks.enter`, and ends behind the last block. share is how much of the way
    from W to W* is gone. In one pass every layer sees what the original's sees, and W* is W. With
    slopes, see `token_counts`, tokens count by what their errors cost.
    """
    original = stream.copy()
    for number in range(len(blocks)):
        names = [n for n in blocks.linear_layers(number) if blocks.name_of(number, n) in layers]
        with blocks.block(number) as block, torch.inference_mode():
            stages = original.stages(block, number, names)
            seen = original.advance_keeping(block, number, [stage[0] for stage in stages])
            for stage in stages:
                pairs = (
                    (x if one_pass else stream.inputs(block, number, stage[0], batch), x)
                    for batch, x in enumerate(seen.pop(stage[0]))
                )
                counts = None
                if slopes is not None:
                    counts = token_counts(slopes, [blocks.name_of(number, n) for n in stage])
                m = moments(pairs, counts)
                _code_stage(blocks, block, number, stage, m, code, damping, share)
            if one_pass:
                stream.states[:] = original.states
            else:
                stream.advance(block, number)


def _code_stage(
    blocks: Blocks,
    block: Any,
    number: int,
    stage: list[str],
    m: Moments,
    code: Coder,
    damping: float,
    share: float,
) -> None:
    modules = [block.get_submodule(name) for name in stage]
    targets = [target(module.weight, m, damping, share) for module in modules]
    names = [blocks.name_of(number, name) for name in stage]
    decoded = code(names, targets, np.asarray(m.own.cpu().numpy()))
    for module, weights in zip(modules, decoded, strict=True):
        module.weight.copy_(torch.from_numpy(np.asarray(weights, np.float32)))
