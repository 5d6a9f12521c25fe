"""The page of bench/orders.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import report
from orders_tables import ORDERS

if TYPE_CHECKING:
    from orders_gpu import Timed

PUBLIC, OWN = "pvq_ref.unrank", "a loop like the tree's"
NOT_MEASURED = "## A GPU\n\nNot measured: {}.\n"


@dataclass(frozen=True)
class Gpu:
    """What was measured on a GPU."""

    n: int
    k: int
    groups: int
    index_bytes: int  # of a group
    buffers: dict[str, int]
    best: list[Timed]
    trials: list[Timed]


def million(rate: float) -> str:
    return f"{rate / 1e6:,.0f}"


def processor_table(rates: dict[str, dict[str, float]]) -> str:
    rows = [
        [name, million(r[PUBLIC]), million(r[OWN]), million(r["tree"]),
         f"{r['tree'] / r[OWN]:.2f}", f"{r['tree'] / r[PUBLIC]:.2f}"]
        for name, r in rates.items()
    ]  # fmt: skip
    contenders = [f"blocked, {PUBLIC}", f"blocked, {OWN}", "tree"]
    return report.table(["(n,k)", *contenders, "tree / loop", "tree / public"], rows)


def gpu_table(found: list[Gpu]) -> str:
    rows = []
    for gpu in found:
        for mode in dict.fromkeys(timed.mode for timed in gpu.best):
            coordinates = gpu.n * gpu.groups
            rate = {t.order: coordinates / t.seconds for t in gpu.best if t.mode == mode}
            moved = gpu.index_bytes + (gpu.n if mode == "store" else 4)
            bandwidth = [f"{rate[order] / gpu.n * moved / 1e9:,.0f}" for order in ORDERS]
            rows.append([
                f"({gpu.n},{gpu.k}) {mode}", *(million(rate[order]) for order in ORDERS),
                f"{rate['tree'] / rate['blocked']:.2f}", *bandwidth,
            ])  # fmt: skip
    head = ["(n,k), mode", "blocked", "tree", "tree / blocked", "blocked, GB/s", "tree, GB/s"]
    return report.table(head, rows)


def trials_table(found: list[Gpu]) -> str:
    best = {(g.n, t.mode, t.order, t.tables, t.threads) for g in found for t in g.best}
    rows = [
        [f"({g.n},{g.k}) {t.mode} {t.order}", t.tables, f"{t.threads}", f"{t.blocks}",
         f"{t.registers}", f"{t.seconds * 1e6:,.1f}",
         "yes" if (g.n, t.mode, t.order, t.tables, t.threads) in best else ""]
        for g in found
        for t in g.trials
    ]  # fmt: skip
    head = ["kernel", "tables in", "threads", "blocks", "registers", "µs", "chosen"]
    return report.table(head, rows)


def gpu_part(found: list[Gpu], name: str) -> str:
    groups = ", ".join(f"{g.groups:,} of {g.n}" for g in found)
    buffers = "; ".join(
        f"({g.n},{g.k}) " + ", ".join(f"{order} {g.buffers[order]:,}" for order in ORDERS)
        for g in found
    )
    waiting = max(t.waiting for g in found for t in g.best)
    made = report.made_with("numba-cuda", "numba")
    return f"""## A GPU

Million coordinates per second. {name}; groups: {groups}; {made}.

{gpu_table(found)}

- *store* writes the integers as rows of int8. *fold* writes one number a group, the dot product
  with activations of int8, by dp4a. *GB/s* are the bytes of indices read and of results written.
- One thread decodes a group. Indices are words of 32 bits in planes, and differ from group to group
  as those of normal numbers do. A table of guesses chosen by the highest bits of a rank leads to a,
  and divisions are products with reciprocals. Bytes of tables: {buffers}. These include the leaves
  of at most nine pulses; the others are in global memory.
- Of more than 64 bits, blocked divides two words by V(4,a), below 2^31, up to four times; the tree
  once, by V(16,a), up to 63 bits, by algorithm 4 of Möller and Granlund 2011.
- Times are medians of CUDA events around eight launches, the two orders in turn. Putting them in
  the queue took at most {waiting:.2f} of the time in which they ran; below 1 the GPU didn't wait.

Each kernel was tried with tables in shared and in global memory, and with blocks of three sizes.
The fastest of each order was then timed again, for the table above:

{trials_table(found)}
"""


def page(rates: dict[str, dict[str, float]], gpu: str) -> str:
    made = report.made_with("numpy", "numba")
    return f"""# Two orders, and how fast they decode

Made by `{report.command("orders.py")}`.

The format's order *blocked* (spec section 3.3) takes four coordinates at a time, from left to
right. The other candidate was a tree: n coordinates are split in halves, a pulses in the first,

    I = sum over i < a of V(n/2,i) V(n/2,k-i)  +  I(first) V(n/2,k-a)  +  I(second),

and these again, down to four, which both orders look up. Both take n/4 - 1 splits. In the tree
log2(n/4) of them wait for each other, in blocked all, and numbers stay wide for longer. Below,
decoders of both turn indices into integers of int8; a split is the same text in both. Every result
was compared with the vectors before it was timed.

## A processor

Million coordinates per second of CPU time, one thread, medians, in turn. {made}.

{processor_table(rates)}

`{PUBLIC}` is the public call, for any n and k, with all its checks, into int32. The loops are made
for their n and k, and write int8 into memory that is there. All three take a tile of 128 groups
through each step together.

{gpu}"""
