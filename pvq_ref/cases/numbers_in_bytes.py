"""Cases of numbers in bytes: row norms, packing, rounding (spec sections 8.2, 8.4, 8.5)."""

from collections.abc import Iterator, Sequence
from itertools import islice
from math import inf, nan

from pvq_ref.cases.case import COMMON, FAULTY, UNCOMMON, Case, bell, numbers
from pvq_ref.oracle.packing import pack
from pvq_ref.oracle.rotation import splitmix64

WIDTHS = [  # width, fields, comment, flags
    (0, 5, "no bits: no bytes", ["empty"]),
    (1, 11, "single bits", ["bit-order", "byte-border"]),
    (3, 8, "whole bytes in the end", ["bit-order", "byte-border"]),
    (5, 3, "15 bits", ["bit-order", "byte-border"]),
    (8, 3, "bytes", ["bit-order"]),
    (9, 5, "each field lies across a border", ["byte-border"]),
    (31, 3, "just below half a word", ["byte-border"]),
    (63, 3, "just below a word", ["byte-border", "word-border"]),
    (64, 2, "a word", ["byte-border", "word-border"]),
    (65, 3, "just above a word", ["byte-border", "word-border"]),
    (101, 3, "P(32,56)", ["byte-border", "word-border"]),
    (129, 2, "three words", ["byte-border", "word-border"]),
    (413, 1, "P(128,221)", ["word-border"]),
]


def _field(state: int, width: int) -> int:
    words = islice(splitmix64(state), 7)
    return sum(word << 64 * i for i, word in enumerate(words)) & ((1 << width) - 1)


def _packing() -> Iterator[Case]:
    sequences = [("example", 3, [1, 2, 7, 4], "the example of the specification", ["bit-order"])]
    for width, count, comment, flags in WIDTHS:
        fields = [_field(width + i, width) for i in range(count)]
        sequences.append((f"{width}-bits", width, fields, comment, flags))
    sequences.append(("full", 13, [2**13 - 1] * 3, "all bits set, padding clear", ["bit-order"]))
    sequences.append(("none", 7, [], "no fields: no bytes", ["empty"]))
    for where, width, fields, comment, flags in sequences:
        kind = COMMON if 0 < width < 64 and fields else UNCOMMON
        texts = [str(one) for one in fields]
        yield Case(
            f"pack/{where}", "8.4", comment, "pack", {"fields": texts, "width": width}, flags, kind
        )
        args = {"bytes": pack(fields, width).hex(), "width": width, "count": len(fields)}
        yield Case(f"unpack/{where}", "8.4", comment, "unpack", args, flags, kind)
    for where, data, width, count in (
        ("first", "d119", 3, 4),
        ("last", "d189", 3, 4),
        ("one-bit", "02", 1, 1),
        ("65-bits", "000000000000000002", 65, 1),
    ):
        args = {"bytes": data, "width": width, "count": count}
        yield Case(
            f"unpack/padding-{where}", "11", "padding bits are 0", "unpack", args,
            ["unchecked", "error"], FAULTY,
        )  # fmt: skip


ROUNDED: list[tuple[str, Sequence[float], str, list[str]]] = [
    ("zeros", [0.0, -0.0], "zero keeps its sign", ["negative-zero"]),
    ("some", [1.0, -2.5, 0.1, 100.7, -1e-3], "ordinary numbers", ["rounding"]),
    ("subnormal", [2.0**-24, -(2.0**-25), 3 * 2.0**-25, 2.0**-14 - 2.0**-25, 1e-8, 1.5e-45],
     "around the subnormal numbers of F16, and a smallest one of F32", ["underflow", "rounding"]),
    ("tiny", [2.0**-149, 2.0**-150, 3 * 2.0**-150, 2.0**-133, 2.0**-134, 3 * 2.0**-134, 5e-324],
     "around the smallest numbers of F32 and BF16", ["underflow", "rounding"]),
    ("large", [65504.0, 65519.99, 65520.0, -65536.0, 3.3895313892515355e38, 3.3961775292304957e38,
               3.4028235677973366e38, -3.4028235677973366e38, 1e300],
     "around the largest numbers; what is too large becomes infinity", ["overflow", "rounding"]),
]  # fmt: skip
PRECISION = {"F16": 11, "BF16": 8, "F32": 24, "F64": 53}


