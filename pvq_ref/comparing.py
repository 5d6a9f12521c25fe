"""Comparison of a port's answers with those of the vectors (docs/conform.md).

Numbers are equal if they stand for the same one, and -0 isn't 0; bytes are equal in small and in
capital letters; everything else is equal as it is written.
"""

import json
import re
from collections.abc import Callable
from math import copysign, isnan
from typing import Any

SHOWN = 160  # characters of a value in a report
_NUMBER = re.compile(r"[+-]?(0x[0-9a-f]*\.?[0-9a-f]*p[+-]?[0-9]+|inf|nan)", re.IGNORECASE)
_OF_NUMBERS = ("optimal_gain", "levels", "forward", "inverse", "decode_tensor")
_OF_BYTES = ("row_norms", "pack", "round", "decode_file")


def shortened(value: object) -> str:
    """Return a value in one line, cut in the middle if it is long."""
    text = value if isinstance(value, str) else json.dumps(value)
    half = SHOWN // 2
    return text if len(text) <= SHOWN else f"{text[:half]} … {text[-half:]}"


def _number(text: object) -> float | None:
    if not isinstance(text, str) or not _NUMBER.fullmatch(text):
        return None
    try:
        return float.fromhex(text)
    except (ValueError, OverflowError):
        return None


def _same_number(expected: object, got: object) -> bool:
    ref, value = _number(expected), _number(got)
    if ref is None or value is None:
        return False
    if isnan(ref) or isnan(value):
        return isnan(ref) and isnan(value)
    return ref == value and copysign(1.0, ref) == copysign(1.0, value)


def _same_bytes(expected: object, got: object) -> bool:
    return isinstance(got, str) and isinstance(expected, str) and got.lower() == expected.lower()


def _same(expected: object, got: object) -> bool:
    return type(expected) is type(got) and expected == got  # neither true nor 1.0 is 1


def _leaf_comparison(op: str) -> Callable[[object, object], bool]:
    if op in _OF_NUMBERS:
        return _same_number
    return _same_bytes if op in _OF_BYTES else _same


def _first_difference(
    expected: Any, got: Any, same: Callable[[object, object], bool], place: str
) -> str | None:
    """Return where two results differ first and how, or None."""
    if isinstance(expected, dict) and isinstance(got, dict):
        if expected.keys() != got.keys():
            return f"{place}: expected the keys {sorted(expected)}, got {sorted(got)}"
        pairs = [(f"{place}.{key}", expected[key], got[key]) for key in expected]
    elif isinstance(expected, list) and isinstance(got, list):
        if len(expected) != len(got):
            return f"{place}: expected {len(expected)} elements, got {len(got)}"
        pairs = [(f"{place}[{i}]", *pair) for i, pair in enumerate(zip(expected, got, strict=True))]
    else:
        leaf = same if isinstance(expected, str) else _same
        if leaf(expected, got):
            return None
        return f"{place}: expected {shortened(expected)}, got {shortened(got)}"
    found = (_first_difference(ref, value, same, where) for where, ref, value in pairs)
    return next((one for one in found if one is not None), None)


def difference(case: dict[str, Any], answer: dict[str, Any]) -> str | None:
    """Return how an answer differs from the one of the vectors, or None."""
    if "error" in case:
        if answer.get("error") == case["error"]:
            return None
        wanted = f"the error {case['error']}"
    elif "result" in answer:
        same = _leaf_comparison(case["op"])
        return _first_difference(case["result"], answer["result"], same, "result")
    else:
        wanted = "a result"
    got = f"the error {shortened(answer['error'])}" if "error" in answer else "a result"
    return f"expected {wanted}, got {got}"
