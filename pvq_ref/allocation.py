"""Allocation: which tensor gets which rate (spec section 7.7).

The expected loss of a model is modelled as the sum over tensors of S_t e_t(R_t), with e_t the
predicted relative error of a coding (spec section 8.6) and S_t what a unit of it costs, measured
by `sensitivity`. Rates come from a fine grid, since pulses have fine steps. With a price λ for a
byte each tensor takes the rate of least S e + λ size; λ is the least one at which all fit
(Everett 1963; Shoham and Gersho 1988).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pvq_ref.errors import ModelError, OutputError
from pvq_ref.folders import read_json
from pvq_ref.model import write_json
from pvq_ref.output import whole
from pvq_ref.plan import Plan, Settings
from pvq_ref.rates import MAX_BITS, MIN_BITS

STEP = 1 / 32  # of the grid of rates, in bits per weight
REACH = 1.5  # how far a tensor's rate may be from the target
# Sensitivities are known within a factor of two at best, and what they say about one layer holds
# only while the others are left alone, so half of what they ask for is given.
TEMPER = 0.5


@dataclass(frozen=True)
class _Choice:
    rate: float
    size: int
    error: float


def _choices(shape: tuple[int, ...], target: float, settings: Settings) -> list[_Choice]:
    """Return what a tensor of a shape may get, by ascending size; larger is always better."""
    low, high = max(MIN_BITS, target - REACH), min(MAX_BITS, target + REACH)
    choices: list[_Choice] = []
    for step in range(round((high - low) / STEP) + 1):
        rate = low + step * STEP
        coding = settings.coding(shape, rate)
        if coding is None:
            continue
        one = _Choice(rate, coding.allotment.size, coding.allotment.predicted_error())
        if not choices or (one.size > choices[-1].size and one.error < choices[-1].error):
            choices.append(one)
    return choices


def allocate(plan: Plan, sensitivity: Mapping[str, float], settings: Settings) -> dict[str, float]:
    """Return a rate for every tensor of a plan that has a sensitivity, at the same size in all.

    Parameters: plan, at equal rates; sensitivity, what a unit of relative squared error of a tensor
    costs, positive; settings of the plan. Raises ModelError where nothing can be shared out.
    """
    tensors = [t for t in plan.compressed if sensitivity.get(t.entry.name, 0.0) > 0.0]
    if not tensors:
        raise ModelError("the model must have layers with a sensitivity, got none")
    shapes = {t.entry.shape for t in tensors}
    choices = {shape: _choices(shape, settings.bits, settings) for shape in shapes}
    worth = {
        t.entry.name: t.weights * (sensitivity[t.entry.name] / t.weights) ** TEMPER for t in tensors
    }
    room = sum(int(settings.bits * t.weights / 8) for t in tensors)

    def choose(price: float) -> dict[str, _Choice]:
        return {
            t.entry.name: min(
                choices[t.entry.shape], key=lambda c: worth[t.entry.name] * c.error + price * c.size
            )
            for t in tensors
        }

    low, high = 0.0, sum(worth.values())  # a byte for the whole error: everything at its least
    for _ in range(100):
        middle = (low + high) / 2
        if sum(c.size for c in choose(middle).values()) <= room:
            high = middle
        else:
            low = middle
    return {name: choice.rate for name, choice in sorted(choose(high).items())}


def write_rates(path: Path, rates: Mapping[str, float], bits: float) -> None:
    """Write a plan file: the target, and the rate of each tensor. Raises OutputError."""
    with whole(path, force=False, folder=False) as partial:
        write_json(partial, {"bits": bits, "rates": dict(rates)})


def read_rates(path: Path) -> dict[str, float]:
    """Read a plan file. Raises ModelError, OutputError."""
    try:
        value = read_json(path)
    except OSError as error:
        raise OutputError(f"the plan {path} can't be read: {error}") from error
    rates = value.get("rates") if isinstance(value, dict) else None
    if not isinstance(rates, dict) or not all(map(_is_rate, rates.values())):
        raise ModelError(f"the plan {path} must have an object `rates` of names and numbers")
    return {name: float(rate) for name, rate in sorted(rates.items())}


def _is_rate(value: object) -> bool:
    """Whether a value is a number that binary64 holds; its range is checked with the plan."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 53
