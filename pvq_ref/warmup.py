"""Compile all kernels, for all types that the package calls them with, into the cache."""

from dataclasses import dataclass

import numpy as np

from pvq_ref.compensated import quantize_with_feedback
from pvq_ref.counting import ORDERS
from pvq_ref.decoding import dequantize
from pvq_ref.encoding import quantize
from pvq_ref.feedback import SEARCHES
from pvq_ref.jit import compilations
from pvq_ref.product import matmul
from pvq_ref.projecting import search_project
from pvq_ref.searching import search


@dataclass(frozen=True)
class Warmth:
    """Kernels that were compiled just now, and those that the cache had already."""

    compiled: int
    known: int


def warm_up() -> Warmth:
    """Call everything that runs kernels, on a small matrix: indices of one word and of several,
    tails, blocks of every kind, each search, products, feedback.
    """
    compiled, known = compilations()
    x = np.random.default_rng(0).standard_normal((16, 80))
    settings = [(order, 4, rate, group) for order in ORDERS for rate, group in ((3, 8), (4, 32))]
    for order, block, rate, group in [*settings, ("blocked", 16, 4, 32)]:
        t = quantize(x, rate, group, order=order, block=block, design="fitted", threads=1)
        dequantize(t, np.float16, threads=1)
        for batch in (x[0], x[:3].T):
            matmul(t, batch, threads=1)
    for how in SEARCHES:
        quantize_with_feedback(x, x.T @ x, 3, search=how, sweeps=1, threads=1)
    search_project(x, 5, threads=1)
    search(np.ones((2, 8)), 3, threads=1)  # ties, which only the last of the searches decides
    now_compiled, now_known = compilations()
    return Warmth(now_compiled - compiled, now_known - known)
