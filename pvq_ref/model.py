"""A model on disk: one safetensors file, or a folder of them with its side files."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvq_ref.container import Entry, Header, read_header
from pvq_ref.errors import ModelError
from pvq_ref.folders import model_files, read_json
from pvq_ref.output import PARTIAL, STATE, SUMS

INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
# The same weights in another form: they would undo what compression saves.
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx", ".ckpt", ".ot")


@dataclass(frozen=True)
class Model:
    """Where the parts of a model are; headers were read, nothing else."""

    path: Path
    headers: dict[str, Header]
    index: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    side_files: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def is_folder(self) -> bool:
        """Whether the model is a folder."""
        return self.path.is_dir()

    def file(self, name: str) -> Path:
        """Return the path of a weight file."""
        return self.path / name if self.is_folder else self.path

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """Yield (file, entry) of all tensors."""
        for name, header in self.headers.items():
            for entry in header.entries.values():
                yield name, entry


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; unlike in headers, Python's NaN and Infinity are taken, as configs do."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ModelError(f"{path.name} must be a JSON object")
    return value


def _weight_files(folder: Path) -> tuple[list[str], str | None]:
    """Return the names of the weight files of a folder, and of its index if it has one."""
    indices = sorted(path.name for path in folder.glob("*.safetensors.index.json"))
    index = INDEX if INDEX in indices else next(iter(indices), None)
    if index is None:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    else:
        names = _names_in_index(folder, index)
    for name in names:
        if not os.path.isfile(folder / name):  # a link to a file is one
            raise ModelError(f"weight files must be there and be files, got {name!r:.200}")
    return names, index


def _names_in_index(folder: Path, index: str) -> list[str]:
    """Return the weight files that an index names, all of them in its own folder."""
    weight_map = _read_object(folder / index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} must have a weight_map")
    names = set()
    for name in weight_map.values():
        right = isinstance(name, str) and name.endswith(".safetensors") and name.isprintable()
        if not right or "/" in name or "\\" in name:
            raise ModelError(
                f"{index} must name safetensors files of its folder, got {name!r:.200}"
            )
        names.add(name)
    return sorted(names)


def _refuse_partial(path: Path) -> None:
    """Raise ModelError for what an interrupted run left, and for what is in it."""
    own = path.absolute()
    inside = own.parent.name.endswith(PARTIAL) and (own.parent / STATE).exists()
    if own.name.endswith(PARTIAL) or inside:
        raise ModelError(
            f"the model must be complete, got {path}: what an interrupted run left; run it again, "
            "compress with --resume"
        )


def open_model(path: str | Path) -> Model:
    """Look at a model: a .safetensors file or a folder. Raises ModelError, HeaderError."""
    path = Path(path)
    _refuse_partial(path)
    if os.path.isfile(path):
        return Model(path, {path.name: read_header(path)})
    if not os.path.isdir(path):
        raise ModelError(f"the model must be a safetensors file or a folder, got {path}")
    names, index = _weight_files(path)
    if not names:
        raise ModelError(f"the folder must hold safetensors files, got none in {path}")
    headers = {name: read_header(path / name) for name in names}
    seen: dict[str, str] = {}
    for file, header in headers.items():
        for entry in header.entries:
            if entry in seen:
                raise ModelError(
                    f"tensor {entry!r:.200} must be in one file, got {seen[entry]} and {file}"
                )
            seen[entry] = file
    others = [
        name for name in model_files(path, names) if name not in (*names, index, CONFIG, SUMS)
    ]
    # Safetensors in a subfolder belong to another part of the model, and are copied as they are.
    stale = (".safetensors", ".index.json")
    left_out = tuple(
        name
        for name in others
        if name.endswith(OTHER_WEIGHTS) or ("/" not in name and name.endswith(stale))
    )
    config = _read_object(path / CONFIG) if os.path.lexists(path / CONFIG) else {}
    side_files = tuple(name for name in others if name not in left_out)
    for name in side_files:
        if not os.path.isfile(path / name):
            raise ModelError(f"side files must be regular files, got {name!r:.200}")
    return Model(path, headers, index, config, side_files, left_out)


def write_json(path: Path, value: object) -> None:
    """Write a JSON file as the hub's libraries do."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def rebuilt_index(headers: dict[str, Header], parameters: int) -> dict[str, object]:
    """Return the index of weight files (spec section 9.5)."""
    weight_map = {entry: name for name, header in headers.items() for entry in header.entries}
    sizes = (entry.size for header in headers.values() for entry in header.entries.values())
    return {
        "metadata": {"total_parameters": parameters, "total_size": sum(sizes)},
        "weight_map": dict(sorted(weight_map.items())),
    }
