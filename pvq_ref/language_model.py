"""Causal language models of plain or compressed folders, and texts as windows of tokens.

What evaluation and calibration share. torch and transformers (extra `calibrate`) are imported when
a model is loaded, never before; nothing is fetched from a network.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvq_ref.errors import DomainError, MissingExtraError, ModelError, PVQError
from pvq_ref.model import CONFIG, open_model

FLOATS = ("float32", "bfloat16", "float16")
WHOLE = (0.0, 1.0)
Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class LanguageModel:
    """A model in evaluation mode and its tokenizer, both of transformers."""

    model: Any
    tokenizer: Any

    @property
    def device(self) -> Any:
        """The torch.device of the model."""
        return self.model.device

    @property
    def longest(self) -> int | None:
        """The most tokens that the model takes at once, or None if its config doesn't say."""
        value = getattr(self.model.config, "max_position_embeddings", None)
        return value if isinstance(value, int) else None


def load(path: str | PathLike[str], dtype: str = "float32", device: str = "cpu") -> LanguageModel:
    """Load a causal language model and its tokenizer from a folder, plain or compressed.

    Parameters: path of the folder; dtype of the weights and of all arithmetic, one of FLOATS;
    device, a name that torch knows. Compressed tensors are decoded to the type of their source
    first, as `decompress` does. Raises MissingExtraError, DomainError, ModelError, FormatError.
    """
    if dtype not in FLOATS:
        raise DomainError(f"dtype must be one of {', '.join(FLOATS)}, got {dtype!r}")
    folder = Path(path)
    if not folder.is_dir():
        raise ModelError(f"the model must be a folder, got {folder}")
    if not open_model(folder).config:
        raise ModelError(f"the folder must have a {CONFIG}, got none in {folder}")
    torch, transformers = _extra()
    place = torch_device(torch, device)
    tokenizer = load_tokenizer(folder)
    try:
        with _without_bars(transformers):
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), local_files_only=True
            )
    except PVQError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise ModelError(f"{folder} must hold a causal language model: {_first(error)}") from None
    return LanguageModel(model.to(place).eval().requires_grad_(False), tokenizer)


@contextmanager
def _without_bars(transformers: Any) -> Iterator[None]:
    """Keep the progress bars of transformers from stderr."""
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


def load_tokenizer(folder: str | PathLike[str]) -> Any:
    """Return the tokenizer of a model folder. Raises MissingExtraError, ModelError."""
    _, transformers = _extra()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelError(f"{folder} must hold a tokenizer: {_first(error)}") from None
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        # some releases make one without tokens where there are no files
        raise ModelError(f"{folder} must hold a tokenizer, got none")
    return tokenizer


def _extra() -> tuple[Any, Any]:
    """Return torch and transformers, the latter able to read compressed folders."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtraError("a language model", error) from None
    import pvq_ref.transformers  # noqa: F401  registers itself

    return torch, transformers


def torch_device(torch: Any, name: str) -> Any:
    """Return the torch.device of a name, once it has been used. Raises DomainError."""
    try:
        place = torch.device(name)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DomainError(
            f"device must be one that torch can use, got {name!r}: {_first(error)}"
        ) from None
    return place


def _first(error: BaseException) -> str:
    """Return the first line of a message of transformers, which may be pages long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def read_part(path: str | PathLike[str], part: tuple[float, float] = WHOLE) -> str:
    """Return a part of a text file: the lines that begin in it, counted by characters.

    Parameters: path of a UTF-8 file; part, two fractions of its length, 0 <= start < stop <= 1. A
    line belongs to the part in which it begins, so the parts 0:0.5 and 0.5:1 make the whole text
    and share no line. Raises DomainError, ModelError.
    """
    start, stop = part
    if not 0.0 <= start < stop <= 1.0:
        raise DomainError(f"part must be two fractions 0 <= start < stop <= 1, got {start}:{stop}")
    try:
        text = Path(path).read_bytes().decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ModelError(f"the text must be UTF-8, got {path}: {error}") from None
    first, last = (_line_start(text, round(len(text) * edge)) for edge in part)
    return text[first:last]


def _line_start(text: str, position: int) -> int:
    """Return where the first line begins that begins at `position` or later."""
    if position == 0:
        return 0
    end = text.find("\n", position - 1)
    return len(text) if end < 0 else end + 1


def tokens(
    tokenizer: Any,
    path: str | PathLike[str],
    part: tuple[float, float] = WHOLE,
    limit: int | None = None,
) -> Tokens:
    """Return the tokens of a part of a text file, without special ones, at most `limit` of them.

    Parameters: tokenizer of transformers; path and part as in `read_part`. Returns an array
    (count,) int64. Raises DomainError, ModelError (no tokens among them).
    """
    if limit is not None and limit < 1:
        raise DomainError(f"the number of tokens must be at least 1, got {limit}")
    ids = encode(tokenizer, [read_part(path, part)])[0]
    if not ids:
        raise ModelError(f"the text must not be empty, got {path}")
    return np.array(ids[:limit], np.int64)


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the tokens of texts, without special ones."""
    ids = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [list(map(int, one)) for one in ids]


def prefix(tokenizer: Any) -> tuple[int, ...]:
    """Return the special tokens that the tokenizer puts before every text: () or, usually, (bos,).

    A model that was trained with them needs them at the beginning of each window.
    """
    bare, full = (
        tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True)
    )
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return tuple(map(int, full[:start]))
    return ()


def windows(ids: Tokens, window: int = 512, before: Sequence[int] = ()) -> Tokens:
    """Cut tokens into windows that share none, each beginning with the tokens of `before`.

    Parameters: ids, (count,) int64; window, tokens of a window, `before` included. Returns an array
    (windows, window) int64; what doesn't fill a window at the end is left out. Raises DomainError,
    ModelError if there isn't one full window.
    """
    step = window - len(before)
    if window < 2 or step < 1:
        raise DomainError(f"window must be at least {max(2, len(before) + 1)}, got {window}")
    count = len(ids) // step
    if count == 0:
        raise ModelError(f"the text must fill a window of {step} tokens, got {len(ids)}")
    body = ids[: count * step].reshape(count, step)
    head = np.broadcast_to(np.array(before, np.int64), (count, len(before)))
    return np.concatenate([head, body], axis=1)
