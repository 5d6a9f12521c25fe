"""Cases of ranking (spec section 3)."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from pvq_ref.cases.case import COMMON, FAULTY, UNCOMMON, Case
from pvq_ref.oracle.counting import count, enumerate_pyramid, half_count
from pvq_ref.oracle.ranking import rank, unrank
from pvq_ref.oracle.rotation import splitmix64

SECTIONS = {"fischer": "3.1", "opus": "3.2", "blocked": "3.3"}
ORDERS = [("fischer", 0), ("opus", 0), ("blocked", 4)]
PYRAMIDS = [  # (n, k, what it is an example of, flags)
    (1, 0, "one coordinate, no pulses", ["empty"]),
    (1, 3, "one coordinate: +3 and -3", ["boundary", "sign"]),
    (4, 0, "no pulses: the index has 0 bits", ["empty"]),
    (5, 3, "a group of an odd size: the last block has one coordinate", ["order"]),
    (8, 4, "one word", ["order", "sign"]),
    (16, 57, "an index of exactly 64 bits", ["word-border"]),
    (16, 59, "an index of 65 bits", ["word-border"]),
    (32, 56, "two words", ["word-border"]),
    (128, 221, "seven words", ["word-border"]),
]
BLOCKS = [  # (n, k, block)
    (8, 5, 1), (8, 5, 2), (8, 5, 3), (8, 5, 8), (8, 5, 9), (7, 4, 4), (32, 22, 4), (32, 56, 1),
    (32, 56, 2), (32, 56, 3), (32, 56, 8), (32, 56, 32), (40, 60, 16), (48, 56, 24), (32, 106, 31),
]  # fmt: skip


def _name(order: str, block: int) -> str:
    return f"{order}-{block}" if order == "blocked" else order


def _inside(n: int, k: int) -> int:
    """Return an index that looks like any other."""
    words = islice(splitmix64((n << 32) + k), 8)
    return sum(word << 64 * i for i, word in enumerate(words)) % count(n, k)


def _rank(y: list[int], order: str, block: int, where: str, comment: str, flags: list[str]) -> Case:
    pulses = sum(map(abs, y))
    return Case(
        f"rank/{_name(order, block)}/{len(y)}-{pulses}/{where}", SECTIONS[order], comment, "rank",
        {"y": y, "order": order, "block": block}, flags,
        COMMON if len(y) > 1 and pulses else UNCOMMON,
    )  # fmt: skip


def _unrank(
    n: int, k: int, order: str, block: int, where: str, index: int, comment: str, flags: list[str]
) -> Case:
    return Case(
        f"unrank/{_name(order, block)}/{n}-{k}/{where}", SECTIONS[order], comment, "unrank",
        {"n": n, "k": k, "index": str(index), "order": order, "block": block}, flags,
        COMMON if n > 1 and k else UNCOMMON,
    )  # fmt: skip


def _both_ways() -> Iterator[Case]:
    for order, block in ORDERS:
        for n, k, comment, flags in PYRAMIDS:
            last, inside = count(n, k) - 1, _inside(n, k)
            y = unrank(inside, n, k, order, block or 1)
            yield _rank(list(y), order, block, "inside", comment, flags)
            yield _unrank(n, k, order, block, "inside", inside, comment, flags)
            yield _unrank(n, k, order, block, "first", 0, comment, flags)
            if last > 0:
                y = unrank(last, n, k, order, block or 1)
                yield _rank(list(y), order, block, "last", comment, flags)
                yield _unrank(n, k, order, block, "last", last, comment, flags)
        for where, index in (("word-full", 2**64 - 1), ("second-word", 2**64)):
            comment = "around the first index of two words"
            yield _unrank(32, 56, order, block, where, index, comment, ["word-border"])


def _carries() -> Iterator[Case]:
    """Yield indices for which a carry or borrow goes through a whole word."""
    n, k = 32, 130
    last = count(n, k) - 1
    for order, block, index in (
        ("opus", 0, 2**128),
        ("opus", 0, half_count(n, k + 1) + 2**128 - 1),
        ("fischer", 0, last - 2**128 + 1),
        ("blocked", 4, 2**128),
    ):
        where = "carry" if index == 2**128 else "borrow"
        comment = f"a {where} that goes on from the second word to the third"
        y = list(unrank(index, n, k, order, block or 1))
        yield _rank(y, order, block, where, comment, ["word-border"])
        yield _unrank(n, k, order, block, where, index, comment, ["word-border"])
    u, v = unrank(count(24, 30) - 5, 24, 30), unrank(12345678901234567890, 24, 30)
    index = rank((*u, *v), "blocked", 24)
    assert count(24, 30) >> 63 == 1
    comment = "a block whose own V(b,a) has the highest bit of a word"
    flags = ["word-border", "overflow"]
    yield _rank([*u, *v], "blocked", 24, "high-bit", comment, flags)
    yield _unrank(48, 60, "blocked", 24, "high-bit", index, comment, flags)
    u, v = unrank(count(16, 57) - 5, 16, 57), unrank(1, 16, 1)
    index = rank((*u, *v), "blocked", 16)
    comment = "a remainder with the highest bit of a word is doubled in a long division"
    yield _unrank(32, 58, "blocked", 16, "high-bit", index, comment, flags)


def _block_sizes() -> Iterator[Case]:
    for n, k, block in BLOCKS:
        comment = f"blocks of {block} in a group of {n}"
        flags = ["order"] if k < 50 else ["order", "word-border"]
        inside = _inside(n, k)
        y = list(unrank(inside, n, k, "blocked", block))
        yield _rank(y, "blocked", block, "inside", comment, flags)
        yield _unrank(n, k, "blocked", block, "inside", inside, comment, flags)


def _block_borders() -> Iterator[Case]:
    """Yield the first index of a block sum a, and the last one of a - 1."""
    for n, k, block, a in ((8, 5, 2, 2), (16, 57, 4, 15), (16, 59, 4, 15), (32, 56, 8, 14)):
        index = sum(count(block, j) * count(n - block, k - j) for j in range(a))
        flags = ["boundary", "word-border"] if n > 8 else ["boundary"]
        for where, chosen in (("border", index), ("below-border", index - 1)):
            comment = f"the sum of the first block is {a}, or just not"
            yield _unrank(n, k, "blocked", block, where, chosen, comment, flags)


def _whole_orders() -> Iterator[Case]:
    """Yield the rank of every vector of P(2,2): what an order is, in eight lines."""
    for order, block in [("fischer", 0), ("opus", 0), ("blocked", 1)]:
        for y in enumerate_pyramid(2, 2):
            where = ",".join(map(str, y))
            comment = "all of a small pyramid, in the order itself"
            yield _rank(list(y), order, block, where, comment, ["order", "sign"])


def _faulty() -> Iterator[Case]:
    for order, block in ORDERS:
        for n, k in ((1, 0), (8, 4), (16, 57)):
            size = count(n, k)
            for where, index in (("above", size), ("below", -1), ("far-above", size << 70)):
                if where != "above" and (n, k) != (8, 4):
                    continue
                yield Case(
                    f"unrank/{_name(order, block)}/{n}-{k}/{where}", "11",
                    "an index is in 0 … V - 1", "unrank",
                    {"n": n, "k": k, "index": str(index), "order": order, "block": block},
                    ["index-range", "error"], FAULTY,
                )  # fmt: skip
    good: dict[str, Any] = {"n": 8, "k": 4, "index": "0", "order": "fischer", "block": 0}
    for name, change, comment in (
        ("unknown-order", {"order": "zigzag"}, "there are three orders"),
        ("no-block", {"order": "blocked"}, "a block has at least one coordinate"),
        ("negative-n", {"n": -8}, "n is at least 0"),
        ("negative-k", {"k": -4}, "k is at least 0"),
    ):
        args = good | change
        yield Case(f"unrank/{name}", "11", comment, "unrank", args, ["error"], FAULTY)
    for name, change, comment in (
        ("unknown-order", {"order": "Fischer"}, "names are spelled in one way"),
        ("no-block", {"order": "blocked"}, "a block has at least one coordinate"),
    ):
        args = {"y": [1, -1], "order": "fischer", "block": 0} | change
        yield Case(f"rank/{name}", "11", comment, "rank", args, ["error"], FAULTY)


def _words() -> Iterator[Case]:
    for n, k, comment in (
        (4, 0, "0 bits are held in one word"),
        (8, 4, "one word"),
        (16, 57, "64 bits are one word"),
        (16, 59, "65 bits are two words"),
        (32, 56, "101 bits are two words"),
        (32, 104, "128 bits are two words"),
        (32, 106, "129 bits are three words"),
        (128, 221, "413 bits are seven words"),
    ):
        for where, index in (("first", 0), ("last", count(n, k) - 1)):
            yield Case(
                f"words/{n}-{k}/{where}", "3.4", comment, "words",
                {"n": n, "k": k, "index": str(index)}, ["word-border"],
                COMMON if k else UNCOMMON,
            )  # fmt: skip
        if n == 16:
            yield Case(
                f"words/{n}-{k}/above", "11", "an index is in 0 … V - 1", "words",
                {"n": n, "k": k, "index": str(count(n, k))}, ["index-range", "error"], FAULTY,
            )  # fmt: skip


def cases() -> Iterator[Case]:
    """Yield the cases of ranking."""
    yield from _whole_orders()
    yield from _both_ways()
    yield from _carries()
    yield from _block_sizes()
    yield from _block_borders()
    yield from _faulty()
    yield from _words()
