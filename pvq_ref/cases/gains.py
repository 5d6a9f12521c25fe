"""Cases of gains and levels (spec section 5)."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import nextafter

from pvq_ref.cases.case import COMMON, FAULTY, UNCOMMON, Case, bell, integers, number, numbers

DESIGNS = ("quantile", "panter-dite", "panter-dite-centroids", "lloyd-max")
LEVELS = [0.25, 0.5, 0.875, 1.5]


def _gains() -> Iterator[Case]:
    some: list[tuple[str, Sequence[float], list[int], str, list[str], str]] = [
        ("small", [3.0, -8.0], [0, -2], "one pulse: the weight itself", ["sign"], COMMON),
        ("negative", [1.0, 2.0], [-1, 1], "a gain can be small", ["sign"], COMMON),
        ("below-zero", [1.0, 2.0], [-1, -1], "or below 0", ["sign"], UNCOMMON),
        ("bell-8", bell(20, 8), [1, -2, 0, 3, 0, 0, -1, 1], "a group", ["sum-order"], COMMON),
        ("bell-16", bell(21, 16), integers(22, 16, 3), "a group", ["sum-order"], COMMON),
        ("bell-32", bell(23, 32), integers(24, 32, 9), "a group", ["sum-order"], COMMON),
        ("fused", [0.1, 0.2, 0.3], [3, 3, -3], "each product is rounded", ["sum-order"], COMMON),
        ("cancel", [1e16, 1.0, -1e16], [1, 1, 1], "in index order", ["sum-order"], UNCOMMON),
        ("large-y", [1.0, 1e-9], [2**31 - 1, 1], "||y||² has 62 bits", ["overflow"], UNCOMMON),
        ("exact-norm", [1.0] * 3, [94906267, 94906266, 1], "||y||² is above 2^53: exact, then "
         "rounded once", ["rounding"], UNCOMMON),
        ("subnormal", [5e-324, 1e-323], [1, 2], "subnormal weights", ["underflow"], UNCOMMON),
        ("zero", [0.0, -0.0], [1, 1], "no weight: +0", ["negative-zero"], UNCOMMON),
    ]  # fmt: skip
    for where, w, y, comment, flags, kind in some:
        args = {"w": numbers(w), "y": y}
        yield Case(f"optimal_gain/{where}", "5.1", comment, "optimal_gain", args, flags, kind)
    yield Case(
        "optimal_gain/no-pulses", "11", "a group without pulses has no gain", "optimal_gain",
        {"w": numbers([1.0, 2.0]), "y": [0, 0]}, ["error"], FAULTY,
    )  # fmt: skip


def _level_tables() -> Iterator[Case]:
    laws = [  # n, cols, gain bits, c
        (8, 64, 2, 0.9609375),
        (32, 577, 3, 0.984375),
        (3, 7, 2, 0.9),
        (16, 16, 1, 0.96875),
        (24, 4096, 0, 0.97265625),
    ]
    for design in DESIGNS:
        for n, cols, bits, c in laws:
            if bits == 0 and design not in ("quantile", "lloyd-max"):
                continue
            comment = "n = cols: equal levels" if n == cols else f"{2**bits} levels of the law"
            yield Case(
                f"levels/{design}/{n}-{cols}-{bits}", "5.4", comment, "levels",
                {"design": design, "n": n, "cols": cols, "gain_bits": bits, "c": number(c)},
                ["rounding"], UNCOMMON if n == cols or bits == 0 else COMMON,
            )  # fmt: skip
    for where, design, n, cols, bits, comment in (
        ("unknown-design", "uniform", 8, 64, 2, "the designs have names"),
        ("nine-bits", "lloyd-max", 8, 64, 9, "a gain has at most 8 bits"),
        ("small-cols", "lloyd-max", 8, 7, 2, "a group isn't wider than its row"),
    ):
        yield Case(
            f"levels/{where}", "11", comment, "levels",
            {"design": design, "n": n, "cols": cols, "gain_bits": bits, "c": number(1.0)},
            ["error"], FAULTY,
        )  # fmt: skip


def _nearest() -> Iterator[Case]:
    middles = [(a + b) / 2 for a, b in pairwise(LEVELS)]
    some = [
        ("below-all", LEVELS, -1.0, "below the lowest level", "boundary"),
        ("above-all", LEVELS, 7.0, "above the highest level", "boundary"),
        ("on-level", LEVELS, 0.5, "a level itself", "boundary"),
        ("middle-0", LEVELS, middles[0], "an exact middle goes up", "tie-rule"),
        ("middle-1", LEVELS, middles[1], "an exact middle goes up", "tie-rule"),
        ("below-middle-1", LEVELS, nextafter(middles[1], 0.0), "just below it", "tie-rule"),
        ("above-middle-2", LEVELS, nextafter(middles[2], 2.0), "just above it", "tie-rule"),
        ("single", [0.75], 0.0, "one level: no gain bits", "empty"),
        ("equal", [0.5] * 4, 0.5, "equal levels: the highest", "tie-rule"),
        ("equal-below", [0.5] * 4, 0.25, "equal levels: the lowest", "tie-rule"),
        ("some-equal", [0.0, 0.5, 0.5, 1.0], 0.5, "the second of two equal levels", "tie-rule"),
        ("neighbours", [1.0, 1.0 + 2.0**-23], 1.0 + 2.0**-24, "the middle isn't a binary32 number",
         "rounding"),
        ("neighbours-below", [1.0, 1.0 + 2.0**-23], 1.0 + 2.0**-25, "a gain isn't rounded to "
         "binary32", "rounding"),
        ("minus-zero", [-1.0, 1.0], -0.0, "-0 is 0, the middle", "negative-zero"),
    ]  # fmt: skip
    for where, levels, g, comment, flag in some:
        yield Case(
            f"nearest_level/{where}", "5.5", comment, "nearest_level",
            {"levels": numbers(levels), "g": number(g)}, [flag],
            COMMON if flag == "boundary" else UNCOMMON,
        )  # fmt: skip


def cases() -> Iterator[Case]:
    """Yield the cases of gains."""
    yield from _gains()
    yield from _level_tables()
    yield from _nearest()
