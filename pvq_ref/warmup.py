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


def warm_up_search() -> None:
    """Call the exact search, with ties too, which only the last of its kernels decides."""
    search(np.random.default_rng(0).standard_normal((16, 8)), 5, threads=1)
    search(np.ones((2, 8)), 3, threads=1)


def warm_up_without_search() -> None:
    """Call what needs no exact search: the other searches, a rotation both ways, and all orders,
    for indices of one word and of several.
    """
    x = np.random.default_rng(0).standard_normal((16, 8))
    y, fields = search_project(x, 5, threads=1), np.full(16, UNCODED, np.int64)
    exchange_groups(x, np.eye(8), np.ones(16), np.arange(2.0), y, fields, np.zeros((16, 2)))
    x = np.zeros((8, 80))
    rotation = Rotation.of(80)
    rotation.forward(x)
    rotation.inverse(x)
    for order, block in ORDERS_AND_BLOCKS:
        for n, k in ((8, 5), (32, 56)):
            y = np.zeros((2, n), np.int32)
            y[:, 0] = k
            unrank(rank(y, order, block, threads=1), n, k, order, block, threads=1)


def _warm_up_calls(order: str, block: int) -> None:
    """Call everything else that runs kernels, feedback aside, on a small matrix: indices of one
    word and of several, tails, products.
    """
    x = np.random.default_rng(0).standard_normal((16, 80))
    for rate, group in ((3, 8), (4, 32)):
        t = quantize(x, rate, group, order=order, block=block, design="fitted", threads=1)
        dequantize(t, np.float16, threads=1)
        for batch in (x[0], x[:3].T):
            matmul(t, batch, threads=1)


def _warm_up_feedback() -> None:
    """Call feedback with each of its searches, and with paths."""
    x = np.random.default_rng(0).standard_normal((16, 80))
    for how in SEARCHES:
        quantize_with_feedback(x, x.T @ x, 3, search=how, sweeps=1, threads=1)
    quantize_with_feedback(x, x.T @ x, 3, paths=2, threads=1)


def warm_up() -> Warmth:
    """Have all kernels compiled, by two processes where no kernel is there yet."""
    compiled, known = compilations()
    with accompanied() as other:
        warm_up_search()
        _warm_up_calls(*ORDERS_AND_BLOCKS[0])
        _warm_up_feedback()
        by_other = int(other.communicate()[0] or 0) if other is not None else 0
        for order, block in ORDERS_AND_BLOCKS[1:]:  # which the other has compiled
            _warm_up_calls(order, block)
    now_compiled, now_known = compilations()
    if other is not None:  # nothing was there before
        return Warmth(now_compiled - compiled + by_other, 0)
    return Warmth(now_compiled - compiled, now_known - known)
