"""Cases of whole tensors (spec sections 8.1 to 8.5, with the objects of 9.3)."""

import struct
from collections.abc import Iterator
from math import prod
from typing import Any

from pvq_ref.cases.case import COMMON, FAULTY, UNCOMMON, Case
from pvq_ref.oracle.counting import bits, count
from pvq_ref.oracle.layout import Layout, read_layout
from pvq_ref.oracle.packing import pack, pack_mixed
from pvq_ref.oracle.rotation import plan, splitmix64

Object = dict[str, Any]
Parts = dict[str, bytes]

SIMPLE: Object = {
    "shape": [2, 8], "dtype": "F32", "n": 4, "k": 3, "tail_k": 0, "order": "fischer", "block": 0,
    "gain_bits": 2, "levels": "lloyd-max", "norm_exponent": -14, "rotation": None,
}  # fmt: skip


def rotation(cols: int, seed: int) -> Object:
    """Return the planned rotation as an object of section 9.3."""
    return {"seed": str(seed), "blocks": [vars(block) for block in plan(cols)]}


def parts_of(layout: Layout, seed: int = 0) -> Parts:
    """Return made-up fields of a tensor; the first group has the first index, the last the last."""
    numbers = splitmix64(seed)
    groups = layout.row_groups * layout.rows
    indices = [(next(numbers) << 448 | next(numbers)) % count(*group) for group in groups]
    indices[0], indices[-1] = 0, count(*groups[-1]) - 1
    gains = [next(numbers) % 2**layout.gain_bits for _ in groups]
    norms = [next(numbers) % 0x7800 for _ in range(layout.rows)]  # any pattern below 2^15
    rows = 2 if layout.tail else 1
    levels = [
        (i + 1) / 2 ** (layout.gain_bits + 1) + row / 64 + i * i / 3
        for row in range(rows)
        for i in range(2**layout.gain_bits)
    ]
    return {
        "index": pack_mixed(indices, layout.row_widths * layout.rows),
        "gain": pack(gains, layout.gain_bits),
        "row_norm": b"".join(struct.pack("<H", norm) for norm in norms),
        "levels": struct.pack(f"<{len(levels)}f", *levels),
    }


def with_parts(item: Object, seed: int = 0, /, **changes: bytes) -> Object:
    """Return the arguments of `decode_tensor` for an object of section 9.3."""
    parts = parts_of(read_layout(item), seed) | changes
    return {"metadata": item, **{name: data.hex() for name, data in parts.items()}}