def _rounding() -> Iterator[Case]:
    for dtype, bits in PRECISION.items():
        unit = 2.0 ** (1 - bits)
        ties = [1 + unit / 2, 1 + 3 * unit / 2, -1 - unit / 2, 2 - unit / 2, 1 + unit / 4]
        twice = [1 + unit / 2 + unit * 2.0**-24, 1 + 3 * unit / 2 - unit * 2.0**-24]
        if dtype == "BF16":  # in binary32 these are ties, which they aren't
            twice += [1 + unit / 2 + 2.0**-40, 1 + 3 * unit / 2 - 2.0**-40]
        if dtype == "F16":
            twice += [1 + unit / 2 + 2.0**-40, 1 + 3 * unit / 2 - 2.0**-40]
        some = [
            *ROUNDED,
            ("ties", ties, "ties go to even", ["tie-rule", "rounding"]),
            ("once", twice, "near ties: a second rounding on the way shows", ["rounding"]),
        ]
        for where, values, comment, flags in some:
            yield Case(
                f"round/{dtype}/{where}", "8.5", comment, "round",
                {"values": numbers(values), "dtype": dtype}, flags,
                COMMON if where in ("some", "ties") else UNCOMMON,
            )  # fmt: skip


def _row_norms() -> Iterator[Case]:
    rows: list[tuple[str, list[list[float]], str, list[str], str]] = [
        ("bell", [bell(50 + i, 8) for i in range(3)], "three rows", ["sum-order"], COMMON),
        ("one", [[3.0, 4.0]], "5 = 0.625 · 2³: stored as 20480, e = -12", [], COMMON),
        ("power", [[1.0], [0.75], [0.5]], "a power of two is m = 1/2", ["boundary"], COMMON),
        ("zero-row", [[0.0, 0.0], [1.0, 1.0]], "a row of zeros", ["empty"], UNCOMMON),
        ("all-zero", [[0.0], [-0.0]], "only zeros: e = 0", ["empty"], UNCOMMON),
        ("far-apart", [[1.0], [2.0**-25], [3 * 2.0**-29], [2.0**-40]],
         "small rows become subnormal or 0", ["underflow", "rounding"], UNCOMMON),
        ("ties", [[1.0], [1 - 2.0**-12], [1 - 3 * 2.0**-12]], "ties of binary16",
         ["tie-rule", "rounding"], UNCOMMON),
        ("up", [[1 - 2.0**-30]], "rounded up to 2^15", ["boundary"], UNCOMMON),
        ("sum", [[1e8, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1e8]], "squares in index order",
         ["sum-order"], UNCOMMON),
        ("sum-tie", [[1 + 2.0**-11] + [2.0**-27] * 15, [2.0**-27] * 15 + [1 + 2.0**-11]],
         "small squares are lost one by one, or not: a tie, or not", ["sum-order"], UNCOMMON),
        ("largest", [[1e154, 0.0], [1.0, 0.0]], "near the largest norm", ["boundary", "overflow"],
         UNCOMMON),
        ("smallest", [[2.0**-537], [1.5 * 2.0**-537]], "the squares are subnormal",
         ["underflow"], UNCOMMON),
        ("underflow", [[1e-170, 1e-170], [0.0, 0.0]], "the squares are 0, and so is rho",
         ["underflow"], UNCOMMON),
        ("underflow-row", [[1e-170], [1.0]], "in one row", ["underflow"], UNCOMMON),
    ]  # fmt: skip
    for where, values, comment, flags, kind in rows:
        args = {"rows": [numbers(row) for row in values]}
        yield Case(f"row_norms/{where}", "8.2", comment, "row_norms", args, flags, kind)
    for where, values in (
        ("overflow", [[1.0, 1.0], [1e200, 0.0]]),
        ("nan", [[1.0, nan]]),
        ("infinity", [[1.0, 2.0], [-inf, 0.0]]),
    ):
        args = {"rows": [numbers(row) for row in values]}
        yield Case(
            f"row_norms/{where}", "11", "norms are finite", "row_norms", args,
            ["non-finite", "error"], FAULTY,
        )  # fmt: skip


def cases() -> Iterator[Case]:
    """Yield the cases of numbers in bytes."""
    yield from _row_norms()
    yield from _packing()
    yield from _rounding()
