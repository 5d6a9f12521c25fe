"""Checkpoints of random weights, of any size, and runs of pvq-ref on them."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from pvq_ref.container import Writer, header_bytes, layout

Shapes = dict[str, tuple[int, ...]]
INDEX = "model.safetensors.index.json"

# Runs the command line, and says on stdout how much memory the process took before and at its peak.
# `getrusage` would not do: what it says is inherited from the parent.
CHILD = r"""
import re, sys, time
import numba, scipy.linalg, scipy.special  # which are imported late
import pvq_ref.cli, pvq_ref.checkpoint, pvq_ref.verification

def peak():
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\s+(\d+) kB", file.read())[1]) * 1024

before, began = peak(), time.monotonic()
code = pvq_ref.cli.main(sys.argv[1:])
print("measured", before, peak(), time.monotonic() - began)
sys.exit(code)
"""


def random_pieces(rng: np.random.Generator, count: int) -> Iterator[NDArray[np.uint16]]:
    """Yield `count` normal weights as BF16, a few million at a time."""
    for start in range(0, count, 1 << 22):
        piece = rng.standard_normal(min(1 << 22, count - start), dtype=np.float32)
        yield (piece * 0.02).astype(ml_dtypes.bfloat16).view(np.uint16)


def write_model(folder: Path, files: Sequence[Shapes], seed: int = 0) -> int:
    """Write a sharded model folder of BF16 tensors; return its weights."""
    folder.mkdir(parents=True)
    rng, weight_map = np.random.default_rng(seed), {}
    for number, shapes in enumerate(files, 1):
        name = f"model-{number:05}-of-{len(files):05}.safetensors"
        entries = layout([(tensor, "BF16", shape) for tensor, shape in shapes.items()])
        head = header_bytes(entries, {"format": "pt"})
        with Writer(folder / name, entries, len(head)) as writer:
            for tensor, shape in shapes.items():
                writer.write(tensor, random_pieces(rng, prod(shape)))
            writer.finish(head)
        weight_map |= dict.fromkeys(shapes, name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text("{}\n")
    return sum(prod(shape) for shapes in files for shape in shapes.values())


def layers(count: int, hidden: int, inner: int, kv: int, first: int = 0) -> Shapes:
    """Return the shapes of the layers of a Llama-like model."""
    found: Shapes = {}
    for number in range(first, first + count):
        name = f"model.layers.{number}"
        found |= {
            f"{name}.self_attn.q_proj.weight": (hidden, hidden),
            f"{name}.self_attn.k_proj.weight": (kv, hidden),
            f"{name}.self_attn.v_proj.weight": (kv, hidden),
            f"{name}.self_attn.o_proj.weight": (hidden, hidden),
            f"{name}.mlp.gate_proj.weight": (inner, hidden),
            f"{name}.mlp.up_proj.weight": (inner, hidden),
            f"{name}.mlp.down_proj.weight": (hidden, inner),
        }
    return found


@dataclass(frozen=True)
class Measured:
    """Memory at the start and at the peak, in bytes, and seconds of the command itself."""

    before: int
    peak: int
    seconds: float


def start(*arguments: object) -> "subprocess.Popen[str]":
    """Start pvq-ref in a measured process."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(child: "subprocess.Popen[str]") -> tuple[Measured, str]:
    """Wait for a measured process; return what it took, and what it said on stderr."""
    out, err = child.communicate()
    if child.returncode:
        raise SystemExit(f"pvq-ref failed with code {child.returncode}: {err}")
    found = re.search(r"^measured (\d+) (\d+) (\S+)$", out, re.MULTILINE)
    assert found is not None, out
    return Measured(int(found[1]), int(found[2]), float(found[3])), err


def run(*arguments: object) -> Measured:
    """Run pvq-ref to its end and return what it took."""
    return finish(start(*arguments))[0]
