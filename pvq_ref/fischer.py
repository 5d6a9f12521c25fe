"""The fischer order of one group, counted from its end (spec section 3.1).

The vectors of P(l,k) with |y_1| >= a number 2 U(l,k-a+1). So the distance of a vector from the end
of the list, V - 1 - index, is a sum of one term per coordinate: with R pulses for the coordinates
after it, V(l,R) for a positive one and 2 U(l,R) otherwise. low[l,R] and high[l,R] hold the two.
"""

import numpy as np
from numpy.typing import NDArray

from pvq_ref import words
from pvq_ref.jit import kernel
from pvq_ref.words import Words


@kernel
def fischer_to_word(y: NDArray[np.int32], low: Words, high: Words) -> np.uint64:
    """Return the distance of y from the end of its list, of one word."""
    n = y.size
    total = np.uint64(0)
    after = 0
    for j in range(n - 1, -1, -1):
        value = int(y[j])
        total += high[n - j, after, 0] if value > 0 else low[n - j, after, 0]
        after += abs(value)
    return total


@kernel
def fischer_from_word(
    left: np.uint64, k: int, low: Words, high: Words, y: NDArray[np.int32]
) -> None:
    """Write the vector at a distance `left` from the end of the list of P(n,k)."""
    n = y.size
    for j in range(n):
        after = k
        while low[n - j, after, 0] > left:
            after -= 1
        if after < k and high[n - j, after, 0] <= left:
            left -= high[n - j, after, 0]
            y[j] = k - after
        else:
            left -= low[n - j, after, 0]
            y[j] = after - k
        k = after


@kernel
def fischer_to_words(y: NDArray[np.int32], low: Words, high: Words, left: Words) -> None:
    """Subtract the distance of y from the end of its list from left."""
    n = y.size
    after = 0
    for j in range(n - 1, -1, -1):
        value = int(y[j])
        words.subtract(left, high[n - j, after] if value > 0 else low[n - j, after])
        after += abs(value)


@kernel
def fischer_from_words(left: Words, k: int, low: Words, high: Words, y: NDArray[np.int32]) -> None:
    """Write the vector at a distance `left` from the end of the list of P(n,k); use up left."""
    n = y.size
    for j in range(n):
        after = k
        while words.less(left, low[n - j, after]):
            after -= 1
        if after < k and not words.less(left, high[n - j, after]):
            words.subtract(left, high[n - j, after])
            y[j] = k - after
        else:
            words.subtract(left, low[n - j, after])
            y[j] = after - k
        k = after
