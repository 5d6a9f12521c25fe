"""Every single bit of a compressed file flipped, one at a time."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from pvq_ref import compress
from pvq_ref.checkpoint import decompress
from pvq_ref.errors import FormatError
from pvq_ref.verification import verify


@dataclass(frozen=True)
class Flips:
    """Bits that were flipped, those that verify found, and those that decompress refused."""

    size: int
    bits: int
    found: int
    refused: int


def small_file(folder: Path) -> bytes:
    """Return a compressed file: tails, padding bits, gains, a rotation, an untouched tensor."""
    rng = np.random.default_rng(0)
    tensors = {
        "a": rng.standard_normal((3, 9)).astype(np.float32),
        "norm": np.ones(3, np.float16),
    }
    save_file(tensors, folder / "small.safetensors")
    compress(folder / "small.safetensors", folder / "small.pvq", 8, group=8, gain_bits=1, threads=1)
    return (folder / "small.pvq").read_bytes()


def is_found(content: bytes, bit: int, folder: Path) -> tuple[bool, bool]:
    """Return whether verify finds a flipped bit, and whether decompress refuses it."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    path = folder / "flipped"
    path.write_bytes(changed)
    found = bool(verify(path, threads=1).problems)
    try:
        decompress(path, folder / "out", threads=1)
    except FormatError:
        return found, True
    (folder / "out").unlink()
    return found, False


def flip_all(folder: Path, workers: int) -> Flips:
    """Flip every bit of a small file, on several processes."""
    content = small_file(folder)
    total = 8 * len(content)
    children = []
    for worker in range(workers):
        mine = folder / f"flips-{worker}"
        mine.mkdir()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                each = [is_found(content, bit, mine) for bit in range(worker, total, workers)]
                counts = [len(each), sum(f for f, _ in each), sum(r for _, r in each)]
                (mine / "counts").write_text(" ".join(map(str, counts)))
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append((child, mine / "counts"))
    sums = [0, 0, 0]
    for child, counts in children:
        if os.waitpid(child, 0)[1] == 0:
            sums = [a + int(b) for a, b in zip(sums, counts.read_text().split(), strict=True)]
    return Flips(len(content), *sums)