GOOD: list[tuple[str, Object, str, list[str], str]] = [
    ("simple", {}, "two rows of two groups", [], COMMON),
    ("opus", {"order": "opus"}, "the same in opus", ["order"], COMMON),
    ("blocked", {"order": "blocked", "block": 2}, "the same in blocks of 2", ["order"], COMMON),
    ("block-1", {"order": "blocked", "block": 1}, "blocks of 1", ["order"], UNCOMMON),
    ("block-wide", {"order": "blocked", "block": 2147483647}, "a block wider than its group",
     ["order", "boundary"], UNCOMMON),
    ("tail", {"shape": [3, 11], "tail_k": 2}, "tails of three coordinates", ["tail"], COMMON),
    ("tail-one", {"shape": [3, 9], "tail_k": 5}, "tails of one coordinate", ["tail"], UNCOMMON),
    ("tail-opus", {"shape": [3, 7], "tail_k": 1, "order": "opus"}, "tails in opus", ["tail"],
     COMMON),
    ("tail-blocked", {"shape": [3, 19], "n": 8, "k": 9, "tail_k": 4, "order": "blocked",
     "block": 4}, "a tail narrower than a block", ["tail"], COMMON),
    ("tail-many", {"shape": [2, 7], "tail_k": 40}, "a tail with more pulses than whole groups",
     ["tail"], UNCOMMON),
    ("rotated", {"shape": [3, 12], "rotation": rotation(12, 0)}, "rotated rows", ["transpose"],
     COMMON),
    ("rotated-tail", {"shape": [2, 14], "n": 8, "k": 6, "tail_k": 3,
     "rotation": rotation(14, 2**64 - 1)}, "rotated rows with tails", ["tail", "transpose"],
     COMMON),
    ("rotated-blocked", {"shape": [2, 24], "n": 8, "k": 6, "order": "blocked", "block": 4,
     "rotation": rotation(24, 12345)}, "as in a file", ["transpose"], COMMON),
    ("three-dimensional", {"shape": [2, 3, 6], "n": 4, "tail_k": 2}, "rows are all dimensions but "
     "the last", ["tail"], COMMON),
    ("four-dimensional", {"shape": [1, 2, 1, 4]}, "four dimensions", [], UNCOMMON),
    ("no-gain-bits", {"gain_bits": 0}, "one level, no gain fields", ["empty"], COMMON),
    ("no-gain-bits-tail", {"gain_bits": 0, "shape": [2, 6], "tail_k": 1}, "two levels, no gain "
     "fields", ["empty", "tail"], COMMON),
    ("three-gain-bits", {"gain_bits": 3, "shape": [3, 13], "tail_k": 1}, "gains across bytes",
     ["byte-border", "tail"], COMMON),
    ("eight-gain-bits", {"gain_bits": 8, "shape": [1, 8]}, "256 levels", ["boundary"], UNCOMMON),
    ("whole-row", {"n": 8, "k": 5}, "a group is a row", ["boundary"], UNCOMMON),
    ("one-column", {"shape": [3, 1], "n": 1, "k": 7}, "a row is one number", ["boundary"],
     UNCOMMON),
    ("one-pulse", {"k": 1}, "one pulse", ["boundary"], UNCOMMON),
    ("large-k", {"shape": [1, 2], "n": 2, "k": 20000}, "many pulses on two coordinates",
     ["overflow"], UNCOMMON),
    ("two-words", {"shape": [2, 40], "n": 32, "k": 56, "tail_k": 9, "order": "blocked",
     "block": 4, "gain_bits": 3}, "indices of 101 bits", ["word-border", "byte-border", "tail"],
     COMMON),
    ("64-bits", {"shape": [2, 34], "n": 16, "k": 57, "tail_k": 3, "gain_bits": 1},
     "indices of 64 bits", ["word-border", "tail"], UNCOMMON),
    ("least-exponent", {"norm_exponent": -551}, "the least norm exponent", ["underflow"], UNCOMMON),
    ("greatest-exponent", {"norm_exponent": 497}, "the greatest one", ["overflow"], UNCOMMON),
]  # fmt: skip
FOUR = {"shape": [1, 4], "gain_bits": 0}
ROTATION = rotation(8, 0)
BAD_OBJECTS: list[tuple[str, Object, str]] = [
    ("no-dimension", {"shape": []}, "two dimensions at least"),
    ("one-dimension", {"shape": [8]}, "two dimensions at least"),
    ("zero-dimension", {"shape": [0, 8]}, "dimensions are at least 1"),
    ("fraction", {"shape": [2.5, 8]}, "dimensions are integers"),
    ("n-above-cols", {"n": 9}, "a group isn't wider than its row"),
    ("n-zero", {"n": 0}, "n is at least 1"),
    ("k-zero", {"k": 0}, "whole groups have pulses"),
    ("k-boolean", {"k": True}, "a boolean isn't an integer"),
    ("k-above", {"k": 2**31}, "k has a limit"),
    ("tail-missing", {"shape": [2, 9]}, "a tail has pulses"),
    ("tail-without", {"tail_k": 1}, "tail_k is 0 without a tail"),
    ("unknown-order", {"order": "zigzag"}, "there are three orders"),
    ("block-missing", {"order": "blocked"}, "blocks have a size"),
    ("block-without", {"block": 4}, "other orders have no block size"),
    ("nine-gain-bits", {"gain_bits": 9}, "at most 8 gain bits"),
    ("negative-gain-bits", {"gain_bits": -1}, "at least 0 gain bits"),
    ("unknown-design", {"levels": "auto"}, "the name of a design, not of a choice"),
    ("unknown-dtype", {"dtype": "I32"}, "a floating type"),
    ("low-exponent", {"norm_exponent": -552}, "the norm exponent has a range"),
    ("high-exponent", {"norm_exponent": 498}, "the norm exponent has a range"),
    ("exponent-fraction", {"norm_exponent": -14.0}, "an integer isn't written as a fraction"),
    ("another-key", {"comment": ""}, "the keys of the table and no other"),
    ("seed-number", {"rotation": ROTATION | {"seed": 0}}, "a seed is a string"),
    ("seed-zeros", {"rotation": ROTATION | {"seed": "00"}}, "without leading zeros"),
    ("seed-sign", {"rotation": ROTATION | {"seed": "-1"}}, "a seed isn't negative"),
    ("seed-above", {"rotation": ROTATION | {"seed": str(2**64)}}, "a seed has 64 bits"),
    ("rotation-key", {"rotation": ROTATION | {"kind": ""}}, "the keys of the table and no other"),
    ("blocks-short", {"rotation": rotation(4, 0)}, "blocks cover the columns"),
    ("blocks-long", {"rotation": rotation(16, 0)}, "blocks cover the columns"),
    ("blocks-none", {"rotation": {"seed": "0", "blocks": []}}, "blocks cover the columns"),
]
BLOCKS: list[tuple[str, Object, str]] = [
    ("order-6", {"order": 6, "paley": 0, "q": 0}, "6 isn't a power of two"),
    ("paley-3", {"paley": 3, "q": 3}, "there are two constructions"),
    ("q-without", {"paley": 0, "q": 3}, "q is 0 for the base 1"),
    ("paley-one-5", {"paley": 1, "q": 5}, "I needs q ≡ 3 (mod 4)"),
    ("paley-two-3", {"paley": 2, "q": 3}, "II needs q ≡ 1 (mod 4)"),
    ("composite", {"order": 16, "paley": 1, "q": 15}, "15 isn't a power of a prime"),
    ("not-a-multiple", {"order": 8, "paley": 1, "q": 11}, "8 isn't 12 · 2^e"),
    ("count-zero", {"count": 0}, "a count is at least 1"),
]


