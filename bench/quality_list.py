"""The configurations of quality.py: what is coded how, calibrated on what, and its name.

  original                           nothing coded
  pvq-BITS[-nGROUP]                  PVQ at a file rate, as `compress --calibrate` without
                                     allocation and tuning
      -seed1, -seed2                 other windows of the calibration text
      -sweeps1, -sweeps4             at most so many sweeps; the default is none
      -pathsP[-sweeps4]              P ways to code a row side by side
      -plain                         Euclidean search in each group
      -share0, -share1               none or all of the way to the corrected target
      -one-pass                      Hessians of the original model's inputs, and no correction
      -no-data                       no Hessian at all
  [rotated-]rtn-BITS-SCALEGROUP      round to nearest
  [rotated-]gptq-BITS-SCALEGROUP     GPTQ
      -clip                          scales of least squared error
  turboquant[-feedback]-LEVELS       rotated, Lloyd–Max levels, a norm for each row
  turboquant[-feedback]-5-and-6      the same, of 9 groups of 64 columns 4 with 5 levels, 5 with 6
  w1024-…                            windows of 1024 in calibration (the first ones of the text, one
                                     pass) and evaluation (65,536 tokens)

What needs no data (rtn, turboquant, -no-data) codes the weights as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

from baselines import LloydMax, Setting
from quality_methods import Method, Pvq, Scalar
from uniform_grid import Uniform

RATES = (2.0, 2.25, 2.5, 2.75, 3.0, 3.25, 3.5, 3.75, 4.0, 4.25, 4.5, 4.75, 5.0)
MAIN_RATES = (2.25, 3.25, 4.25)
GROUPS = (16, 64, 128)
BITS = (2, 3, 4)
SCALES = (("absmax", 32), ("offset", 64), ("minmax", 32), ("minmax", 64))
CLIPPED = SCALES[:2]
LEVELS = (4, 5, 6, 8, 11, 16, 22, 30)
MIXED = LloydMax(5, more=5 / 9)  # a quarter bit above PVQ of 2.25 bits, where no whole number is


@dataclass(frozen=True)
class Calibration:
    """Tokens and windows from the first half of the text, and how the model is walked through.

    seed draws the windows as `compress --calibrate` does, None takes the first ones; share and
    one_pass as in `walk`, share with the default of `compress --calibrate`.
    """

    tokens: int = 131072
    window: int = 512
    seed: int | None = 0
    share: float = 0.7
    one_pass: bool = False


@dataclass(frozen=True)
class Evaluation:
    """The second half of the text, at most so many tokens, in windows."""

    tokens: int | None = None
    window: int = 512


@dataclass(frozen=True)
class Configuration:
    """One row of the result. family names a line of the picture, and is empty for what is none."""

    name: str
    family: str
    method: Method | None
    calibration: Calibration
    evaluation: Evaluation


def described(value: object) -> Any:
    """Return dataclasses as objects of JSON, each with its name."""
    if not is_dataclass(value):
        return value
    inner = {field.name: described(getattr(value, field.name)) for field in fields(value)}
    return {"kind": type(value).__name__, **inner}


def _pvq(c: Calibration) -> Iterator[tuple[str, str, Method, Calibration]]:
    for bits in RATES:
        yield f"pvq-{bits:g}", "PVQ", Pvq(bits), c
    for bits in MAIN_RATES:
        for seed in (1, 2):
            yield f"pvq-{bits:g}-seed{seed}", "", Pvq(bits), replace(c, seed=seed)
        for group in GROUPS:
            yield f"pvq-{bits:g}-n{group}", "", Pvq(bits, group), c
    for bits, group, paths in product(MAIN_RATES[:2], (64, 128), (8, 16)):
        name = f"pvq-{bits:g}-n{group}-paths{paths}"
        yield name, "", Pvq(bits, group, paths=paths), c
        yield f"{name}-sweeps4", "", Pvq(bits, group, paths=paths, sweeps=4), c
    best, name = Pvq(2.25, 192, paths=16, sweeps=4), "pvq-2.25-n192-paths16-sweeps4"
    yield name, "", best, c
    for seed in (1, 2):
        way = replace(c, seed=seed)
        yield f"pvq-2.25-n64-paths16-seed{seed}", "", Pvq(2.25, 64, paths=16), way
        yield f"{name}-seed{seed}", "", best, way
    one_pass, name = replace(c, share=0.0, one_pass=True), "pvq-3.25"
    for sweeps in (1, 4):
        yield f"{name}-sweeps{sweeps}", "", Pvq(3.25, sweeps=sweeps), c
    yield f"{name}-plain", "", Pvq(3.25, search="plain"), c
    for share in (0.0, 1.0):
        yield f"{name}-share{share:g}", "", Pvq(3.25), replace(c, share=share)
    yield f"{name}-one-pass", "", Pvq(3.25), one_pass
    yield f"{name}-one-pass-sweeps4", "", Pvq(3.25, sweeps=4), one_pass
    yield f"{name}-one-pass-plain", "", Pvq(3.25, search="plain"), one_pass
    for bits in MAIN_RATES:
        yield f"pvq-{bits:g}-no-data", "", Pvq(bits, search=None), one_pass


def _uniform(c: Calibration) -> Iterator[tuple[str, str, Method, Calibration]]:
    for rotate, feedback, clip in product((False, True), (True, False), (False, True)):
        turned, kind = "rotated-" if rotate else "", "gptq" if feedback else "rtn"
        family = ("GPTQ" if feedback else "round to nearest") + (", rotated" if rotate else "")
        way = c if feedback else replace(c, share=0.0, one_pass=True)
        for bits, (scale, group) in product(BITS, CLIPPED if clip else SCALES):
            setting = Setting(Uniform(1 << bits, group, scale, clip), rotate)
            name = f"{turned}{kind}-{bits}-{scale}{group}" + ("-clip" if clip else "")
            yield name, family, Scalar(setting, feedback), way
    for bits in BITS:
        method = Scalar(Setting(Uniform(1 << bits, 64, "offset"), rotate=True), feedback=True)
        name = f"rotated-gptq-{bits}-offset64"
        yield f"{name}-share0", "", method, replace(c, share=0.0)
        yield f"{name}-one-pass", "", method, replace(c, share=0.0, one_pass=True)


def _lloyd_max(c: Calibration) -> Iterator[tuple[str, str, Method, Calibration]]:
    grids = {str(levels): LloydMax(levels) for levels in LEVELS} | {"5-and-6": MIXED}
    for levels, grid in grids.items():
        setting = Setting(grid, rotate=True)
        alone, fed = Scalar(setting, False), Scalar(setting, True)
        yield f"turboquant-{levels}", "like TurboQuant", alone, replace(c, share=0.0, one_pass=True)
        yield f"turboquant-feedback-{levels}", "like TurboQuant, with feedback", fed, c
    for seed in (1, 2):
        name = f"turboquant-feedback-5-and-6-seed{seed}"
        yield name, "", Scalar(Setting(MIXED, rotate=True), True), replace(c, seed=seed)


def configurations(
    calibration: Calibration = Calibration(), evaluation: Evaluation = Evaluation()
) -> list[Configuration]:
    """Return all configurations: the defaults with what the list above says."""
    found = [Configuration("original", "", None, calibration, evaluation)]
    for make in (_pvq, _uniform, _lloyd_max):
        found += [Configuration(*one, evaluation) for one in make(calibration)]
    wide = Calibration(calibration.tokens, 1024, seed=None, share=0.0, one_pass=True)
    wider = Evaluation(evaluation.tokens or 65536, 1024)
    found.append(Configuration("w1024-original", "", None, wide, wider))
    for rotate in (False, True):
        method = Scalar(Setting(Uniform(8, 64, "minmax"), rotate), feedback=True)
        name = f"w1024-{'rotated-' if rotate else ''}gptq-3-minmax64"
        found.append(Configuration(name, "", method, wide, wider))
    return found


def selected(every: list[Configuration], patterns: list[str]) -> list[Configuration]:
    """Return the configurations whose names match any pattern; each must match one."""
    for pattern in patterns:
        if not any(fnmatchcase(one.name, pattern) for one in every):
            raise SystemExit(f"--only must match a configuration, got {pattern!r}; see --list")
    return [one for one in every if any(fnmatchcase(one.name, p) for p in patterns)]
