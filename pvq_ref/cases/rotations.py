"""Cases of the rotation (spec section 6)."""

from collections.abc import Iterator, Sequence
from typing import Any

from pvq_ref.cases.case import COMMON, FAULTY, UNCOMMON, Case, bell, numbers
from pvq_ref.oracle.rotation import Block, plan

LARGEST = 2**64 - 1
WIDTHS = {
    1: "one column", 2: "Sylvester alone", 3: "1 and 2", 4: "Sylvester alone", 7: "4, 2 and 1",
    12: "the smallest base: I, q = 11, before II, q = 5", 20: "I, q = 19", 24: "12 · 2",
    28: "II, q = 13: a prime before the prime power 27", 36: "II, q = 17", 52: "II, q = 5²",
    63: "a power of two for each bit", 65: "64 and 1", 96: "12 · 8", 100: "II, q = 7²",
    126: "no divisor of 64 or more: powers of two", 192: "12 · 16", 244: "I, q = 3⁵",
    344: "I, q = 7³", 384: "12 · 32", 576: "36 · 16", 577: "a prime: 512, 64 and 1", 768: "12 · 64",
    1028: "514 · 2: a base above 1024 isn't used", 1152: "36 · 32", 1536: "12 · 128",
    2880: "180 · 16",
    3776: "59 blocks of 64: the smallest blocks", 4096: "Sylvester alone", 5632: "44 · 128",
    11008: "344 · 32", 13696: "107 blocks of 128", 14336: "28 · 512",
    29568: "a base of three factors", 65537: "prime",
}  # fmt: skip
BASES = [
    (0, 0, "the base of order 1"), (1, 3, "order 4"), (1, 7, "order 8"), (1, 11, "order 12"),
    (1, 27, "GF(27), order 28"), (2, 5, "order 12"), (2, 9, "GF(9), order 20"),
    (2, 13, "order 28"), (2, 25, "GF(25), order 52"), (2, 49, "GF(49), order 100"),
]  # fmt: skip


def _blocks(*blocks: tuple[int, int, int, int]) -> list[Block]:
    return [Block(*block) for block in blocks]


ROWS: list[tuple[str, list[Block], str, list[str], str]] = [
    ("1", plan(1), "one column: its sign", ["sign"], UNCOMMON),
    ("4", plan(4), "Sylvester alone", ["sign"], COMMON),
    ("8", plan(8), "Sylvester alone", ["sign"], COMMON),
    ("12", plan(12), "I, q = 11, without Sylvester", ["transpose"], COMMON),
    ("20", plan(20), "I, q = 19", ["transpose"], COMMON),
    ("24", plan(24), "12 · 2: base ⊗ Sylvester", ["transpose"], COMMON),
    ("28", plan(28), "II, q = 13", ["transpose"], COMMON),
    ("36", plan(36), "II, q = 17", ["transpose"], COMMON),
    ("48", plan(48), "12 · 4", ["transpose", "sum-order"], COMMON),
    ("7", plan(7), "blocks of 4, 2 and 1", ["sign"], COMMON),
    ("72", plan(72), "36 · 2", ["transpose", "sum-order"], COMMON),
    ("three-4", _blocks((3, 4, 0, 0)), "three equal blocks", ["sign"], UNCOMMON),
    ("two-12", _blocks((2, 12, 1, 11)), "two equal blocks with a base", ["transpose"], UNCOMMON),
    ("unequal", _blocks((1, 1, 0, 0), (2, 8, 1, 3), (1, 2, 0, 0)),
     "a decoder follows the file: blocks that no plan has", ["transpose"], UNCOMMON),
    ("other-base", _blocks((1, 12, 2, 5)), "12 by another base than the plan's", ["transpose"],
     UNCOMMON),
    ("field-9", _blocks((1, 20, 2, 9)), "GF(9)", ["field"], UNCOMMON),
    ("field-27", _blocks((1, 28, 1, 27)), "GF(27)", ["field", "transpose"], UNCOMMON),
]  # fmt: skip
SPIKES = [  # order, paley, q, column
    (164, 2, 81, 57),
    (244, 1, 243, 100),
    (252, 2, 125, 131),
    (344, 1, 343, 200),
]


