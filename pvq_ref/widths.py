"""Whether indices can have the width that a file gives them, before V(n,k) is counted.

    C(n+k-1, k) <= V(n,k) <= C(n+k-1, k) 2^min(n,k)

since a point of the pyramid is a way to share k pulses out among n coordinates, with a sign for
each that gets some. log2 of both ends takes no time, and V of many digits milliseconds: a file
has to pay for them with indices as long as they are.
"""

from collections.abc import Mapping
from math import lgamma, log

from pvq_ref.container import Entry
from pvq_ref.errors import CapacityError, MetadataError
from pvq_ref.rates import Allotment

MAX_WORK = 1 << 33  # steps times bits that the counts of a file may take: a second or so


def _ways(n: int, k: int) -> float:
    """Return log2 C(n+k-1, k), half a bit too small at most."""
    exact = (lgamma(n + k) - lgamma(n) - lgamma(k + 1)) / log(2)
    return max(0.0, exact - 0.5) if k else 0.0


def check_width(name: str, a: Allotment, entries: Mapping[str, Entry]) -> None:
    """Raise MetadataError if an index sequence can't be as long as its entry says."""
    entry = entries.get(f"{name}_index")
    if entry is None:
        return  # which is told elsewhere
    low = high = 0.0
    for count, n, k in _pyramids(a):
        ways = _ways(n, k)
        low += count * ways
        high += count * (ways + min(n, k) + 2)
    got, rows = 8 * entry.size, a.grid.rows
    if not rows * low - 8 <= got <= rows * high + 8:
        raise MetadataError(
            f"entry {f'{name}_index'!r:.80} must have the bytes of {rows} rows of indices of "
            f"n = {a.grid.n}, k = {a.k}, tail_k = {a.tail_k}, got {entry.size}"
        )


def _pyramids(a: Allotment) -> list[tuple[int, int, int]]:
    """Return (groups in a row, n, k) of whole groups, and of tails if there are any."""
    tail = [(1, a.grid.tail, a.tail_k)] if a.grid.tail else []
    return [(a.grid.whole, a.grid.n, a.k), *tail]


def check_work(allotments: list[Allotment]) -> None:
    """Raise CapacityError if the counts V(n,k) of a file would take long."""
    pyramids = {(n, k) for a in allotments for _, n, k in _pyramids(a)}
    work = sum(int(min(n, k) * (_ways(n, k) + min(n, k) + 64)) for n, k in pyramids)
    if work > MAX_WORK:
        raise CapacityError(
            f"the pyramids of a file must take at most {MAX_WORK} steps to count, got {work}"
        )
