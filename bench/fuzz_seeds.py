"""The good inputs that bench/fuzz.py and tests/test_fuzz.py break: files, folders, JSON.

All are small, so that a case takes milliseconds, and made by the package itself from fixed numbers.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from pvq_ref import compress
from pvq_ref.hessian_writer import hessian_writer
from pvq_ref.hessians import Text

FILE, FOLDER, HESSIANS, PLAN, TASK = "file", "folder", "hessians", "plan", "task"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
SETTINGS = (
    {"order": "blocked", "gain_bits": 2},
    {"order": "fischer", "gain_bits": 0, "rotate": False},
    {"order": "opus", "gain_bits": 3, "group": 8},
    {"order": "blocked", "gain_bits": 1, "group": 16, "design": "fitted"},
)


@dataclass(frozen=True)
class Seed:
    """A good input: {name: bytes} of its files, which of them matter most, and what it is."""

    kind: str
    files: dict[str, bytes]
    main: tuple[str, ...]


def _tensors(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "a.weight": rng.standard_normal((6, 33)).astype(np.float32),  # a tail, padding bits
        "b.weight": rng.standard_normal((2, 3, 24)).astype(np.float16),
        "norm": np.ones(5, np.float32),
        "step": np.array(3, np.int64),
    }


def _files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _compressed_files(folder: Path) -> list[Seed]:
    seeds = []
    for number, settings in enumerate(SETTINGS):
        source, target = folder / f"{number}.safetensors", folder / f"{number}.pvq.safetensors"
        save_file(_tensors(number), source, {"origin": "fuzz"})
        compress(source, target, 5, threads=1, **settings)
        seeds.append(Seed(FILE, {"m.safetensors": target.read_bytes()}, ("m.safetensors",)))
    plain = (folder / "0.safetensors").read_bytes()
    return [*seeds, Seed(FILE, {"m.safetensors": plain}, ("m.safetensors",))]


def _compressed_folder(folder: Path) -> Seed:
    source = folder / "source"
    source.mkdir()
    tensors, weight_map = _tensors(0), {}
    for file, names in zip(SHARDS, (("a.weight", "norm"), ("b.weight", "step")), strict=True):
        save_file({name: tensors[name] for name in names}, source / file, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    (source / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (source / "config.json").write_text('{"hidden_size": 33, "eps": 1e-06}')
    (source / "tokenizer.json").write_text("{}")
    compress(source, folder / "compressed", 5, threads=1)
    files = _files(folder / "compressed")
    return Seed(FOLDER, files, (*SHARDS, INDEX, "config.json", "SHA256SUMS"))


def _hessians(folder: Path) -> Seed:
    x = np.random.default_rng(0).standard_normal((9, 5))
    text = Text("0" * 64, 8, 1)
    with hessian_writer(folder / "h", {"q": 5, "k": 5, "v": 3}, text) as writer:
        writer.write(["q", "k"], x.T @ x / 9, 9)
        writer.write(["v"], np.eye(3), 9)
    return Seed(HESSIANS, {"h.safetensors": (folder / "h").read_bytes()}, ("h.safetensors",))


PLAN_TEXT = '{"bits": 3.25, "rates": {"a.weight": 3.5, "b.weight": 3}}'
TASK_TEXT = """{"context": "one", "choices": ["two", "three"], "gold": 1}
{"contexts": ["a", "b"], "choices": ["c", "d"], "gold": 0}
"""


def seeds() -> list[Seed]:
    """Return all good inputs, always the same ones in the same order."""
    folder = Path(tempfile.mkdtemp())
    try:
        return [
            *_compressed_files(folder),
            _compressed_folder(folder),
            _hessians(folder),
            Seed(PLAN, {"plan.json": PLAN_TEXT.encode()}, ("plan.json",)),
            Seed(TASK, {"task.jsonl": TASK_TEXT.encode()}, ("task.jsonl",)),
        ]
    finally:
        shutil.rmtree(folder)
