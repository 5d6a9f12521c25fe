"""Cases of search (spec section 4)."""

from collections.abc import Iterator, Sequence
from math import inf, nan, nextafter
from typing import Any

from pvq_ref.cases.case import COMMON, FAULTY, UNCOMMON, Case, bell, integers, numbers

TINY, HUGE = 5e-324, 1.7976931348623157e308
FAR = [21.0] + [17.0] * 7 + [7.0] * 7  # at k = 16 two far-apart z have the same f
UP = nextafter(1.0, 2.0)

# id, x, k, comment, flags
COMMON_CASES: list[tuple[str, Sequence[float], int, str, list[str]]] = [
    ("small", [0.9, -0.5, 0.1], 3, "three coordinates", ["sign"]),
    ("negative", [-3.0, -1.0, -2.0], 6, "x itself is on the pyramid", ["sign"]),
    ("multiple", [3.0, -6.0, 0.0, 9.0], 6, "a multiple of x is on the pyramid", []),
    ("one-pulse", [0.25, -0.75, 0.5], 1, "one pulse goes to the largest", ["sign"]),
    ("spike", [0.01] * 7 + [-5.0], 6, "one coordinate takes all", ["sign"]),
    ("flat", [1.0, 1.01, 0.99, -1.0, 1.0, -1.02, 1.0, 0.98], 3, "few pulses, all alike", []),
    ("bell-8", bell(1, 8), 5, "a small group", []),
    ("bell-16", bell(2, 16), 5, "fewer pulses than coordinates", []),
    ("bell-16-many", bell(3, 16), 64, "many pulses", []),
    ("bell-24", bell(4, 24), 30, "as in a file", []),
    ("bell-32", bell(5, 32), 56, "as in a file", []),
    ("bell-5", bell(6, 5), 200, "a fine lattice", []),
]
TIES: list[tuple[str, Sequence[float], int, str]] = [
    ("equal-4", [1.0] * 4, 2, "all equal: the first ones take the pulses"),
    ("equal-4-6", [1.0] * 4, 6, "all equal, more pulses than coordinates"),
    ("equal-signs", [-1.0, 1.0, -1.0], 2, "equal magnitudes, different signs"),
    ("pair", [3.0, 3.0], 3, "two equal coordinates share an odd number"),
    ("last-pair", [5.0, 1.0, 1.0], 6, "the tie is at the end"),
    ("far", FAR, 16, "far-apart z of equal f: the lexicographically greatest"),
    ("far-reversed", FAR[::-1], 16, "the same, from the other end"),
    ("far-middle", [17.0] * 3 + [7.0] * 4 + [21.0] + [17.0] * 4 + [7.0] * 3, 16, "the same, mixed"),
    ("far-signs", [-17.0, 7.0] * 7 + [-21.0], 16, "the same, with signs"),
    ("far-scaled", [value * 2.0**-30 for value in FAR], 16, "the same, smaller"),
    ("far-third", [value * 3.0 for value in FAR], 16, "the same, three times as large"),
]
SCALES: list[tuple[str, Sequence[float], int, str, list[str]]] = [
    ("tripled", [2.7, -1.5, 0.3], 3, "the result doesn't depend on the scale of x", []),
    ("ulp-second", [1.0, UP], 1, "one unit in the last place decides", ["tie-rule"]),
    ("ulp-first", [UP, 1.0], 1, "one unit in the last place decides", ["tie-rule"]),
    ("ulp-odd", [1.0, 1.0, UP, 1.0], 5, "the extra pulse goes where x is larger", ["tie-rule"]),
    ("ulp-shared", [1.0, UP, UP, 1.0], 6, "two extra pulses, two larger numbers", ["tie-rule"]),
    ("subnormal", [TINY, -3 * TINY, 2 * TINY], 6, "the smallest numbers", ["underflow"]),
    ("subnormal-tie", [TINY] * 3, 2, "equal subnormal numbers", ["underflow", "tie-rule"]),
    ("huge", [HUGE, -HUGE / 2, HUGE / 4], 7, "sums overflow", ["overflow"]),
    ("range", [1e300, -1e-300, 0.0], 4, "squares overflow and underflow", ["overflow"]),
    ("lost", [1.0, 1e-320, -2e-320], 2, "small beside large: no pulse", ["underflow"]),
    ("decides", [1.0, 1.0, 1e-320, -2e-320], 3, "a tie but for subnormals", ["underflow"]),
    ("smaller-scale", [13.0, 17.0, 17.0, 1.0], 12, "the best z is flatter than a first guess", []),
    ("smaller-scale-six", [1.0, -3.0, 0.0, 1.0, -8.0, 1.0], 10, "the same on six coordinates", []),
    ("near-tie-square", [1.0, 1.0, 2.0**-40], 2, "nearly a tie of two z", ["tie-rule"]),
]
EDGES: list[tuple[str, Sequence[float], int, str, list[str]]] = [
    ("one", [0.3], 5, "one coordinate takes all pulses", ["boundary"]),
    ("one-negative", [-0.3], 5, "one coordinate takes all pulses", ["boundary", "sign"]),
    ("no-pulses", [0.3, -2.0], 0, "k = 0 gives 0", ["empty"]),
    ("no-pulses-zero", [0.0, -0.0], 0, "k = 0 gives 0, for x = 0 too", ["empty"]),
    ("zero", [0.0, 0.0, 0.0], 4, "x = 0: everything on the first coordinate", ["tie-rule"]),
    ("minus-zero", [-0.0, -0.0], 2, "-0 isn't below 0", ["negative-zero"]),
    ("minus-zero-one", [-0.0], 3, "-0 isn't below 0", ["negative-zero", "boundary"]),
    ("zeros-inside", [0.0, -2.0, 0.0, 1.0], 3, "coordinates of value 0", ["sign"]),
    ("large-k", [0.7, -0.3], 2000, "||z||² is above 2^21", ["overflow"]),
    ("large-k-tie", [1.0, 1.0, 1.0], 2000, "a tie with many pulses", ["tie-rule"]),
]
PROJECTED: list[tuple[str, Sequence[float], int, str, list[str]]] = [
    ("halves", [1.0, 1.0], 3, "p = 3/2: ties to even make 4, and one is taken away", ["tie-rule"]),
    ("halves-down", [1.0, 1.0], 1, "p = 1/2: ties to even make 0", ["tie-rule"]),
    ("halves-four", [1.0] * 4, 2, "p = 1/2 four times: the lowest indices get one", ["tie-rule"]),
    ("halves-six", [1.0] * 4, 6, "p = 3/2 four times: the highest lose one", ["tie-rule"]),
    ("halves-signs", [-1.0, 1.0, -1.0, 1.0], 6, "the same with signs", ["tie-rule", "sign"]),
    ("halves-mixed", [1.0, 3.0], 2, "p = 1/2 and 3/2: to even, 0 and 2", ["tie-rule"]),
    ("once", [7.0, 21.0], 34, "p = 17/2 exactly, if it is one product and one quotient",
     ["rounding", "tie-rule"]),
    ("add-three", [0.3, 0.3, 0.3, 0.3, 0.2, 0.2], 3, "several are added", ["tie-rule"]),
    ("remove-zero", [5.0, 0.55, 0.55, 0.55, 0.6], 8, "only a z above 0 may lose one", []),
    ("worse", [1.0, 0.9, 0.8, 0.4], 2, "not the best y, but the paper's", []),
    ("sum-order", [1.0] + [2.0**-53] * 6, 9, "in index order S loses the rest", ["sum-order"]),
    ("million", bell(7, 6), 1000000, "large k", ["overflow"]),
]  # fmt: skip


