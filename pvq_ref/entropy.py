"""Entropy of the stored fields: what an entropy coder could take off their fixed widths.

An index of a hundred bits occurs once in a tensor, so its frequency can't be counted. But the chain
rule splits its entropy, with b = ||y||² and N(b) the number of points of P(n,k) with that b:

    H(y) = H(b) + H(y | b) <= H(b) + E log2 N(b).

H(b) can be counted: b takes some dozens of values. The rest is equal if all points of one b are
equally likely. Nearly they are, for a direction that is uniform on the sphere: with many pulses it
falls to the point y with probability

    k / (S ||y||^n),    S = 2 π^(n/2) / Γ(n/2)  the area of the unit sphere,

which depends on b alone. So the sum bounds the entropy from above, and it is the size that an ideal
coder reaches that knows the frequencies of b and nothing else.

Frequencies that were counted on few groups look too sharp: (values - 1) / (2 ln 2 · groups) bits
are added to each counted entropy (Miller, "Note on the bias of information estimates", 1955).
"""

from dataclasses import dataclass
from functools import lru_cache
from math import isqrt, log, log2

import numpy as np
from numpy.typing import NDArray

from pvq_ref.counting import bits, count
from pvq_ref.decoding import decode_groups, decoding_steps
from pvq_ref.groups import Part, parts
from pvq_ref.packing import unpack_from
from pvq_ref.parallel import map_ranges, thread_count
from pvq_ref.tensor import PVQTensor, check_fields

MAX_STEPS = 1 << 33  # additions that the numbers N(b) may take: half a minute


@dataclass(frozen=True)
class Entropy:
    """Bits of the fields of a tensor, or of several: as they are stored, and their entropies.

    Of an index: its width, log2 V, its entropy as defined above, None where n and k are too large
    for it; of a gain: its width, and the entropy of its level.
    """

    weights: int
    index_width: float
    index_log2: float
    index_entropy: float | None
    gain_width: float
    gain_entropy: float

    def __add__(self, other: "Entropy") -> "Entropy":
        """Return the bits of both together."""
        a, b = self.index_entropy, other.index_entropy
        return Entropy(
            self.weights + other.weights,
            self.index_width + other.index_width,
            self.index_log2 + other.index_log2,
            None if a is None or b is None else a + b,
            self.gain_width + other.gain_width,
            self.gain_entropy + other.gain_entropy,
        )

    def per_weight(self) -> dict[str, float | None]:
        """Return all figures but the first in bits per weight."""
        names = ("index_width", "index_log2", "index_entropy", "gain_width", "gain_entropy")
        values = {name: getattr(self, name) for name in names}
        weights = max(1, self.weights)
        return {name: None if v is None else v / weights for name, v in values.items()}


NOTHING = Entropy(0, 0.0, 0.0, 0.0, 0.0, 0.0)


def entropy_of_counts(counts: NDArray[np.int64]) -> float:
    """Return the entropy in bits of a variable whose values were seen so many times.

    Parameters: counts, of any shape, not all 0. Miller's correction is in it.

    >>> round(entropy_of_counts(np.array([500_000, 250_000, 250_000])), 4)
    1.5
    """
    seen = counts[counts > 0].astype(np.float64)
    total = float(seen.sum())
    plain = log2(total) - float(np.sum(seen * np.log2(seen))) / total
    return plain + (seen.size - 1) / (2 * log(2) * total)


@lru_cache(16)
def log2_points(n: int, k: int, most: int) -> NDArray[np.float64] | None:
    """Return log2 N(b) for b = 0 … most: how many points of P(n,k) have ||y||² = b.

    Parameters: n >= 1, k >= 0, most >= 0. Returns (most + 1,) float64, -inf where there is no
    point; None where it would take more than MAX_STEPS additions. All sums are of positive numbers.

    >>> log2_points(2, 2, 4)  # (±1,±1), and four points on the axes
    array([-inf, -inf,   2., -inf,   2.])
    """
    magnitudes = range(1, min(k, isqrt(most)) + 1)
    if n * len(magnitudes) * (k + 1) * (most + 1) > MAX_STEPS:
        return None
    points = np.zeros((k + 1, most + 1))  # by pulses and b; times 2^exponent
    points[0, 0], exponent = 1.0, 0
    for _ in range(n):
        longer = points.copy()
        for a in magnitudes:  # one more coordinate, ±a
            longer[a:, a * a :] += 2 * points[: k + 1 - a, : most + 1 - a * a]
        shift = int(np.frexp(longer.max())[1])
        points, exponent = np.ldexp(longer, -shift), exponent + shift
    with np.errstate(divide="ignore"):
        return np.asarray(np.log2(points[k]) + exponent)


def entropy_of_norms(n: int, k: int, b: NDArray[np.int64]) -> float | None:
    """Return the entropy in bits of points of P(n,k), as defined above.

    Parameters: b (groups,), ||y||² of each point, at least one. Returns None where n and k are too
    large (`log2_points`).
    """
    values, times = np.unique(b, return_counts=True)
    most = int(values[-1])
    step = 1 << max(0, most.bit_length() - 4)  # tensors alike share a table
    points = log2_points(n, k, -(-most // step) * step)
    if points is None:
        return None
    return entropy_of_counts(times) + float(np.average(points[values], weights=times))


def squared_norms(y: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return ||y||² of each row of y (groups, n)."""
    wide = y.astype(np.int64)
    return np.asarray(np.einsum("ij,ij->i", wide, wide))


def _part_entropy(
    t: PVQTensor, part: Part, gains: NDArray[np.int64], threads: int | None
) -> Entropy:
    """Return the entropies of the whole groups, or of the tails; gains (rows, per_row)."""

    def norms(start: int, stop: int) -> NDArray[np.int64]:
        return squared_norms(decode_groups(t, part, start, stop)[0])

    step, most = decoding_steps(t.grid.rows, t.grid.cols)
    threads = min(thread_count(threads), most)
    b = np.concatenate(list(map_ranges(norms, t.grid.rows, step, threads)))
    each = entropy_of_norms(part.n, part.k, b)
    return Entropy(
        b.size * part.n,
        b.size * bits(part.n, part.k),
        b.size * log2(count(part.n, part.k)),
        None if each is None else b.size * each,
        b.size * t.allotment.gain_bits,
        b.size * entropy_of_counts(np.bincount(gains.ravel())),
    )


def entropy(t: PVQTensor, threads: int | None = None) -> Entropy:
    """Return the entropies of a tensor's fields beside their widths, in bits.

    Whole groups and tails are counted apart. Parameters: t; threads, all by default. Raises
    MetadataError, PayloadError.
    """
    check_fields(t)
    rows, groups = t.grid.rows, t.grid.groups
    fields = unpack_from(t.gain, t.allotment.gain_bits, rows * groups, (0, rows * groups, 0))
    gains = fields[:, 0].astype(np.int64).reshape(rows, groups)
    total = NOTHING
    for part in parts(t.allotment):
        own = gains[:, part.first_gain : part.first_gain + part.per_row]
        total += _part_entropy(t, part, own, threads)
    return total
