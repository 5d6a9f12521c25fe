"""Selection: which tensors of a model are compressed, and which models are refused.

Every floating tensor of two or three dimensions is, whatever its name ends in, except embeddings,
output heads, norms, routers and biases, which are known by their names.
"""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pvq_ref.container import Entry, Header
from pvq_ref.errors import DomainError, ModelError
from pvq_ref.tensor import DTYPES

# The last component of a name is the parameter, the one before it the module: a.b.MODULE.PARAMETER.
_EMBEDDING = re.compile(r"embed|^(wte|wpe|shared|tok_embeddings)$", re.IGNORECASE)
_HEAD = re.compile(
    r"^(lm_head|embed_out|output|output_layer|classifier|score|qa_outputs|decoder|vocab_projector"
    r"|.*_head|head)$"
)
_NORM = re.compile(r"norm|^ln(_|\d|$)", re.IGNORECASE)
_ROUTER = re.compile(r"router|^((shared_)?expert_)?(gate|gating|wg)$", re.IGNORECASE)
_BIAS = re.compile(r"bias", re.IGNORECASE)

# Names under which the methods of today store what they have quantized.
_QUANTIZED = re.compile(
    r"(^|[._])(qweight|qzeros|g_idx|weight_packed|weight_scale|weight_scale_inv|Qidxs|trellis|W_q"
    r"|SCB|absmax|quant_map|quant_state|codebooks)([._]|$)|_blocks$|quant_state\."
)


def reason_to_leave(entry: Entry) -> str | None:
    """Return why a tensor isn't compressed by default, or None if it is.

    `embedding` and `head` are the reasons that --embed-bits overrules.
    """
    if not _compressible(entry):
        return "not a floating matrix"
    parts = entry.name.split(".")
    module = parts[-2] if len(parts) > 1 else parts[-1]
    rules = (
        ("bias", _BIAS.search(parts[-1]) or _BIAS.search(module)),
        ("embedding", _EMBEDDING.search(module) or _EMBEDDING.search(parts[-1])),
        ("norm", _NORM.search(module)),
        ("router", _ROUTER.search(module) or any("router" in part for part in parts)),
        ("head", _HEAD.search(module)),
    )
    return next((reason for reason, found in rules if found), None)


def _compressible(entry: Entry) -> bool:
    return entry.dtype in DTYPES and len(entry.shape) in (2, 3)


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("re:"):
        return re.search(pattern[3:], name) is not None
    return pattern == name or fnmatchcase(name, pattern) or f"{pattern}.weight" == name


def _matched(option: str, patterns: Sequence[str], names: Iterable[str]) -> set[str]:
    """Return the names that any pattern matches; each pattern must match one."""
    names, found = list(names), set()
    for pattern in patterns:
        try:
            hits = {name for name in names if _matches(pattern, name)}
        except (re.error, OverflowError, RecursionError) as error:
            raise DomainError(
                f"{option} must be a regular expression: {pattern!r}: {error}"
            ) from None
        if not hits:
            raise DomainError(f"{option} must match a tensor, got {pattern!r}")
        found |= hits
    return found


def choose(
    entries: Sequence[Entry], include: Sequence[str], exclude: Sequence[str]
) -> dict[str, str | None]:
    """Return for each tensor why it is left as it is, or None if it is to be compressed.

    With `include`, exactly the floating matrices that match are compressed, whatever the rules say;
    `exclude` then takes tensors away. A pattern is a tensor's name, with or without `.weight`, a
    glob, or a regular expression after `re:`. Raises DomainError for a pattern that matches
    nothing.
    """
    names = [entry.name for entry in entries]
    included = _matched("include", include, names)
    excluded = _matched("exclude", exclude, names)
    chosen: dict[str, str | None] = {}
    for entry in entries:
        reason = reason_to_leave(entry)
        if include and _compressible(entry):
            reason = None if entry.name in included else "not included"
        chosen[entry.name] = "excluded" if entry.name in excluded else reason
    return chosen


def refuse_quantized(config: dict[str, Any], headers: Iterable[Header]) -> None:
    """Raise ModelError if a model is already quantized, by its config or by its files."""
    for key in ("quantization_config", "quantization"):
        found = config.get(key)
        if found:
            method = found.get("quant_method", "unknown") if isinstance(found, dict) else found
            hint = "decompress it first" if method == "pvq" else "start from the original weights"
            raise ModelError(
                f"the model must not be quantized already, got {key} with method {method!r}; {hint}"
            )
    for header in headers:
        if "pvq" in header.metadata:
            raise ModelError("the model must not be compressed by pvq already; decompress it first")
        _refuse_quantized_entries(header.entries.values())


def _refuse_quantized_entries(entries: Iterable[Entry]) -> None:
    for entry in entries:
        packed = not entry.dtype.startswith(("F", "BF")) and entry.name.endswith("weight")
        narrow = entry.dtype == "F4" or entry.dtype.startswith(("F6_", "F8_"))
        if narrow or _QUANTIZED.search(entry.name) or (packed and len(entry.shape) > 1):
            raise ModelError(
                f"the model must not be quantized already, got tensor {entry.name!r} of type "
                f"{entry.dtype}; start from the original weights"
            )