def _faulty(where: str, args: Object, comment: str, flags: list[str]) -> Case:
    return Case(f"decode_tensor/{where}", "11", comment, "decode_tensor", args, flags, FAULTY)


def _bad_objects() -> Iterator[Case]:
    good = with_parts(SIMPLE)
    for where, change, comment in BAD_OBJECTS:
        args = good | {"metadata": SIMPLE | change}
        yield _faulty(f"metadata/{where}", args, comment, ["error"])
    for where, change, comment in BLOCKS:
        block = {"count": 1, "order": 8, "paley": 0, "q": 0} | change
        shape = [2, block["order"]]
        item = SIMPLE | {"shape": shape, "rotation": {"seed": "0", "blocks": [block]}}
        if shape[1] % 4:
            item["tail_k"] = 1
        parts = with_parts(item | {"rotation": None})  # all else is right
        args = parts | {"metadata": item}
        yield _faulty(f"metadata/block-{where}", args, comment, ["error"])
    some: list[tuple[str, Object, str]] = [
        ("n-limit", {"shape": [1, 4097], "n": 4097, "k": 1}, "n is at most 4096"),
        ("k-limit", {"shape": [1, 1], "n": 1, "k": 2**31}, "k is at most 2^31 - 1"),
    ]
    for where, change, limit in some:
        args = {"metadata": SIMPLE | change | {"gain_bits": 0}, "gain": "", "row_norm": "003c"}
        args |= {"index": "0000" if change["n"] > 1 else "00", "levels": "0000803f"}
        yield _faulty(
            f"metadata/{where}", args, f"{limit}, all else is right", ["boundary", "error"]
        )
    lacking = {key: value for key, value in SIMPLE.items() if key != "tail_k"}
    args = good | {"metadata": lacking}
    yield _faulty("metadata/key-missing", args, "the keys of the table, all of them", ["error"])


