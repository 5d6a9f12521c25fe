"""Hessians as files: one safetensors file for the layers of a model (spec section 7.6).

`<layer>.hessian` F32 (cols, cols) is the mean of x xᵀ over the inputs x of a layer, one a token.
Layers that share their input have one Hessian, in the name of one of them; the metadata says which.
A file without that metadata is taken as well: each Hessian is its own layer's. `hessian_writer` is
the side that writes.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvq_ref.container import Reader, parse_json, read_header
from pvq_ref.counting import checked_integer
from pvq_ref.curvature import checked_hessian
from pvq_ref.errors import (
    ArgumentError,
    DomainError,
    HeaderError,
    MetadataError,
    PayloadError,
    ShapeError,
    VersionError,
)
from pvq_ref.rotation import MAX_SEED

KEY = "pvq_hessians"
SUFFIX = ".hessian"
FORMAT_VERSION = 1
MAX_TOKENS = (1 << 63) - 1


@dataclass(frozen=True)
class Text:
    """Where the inputs came from: the SHA-256 of a text, tokens of a window, seed of the choice."""

    sha256: str
    window: int
    seed: int

    def __post_init__(self) -> None:
        if not _is_hash(self.sha256):
            raise DomainError(f"sha256 must be 64 hexadecimal digits, got {self.sha256!r:.80}")
        checked_integer("window", self.window, 1, MAX_TOKENS)
        checked_integer("seed", self.seed, 0, MAX_SEED)


@dataclass(frozen=True)
class Shared:
    """The layers that have one Hessian, and over how many tokens it is the mean."""

    layers: tuple[str, ...]
    tokens: int


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _is_integer(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def layer_of(name: str) -> str:
    """Return the layer of a weight tensor: its name without `.weight`."""
    return name.removesuffix(".weight")


def _keys(raw: object, what: str, keys: set[str]) -> dict[str, Any]:
    if not isinstance(raw, dict) or raw.keys() != keys:
        got = sorted(raw) if isinstance(raw, dict) else raw
        raise MetadataError(f"{what} must have the keys {sorted(keys)}, got {got!r:.200}")
    return raw


def _text(raw: object) -> Text | None:
    if raw is None:
        return None
    o = _keys(raw, f"text of {KEY}", {"sha256", "window", "seed"})
    digits = o["seed"]
    if not isinstance(digits, str) or not digits.isascii() or not digits.isdigit():
        raise MetadataError(f"seed of {KEY} must be a string of digits, got {digits!r:.80}")
    if len(digits) > 20 or (digits != "0" and digits.startswith("0")):
        raise MetadataError(f"seed of {KEY} must be below 2^64, without zeros before it")
    try:
        return Text(o["sha256"], o["window"], int(digits))
    except ArgumentError as error:
        raise MetadataError(f"text of {KEY}: {error}") from None


def _shared(stored: str, raw: object) -> Shared:
    what = f"hessian {stored!r:.80} of {KEY}"
    o = _keys(raw, what, {"layers", "tokens"})
    layers, tokens = o["layers"], o["tokens"]
    if not isinstance(layers, list) or not all(isinstance(layer, str) for layer in layers):
        raise MetadataError(f"{what}: layers must be a list of names, got {layers!r:.80}")
    if stored not in layers:
        raise MetadataError(f"{what}: layers must name it too, got {layers!r:.80}")
    if not _is_integer(tokens, 1, MAX_TOKENS):
        raise MetadataError(f"{what}: tokens must be a positive integer, got {tokens!r:.80}")
    return Shared(tuple(layers), tokens)


def _described(text: str) -> tuple[Text | None, dict[str, Shared]]:
    """Return what the metadata says: the text, and the layers of each stored Hessian."""
    try:
        raw = parse_json(text, KEY)
    except HeaderError as error:
        raise MetadataError(str(error)) from None
    version = raw.get("format_version") if isinstance(raw, dict) else None
    is_integer = isinstance(version, int) and not isinstance(version, bool)
    if is_integer and version != FORMAT_VERSION:
        raise VersionError(f"format_version of {KEY} must be {FORMAT_VERSION}, got {version!r:.80}")
    o = _keys(raw, KEY, {"format_version", "writer", "text", "hessians"})
    if not is_integer:
        raise MetadataError(f"format_version of {KEY} must be an integer, got {version!r:.80}")
    if not isinstance(o["writer"], str) or not isinstance(o["hessians"], dict):
        raise MetadataError(f"{KEY} must have a string as writer and an object as hessians")
    shared = {stored: _shared(stored, one) for stored, one in o["hessians"].items()}
    names = [layer for one in shared.values() for layer in one.layers]
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise MetadataError(f"{KEY} must name each layer once, got {twice!r:.80} again")
    return _text(o["text"]), shared


class Hessians:
    """A file of Hessians. Nothing is read of them before they are asked for, one at a time.

    Parameters: path. Raises HeaderError, MetadataError or VersionError for a broken file, OSError.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        header = read_header(self.path)
        self._sizes = {}
        for name, entry in header.entries.items():
            if not name.endswith(SUFFIX):
                raise MetadataError(f"entries must be called LAYER{SUFFIX}, got {name!r:.80}")
            square = len(entry.shape) == 2 and entry.shape[0] == entry.shape[1] > 0
            if entry.dtype != "F32" or not square:
                raise MetadataError(
                    f"{name!r:.80} must be F32 and square, got {entry.dtype} {list(entry.shape)}"
                )
            self._sizes[name.removesuffix(SUFFIX)] = entry.shape[0]
        self.text: Text | None = None
        shared: dict[str, Shared] = {}
        if KEY in header.metadata:
            self.text, shared = _described(header.metadata[KEY])
            if shared.keys() != self._sizes.keys():
                wrong = min(shared.keys() ^ self._sizes.keys())
                raise MetadataError(
                    f"{KEY} must name the Hessians of the file, {wrong!r:.80} differs"
                )
        self._tokens = {name: one.tokens for name, one in shared.items()}
        self._home = {name: name for name in self._sizes}
        for name, one in shared.items():
            self._home |= dict.fromkeys(one.layers, name)

    def __contains__(self, layer: object) -> bool:
        return layer in self._home

    def __iter__(self) -> Iterator[str]:
        """Yield the names of all layers."""
        return iter(self._home)

    def __len__(self) -> int:
        return len(self._home)

    def home(self, layer: str) -> str:
        """Return in whose name a layer's Hessian is stored: one name for all that share it.

        Raises DomainError for a layer without a Hessian.
        """
        if layer not in self._home:
            raise DomainError(
                f"layer must be one of the {len(self)} in {self.path.name}, got {layer!r}"
            )
        return self._home[layer]

    def tokens(self, layer: str) -> int | None:
        """Return how many tokens a layer's Hessian is the mean of; None where the file is mute."""
        return self._tokens.get(self.home(layer))

    def read(self, layer: str, cols: int | None = None) -> NDArray[np.float32]:
        """Return the Hessian (cols, cols) float32 of a layer.

        Raises DomainError for a layer without a Hessian, ShapeError if it hasn't as many columns as
        asked for, PayloadError if it isn't finite or symmetric, or has a negative diagonal.
        """
        home = self.home(layer)
        size = self._sizes[home]
        if cols is not None and size != cols:
            raise ShapeError(
                f"hessian of layer {layer!r:.80} must be of shape ({cols}, {cols}), "
                f"got ({size}, {size})"
            )
        with Reader(self.path) as reader:
            h: NDArray[np.float32] = reader.read(home + SUFFIX)
        try:
            checked_hessian(h, size)
        except ArgumentError as error:
            raise PayloadError(f"{self.path.name}, layer {layer!r:.80}: {error}") from None
        return h
