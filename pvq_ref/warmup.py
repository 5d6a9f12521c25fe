"""Compile all kernels, for all types that the package calls them with, into the cache."""

from dataclasses import dataclass

import numpy as np

from pvq_ref.companion import accompanied
from pvq_ref.compensated import quantize_with_feedback
from pvq_ref.decoding import dequantize
from pvq_ref.encoding import quantize
from pvq_ref.exchange import UNCODED, exchange_groups
from pvq_ref.feedback import SEARCHES
from pvq_ref.jit import compilations
from pvq_ref.product import matmul
from pvq_ref.projecting import search_project
from pvq_ref.ranking import rank, unrank
from pvq_ref.rotation import Rotation
from pvq_ref.searching import search

ORDERS_AND_BLOCKS = (("blocked", 4), ("fischer", 4), ("opus", 4), ("blocked", 16))


@dataclass(frozen=True)
class Warmth:
    """Kernels that were compiled just now, and those that the cache had already."""

    compiled: int
    known: int


def warm_up_searches() -> None:
    """Call all searches."""
    x = np.random.default_rng(0).standard_normal((16, 8))
    y = search(x, 5, threads=1)
    search(np.ones((2, 8)), 3, threads=1)  # ties, which only the last of the searches decides
    search_project(x, 5, threads=1)
    fields, gains = np.full((16, 2), UNCODED, np.int64), np.zeros((16, 2, 2))
    exchange_groups(x, np.eye(8), np.ones(16), np.arange(2.0), y, fields[:, 0], gains[:, 0])


def warm_up_orders() -> None:
    """Call all orders, for indices of one word and of several, and a rotation both ways."""
    x = np.zeros((8, 80))
    rotation = Rotation.of(80)
    rotation.forward(x)
    rotation.inverse(x)
    for order, block in ORDERS_AND_BLOCKS:
        for n, k in ((8, 5), (32, 56)):
            y = np.zeros((2, n), np.int32)
            y[:, 0] = k
            unrank(rank(y, order, block, threads=1), n, k, order, block, threads=1)


def _warm_up_the_rest() -> None:
    """Call everything that runs kernels, on a small matrix: indices of one word and of several,
    tails, blocks of every kind, each search, products, feedback.
    """
    x = np.random.default_rng(0).standard_normal((16, 80))
    for order, block in ORDERS_AND_BLOCKS:
        for rate, group in ((3, 8), (4, 32)):
            t = quantize(x, rate, group, order=order, block=block, design="fitted", threads=1)
            dequantize(t, np.float16, threads=1)
            for batch in (x[0], x[:3].T):
                matmul(t, batch, threads=1)
        if (order, block) == ORDERS_AND_BLOCKS[0]:  # others may still be under way elsewhere
            for how in SEARCHES:
                quantize_with_feedback(x, x.T @ x, 3, search=how, sweeps=1, threads=1)
            quantize_with_feedback(x, x.T @ x, 3, paths=2, threads=1)


def warm_up() -> Warmth:
    """Have all kernels compiled, by two processes where no kernel is there yet."""
    compiled, known = compilations()
    with accompanied() as other:
        warm_up_searches()
        _warm_up_the_rest()
        by_other = int(other.communicate()[0] or 0) if other is not None else 0
    now_compiled, now_known = compilations()
    if other is not None:  # nothing was there before
        return Warmth(now_compiled - compiled + by_other, 0)
    return Warmth(now_compiled - compiled, now_known - known)
