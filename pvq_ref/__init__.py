"""Pyramid vector quantization for language models: the reference implementation.

Counting, ranking, search, gain, rotation, tensors and files, each in the module of its name;
`docs/spec.md` is the text that they follow. Importing pvq_ref imports none of them: a name is
loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pvq_ref import errors, oracle
    from pvq_ref.checkpoint import compress, decompress, load
    from pvq_ref.compensated import quantize_with_feedback
    from pvq_ref.counting import count
    from pvq_ref.decoding import dequantize
    from pvq_ref.encoding import quantize
    from pvq_ref.errors import PVQError
    from pvq_ref.product import matmul
    from pvq_ref.projecting import search_project
    from pvq_ref.ranking import rank, unrank
    from pvq_ref.searching import search
    from pvq_ref.tensor import PVQTensor

_HOME = {
    "count": "counting",
    "rank": "ranking",
    "unrank": "ranking",
    "search": "searching",
    "search_project": "projecting",
    "quantize": "encoding",
    "quantize_with_feedback": "compensated",
    "dequantize": "decoding",
    "PVQTensor": "tensor",
    "matmul": "product",
    "compress": "checkpoint",
    "decompress": "checkpoint",
    "load": "checkpoint",
    "PVQError": "errors",
}

__all__ = [
    "PVQError",
    "PVQTensor",
    "compress",
    "count",
    "decompress",
    "dequantize",
    "errors",
    "load",
    "matmul",
    "oracle",
    "quantize",
    "quantize_with_feedback",
    "rank",
    "search",
    "search_project",
    "unrank",
]


def __getattr__(name: str) -> Any:
    """Load a public name, or one of the two public modules, on first use."""
    if name in _HOME:
        value = getattr(import_module(f"pvq_ref.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in ("errors", "oracle"):
        return import_module(f"pvq_ref.{name}")
    raise AttributeError(f"module 'pvq_ref' has no attribute {name!r}")
