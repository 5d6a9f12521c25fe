"""Search in integers, for the rare groups that binary64 leaves in doubt (spec section 4.1).

The walk of `pvq_ref.searching` over the vertices of the hull of (a,b), without rounding:
coordinates are integers, scales are fractions, and ties go to the lexicographically greatest point.
"""

from fractions import Fraction

Point = list[int]


def _integers(x: list[float]) -> tuple[Point, int]:
    """Return non-negative floats times 2^shift, as integers."""
    ratios = [value.as_integer_ratio() for value in x]
    shift = max(bottom.bit_length() - 1 for _, bottom in ratios)
    return [top << (shift + 1 - bottom.bit_length()) for top, bottom in ratios], shift


def _move(x: Point, z: Point, s: Fraction) -> tuple[int, int, bool]:
    """Return where a pulse is worth most, where least, and whether the first is worth more."""
    p, q = s.numerator, s.denominator
    gain = [2 * p * value - q * (2 * pulses + 1) for value, pulses in zip(x, z, strict=True)]
    loss = [(g + 2 * q, -place) for place, g in enumerate(gain) if z[place] > 0]
    i = gain.index(max(gain))
    least, j = min(loss)
    return i, -j, gain[i] > least


def _settle(x: Point, z: Point, s: Fraction) -> Point:
    """Return a nearest point to s x, starting from z."""
    z = list(z)
    while True:
        i, j, better = _move(x, z, s)
        if not better:
            return z
        z[i] += 1
        z[j] -= 1


def _next_move(x: Point, z: Point, end: Fraction) -> tuple[int, int] | None:
    """Return the first move of a pulse (to, from) between z's interval and the scale `end`."""
    s, move = end, None
    while True:
        i, j, better = _move(x, z, s)
        if not better:
            return move
        s, move = Fraction(z[i] - z[j] + 1, x[i] - x[j]), (i, j)


def _products(x: Point, z: Point) -> tuple[int, int]:
    return sum(u * v for u, v in zip(x, z, strict=True)), sum(v * v for v in z)


def _key(x: Point, z: Point) -> tuple[Fraction, Point]:
    a, b = _products(x, z)
    return Fraction(a * a, b), z


def exact_search(x: list[float], z: Point, low: float, high: float, exponent: int) -> Point:
    """Return the point of greatest cosine with x, ties to the lexicographically greatest.

    x is non-negative; z is any point of the pyramid with <x,z> > 0; an optimum is nearest to s x
    2^-exponent for a scale s from low to high.
    """
    integers, shift = _integers(x)
    unit = Fraction(2) ** (exponent + shift)  # x 2^-exponent is the integers over this
    while True:
        a, b = _products(integers, z)
        settled = _settle(integers, z, Fraction(b, a))
        if settled == z:
            break
        z = settled
    best = _key(integers, z)
    for end in (Fraction(high) / unit, Fraction(low) / unit):
        walker = list(z)
        while (move := _next_move(integers, walker, end)) is not None:
            walker[move[0]] += 1
            walker[move[1]] -= 1
            best = max(best, _key(integers, list(walker)))
    return best[1]