def _bad_payloads() -> Iterator[Case]:
    one = SIMPLE | FOUR
    width, size = bits(4, 3), count(4, 3)
    above = pack([size], width)
    tailed = SIMPLE | {"shape": [1, 6], "tail_k": 1, "gain_bits": 1}
    levels = {
        "infinite": [0.0, float("inf")], "nan": [0.0, float("nan")], "descend": [1.0, 0.5],
        "descend-tail": [0.0, 1.0, 1.0, 0.5],
    }  # fmt: skip
    flags = ["unchecked", "error"]
    yield _faulty(
        "index-above", with_parts(one, index=above), "an index is below V", ["index-range", "error"]
    )
    item, fields = tailed | {"tail_k": 3}, pack_mixed([size - 1, count(2, 3)], [width, bits(2, 3)])
    args = with_parts(item, index=fields)
    yield _faulty("tail-index-above", args, "an index is below V", ["index-range", "error"])
    yield _faulty(
        "index-padding", with_parts(one, index=bytes([1 << width % 8])), "padding bits are 0", flags
    )
    yield _faulty("gain-padding", with_parts(tailed, gain=b"\x04"), "padding bits are 0", flags)
    for where, pattern in (
        ("infinite", 0x7C00), ("nan", 0x7E00), ("negative", 0xBC00), ("minus-zero", 0x8000)
    ):  # fmt: skip
        args = with_parts(one, row_norm=struct.pack("<H", pattern))
        yield _faulty(f"norm-{where}", args, "norms are finite, without a sign", flags)
    for where, values in levels.items():
        item = tailed if len(values) == 4 else SIMPLE | {"shape": [1, 4], "gain_bits": 1}
        args = with_parts(item, levels=struct.pack(f"<{len(values)}f", *values))
        yield _faulty(f"levels-{where}", args, "levels are finite and ascend", flags)
    for part in ("index", "gain", "row_norm", "levels"):
        long = parts_of(read_layout(SIMPLE))[part]
        args = with_parts(SIMPLE, **{part: long + bytes(4)})
        yield _faulty(f"long-{part}", args, "entries have the sizes that follow", ["error"])


def cases() -> Iterator[Case]:
    """Yield the cases of whole tensors."""
    for where, change, comment, flags, kind in GOOD:
        item = SIMPLE | change
        args = with_parts(item, prod(item["shape"]))
        yield Case(f"decode_tensor/{where}", "8.5", comment, "decode_tensor", args, flags, kind)
    some = {
        "zero-norm": {"row_norm": b"\0\0\0\x3c"},
        "equal-levels": {"levels": struct.pack("<4f", *[0.5] * 4)},
        "negative-level": {"levels": struct.pack("<4f", -1.0, -0.5, -0.0, 1.0)},
        "smallest-norm": {"row_norm": b"\1\0\xff\x7b"},
    }
    comments = {
        "zero-norm": "a row of zeros, with signs",
        "equal-levels": "levels may be equal",
        "negative-level": "levels may be below 0",
        "smallest-norm": "the smallest and the largest number of binary16",
    }
    for where, changes in some.items():
        yield Case(
            f"decode_tensor/{where}", "8.5", comments[where], "decode_tensor",
            with_parts(SIMPLE, 9, **changes), ["negative-zero", "boundary"], UNCOMMON,
        )  # fmt: skip
    yield from _bad_objects()
    yield from _bad_payloads()