def _case(op: str, where: str, x: Sequence[float], k: int, comment: str, **other: Any) -> Case:
    section = {"search": "4.1", "search_project": "4.2"}[op]
    args = {"x": numbers(x), "k": k}
    return Case(f"{op}/{where}", other.pop("section", section), comment, op, args, **other)


def _exact() -> Iterator[Case]:
    for where, x, k, comment, flags in COMMON_CASES:
        yield _case("search", where, x, k, comment, flags=flags, kind=COMMON)
    for where, x, k, comment in TIES:
        yield _case("search", where, x, k, comment, flags=["tie-rule"], kind=UNCOMMON)
    for where, x, k, comment, flags in SCALES + EDGES:
        yield _case("search", where, x, k, comment, flags=flags, kind=UNCOMMON)
    for seed in range(8):
        n = 5 + seed
        x = [float(value) for value in integers(seed + 100, n, 5)]
        comment = "small integers: many z of equal or nearly equal f"
        where = f"integers-{seed}"
        yield _case("search", where, x, 2 * seed + 3, comment, flags=["tie-rule"], kind=UNCOMMON)


def _project() -> Iterator[Case]:
    for where, x, k, comment, flags in [*COMMON_CASES[:1], *COMMON_CASES[4:10]]:
        yield _case("search_project", where, x, k, comment, flags=flags, kind=COMMON)
    for where, x, k, comment, flags in PROJECTED:
        yield _case("search_project", where, x, k, comment, flags=flags, kind=COMMON)
    for where, x, k, comment, flags in [*SCALES[5:9], *EDGES[:7]]:
        yield _case("search_project", where, x, k, comment, flags=flags, kind=UNCOMMON)


def _faulty() -> Iterator[Case]:
    for op in ("search", "search_project"):
        for where, x, k, comment in (
            ("nan", [1.0, nan], 2, "NaN is an error"),
            ("infinity", [inf, 1.0], 2, "infinity is an error"),
            ("minus-infinity", [0.0, -inf], 2, "infinity is an error"),
            ("nan-no-pulses", [nan], 0, "NaN is an error for k = 0 too"),
        ):
            flags = ["non-finite", "error"]
            yield _case(op, where, x, k, comment, section="11", flags=flags, kind=FAULTY)
        comment = "k is at least 0"
        yield _case(
            op, "negative-k", [1.0], -1, comment, section="11", flags=["error"], kind=FAULTY
        )


def cases() -> Iterator[Case]:
    """Yield the cases of search."""
    yield from _exact()
    yield from _project()
    yield from _faulty()