def _objects(blocks: Sequence[Block]) -> list[dict[str, int]]:
    return [vars(block) for block in blocks]


def _generator() -> Iterator[Case]:
    for where, state, length, comment in (
        ("0", 0, 3, "the example of the specification"),
        ("1234567", 1234567, 3, "another state"),
        ("largest", LARGEST, 2, "the state wraps around"),
        ("wrap", LARGEST - 0x9E3779B97F4A7C15, 2, "the state becomes the largest number"),
        ("half", 2**63, 2, "the highest bit alone"),
        ("none", 5, 0, "no output"),
    ):
        yield Case(
            f"splitmix64/{where}", "6.1", comment, "splitmix64",
            {"state": str(state), "length": length}, ["overflow"],
            COMMON if length == 3 else UNCOMMON,
        )  # fmt: skip


def _signs() -> Iterator[Case]:
    for seed, cols in ((0, 1), (0, 8), (1, 63), (1, 64), (1, 65), (7, 130), (LARGEST, 12)):
        comment = f"{cols} columns take {-(-cols // 64)} words"
        args: dict[str, Any] = {"seed": str(seed), "cols": cols}
        flags = ["sign", "bit-order"]
        yield Case(f"signs/{seed}-{cols}", "6.2", comment, "signs", args, flags)
    for seed in (-1, 2**64):
        yield Case(
            f"signs/{seed}", "11", "a seed has 64 bits", "signs",
            {"seed": str(seed), "cols": 4}, ["error"], FAULTY,
        )  # fmt: skip


def _plans() -> Iterator[Case]:
    for cols, comment in WIDTHS.items():
        kind = UNCOMMON if cols < 64 or cols in (577, 1028, 65537) else COMMON
        yield Case(f"plan/{cols}", "6.3", comment, "plan", {"cols": cols}, [], kind)
    yield Case("plan/0", "11", "cols is at least 1", "plan", {"cols": 0}, ["error"], FAULTY)
    for paley, q, comment in BASES:
        powers = q in (9, 25, 27, 49)
        flags = ["field", "transpose"] if powers else ["transpose"]
        args = {"paley": paley, "q": q}
        yield Case(f"matrix/{paley}-{q}", "6.5", comment, "matrix", args, flags)


def _transforms() -> Iterator[Case]:
    for where, blocks, comment, flags, kind in ROWS:
        cols = sum(block.count * block.order for block in blocks)
        args = {"row": numbers(bell(cols, cols)), "seed": "3", "blocks": _objects(blocks)}
        yield Case(f"forward/{where}", "6.6", comment, "forward", args, flags, kind)
        yield Case(f"inverse/{where}", "6.7", comment, "inverse", args, flags, kind)
    for order, paley, q, column in SPIKES:
        row = [0.0] * order
        row[column] = 1.0
        args = {"row": numbers(row), "seed": "0", "blocks": _objects([Block(1, order, paley, q)])}
        comment = f"one column of the base of order {order} over GF({q})"
        flags = ["field", "transpose"]
        yield Case(f"forward/spike-{order}", "6.6", comment, "forward", args, flags, UNCOMMON)
    row = [0.0] * 576
    row[100], row[300] = 1.0, -0.75
    args = {"row": numbers(row), "seed": "18446744073709551615", "blocks": _objects(plan(576))}
    yield Case("inverse/spikes-576", "6.7", "36 · 16", "inverse", args, ["transpose"], UNCOMMON)
    for op, section in (("forward", "6.6"), ("inverse", "6.7")):
        row = [0.0, -0.0, 0.0, 0.0]
        args = {"row": numbers(row), "seed": "1", "blocks": _objects(plan(4))}
        comment = "signs of zeros"
        flags = ["negative-zero"]
        yield Case(f"{op}/zeros", section, comment, op, args, flags, UNCOMMON)


def cases() -> Iterator[Case]:
    """Yield the cases of the rotation."""
    yield from _generator()
    yield from _signs()
    yield from _plans()
    yield from _transforms()
