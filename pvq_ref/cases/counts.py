"""Cases of counting (spec section 2)."""

from collections.abc import Iterator

from pvq_ref.cases.case import COMMON, FAULTY, UNCOMMON, Case

SIZES = [  # (n, k, comment, flags)
    (0, 0, "the empty vector is the only point", ["empty"]),
    (0, 3, "no coordinates, so no point with pulses", ["empty"]),
    (1, 0, "one coordinate, no pulses: one point", ["empty"]),
    (1, 1000000, "one coordinate has two points whatever k is", ["boundary"]),
    (5, 0, "no pulses: one point", ["empty"]),
    (2, 1, "four points", []),
    (2, 2, "the smallest example of the specification", []),
    (8, 4, "a group of libopus's size", []),
    (16, 57, "V needs exactly 64 bits", ["word-border"]),
    (16, 59, "V needs 65 bits", ["word-border"]),
    (32, 22, "V needs exactly 64 bits", ["word-border"]),
    (32, 23, "V needs 65 bits", ["word-border"]),
    (32, 56, "two words", ["word-border"]),
    (32, 104, "V needs exactly 128 bits", ["word-border"]),
    (32, 106, "V needs 129 bits", ["word-border"]),
    (128, 221, "seven words", ["word-border"]),
    (64, 1, "2n points", []),
    (7, 4, "an odd dimension", []),
    (3, 1000, "many more pulses than coordinates: 4 k² + 2", []),
]


def cases() -> Iterator[Case]:
    """Yield the cases of counting."""
    for n, k, comment, flags in SIZES:
        kind = COMMON if n > 1 and k > 0 else UNCOMMON
        yield Case(f"count/{n}-{k}", "2", comment, "count", {"n": n, "k": k}, flags, kind)
    for n, k, comment, flags in SIZES:
        if k > 1000 or (n, k) in ((32, 106), (3, 1000)):
            continue
        kind = COMMON if n > 1 and k > 0 else UNCOMMON
        yield Case(
            f"half_count/{n}-{k}", "2", f"U: {comment}", "half_count", {"n": n, "k": k}, flags, kind
        )
    for op in ("count", "half_count"):
        for n, k in ((-1, 2), (2, -1)):
            yield Case(
                f"{op}/negative/{n}-{k}", "11", "n and k are at least 0", op, {"n": n, "k": k},
                ["error"], FAULTY,
            )  # fmt: skip
