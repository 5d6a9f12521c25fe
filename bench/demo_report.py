#!/usr/bin/env python3
"""Print what `make demo` came to, measured on the three folders that it left.

    python bench/demo_report.py demo

Sizes are counted from the files and errors from the numbers in them, with plain arithmetic and
nothing of pvq_ref. A compressed tensor NAME is stored as NAME_index, NAME_gain, NAME_row_norm and
NAME_levels. Bits per weight count every byte of the compressed file that is neither its header nor
a tensor kept as it was. The quality of a tensor W is 10 log10(‖W‖² / ‖W − restored‖²) dB.
"""

import argparse
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (makes NumPy know bfloat16, which safetensors then reads)
import numpy as np
import numpy.typing as npt
from safetensors import safe_open

Array = npt.NDArray[Any]

WEIGHTS = "model.safetensors"
PARTS = ("_index", "_gain", "_row_norm", "_levels")


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file: its bytes, length field included, and its entries."""

    bytes: int
    entries: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Sizes:
    """Bytes of one compressed file by their use, and its number of compressed weights."""

    file: int
    header: int
    untouched: int
    weights: int

    @property
    def compressed(self) -> int:
        """Return the bytes that are neither header nor untouched tensors."""
        return self.file - self.header - self.untouched


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file."""
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        entries = json.loads(stream.read(length))
    entries.pop("__metadata__", None)
    return Header(8 + length, entries)


def compressed_names(original: Header, compressed: Header) -> list[str]:
    """Return the tensors of the original that the compressed file has in parts."""
    return sorted(name for name in original.entries if name + PARTS[0] in compressed.entries)


def measure_sizes(file_bytes: int, original: Header, compressed: Header) -> Sizes:
    """Count what the bytes of the compressed file are for."""
    names = compressed_names(original, compressed)
    parts = {name + part for name in names for part in PARTS}
    untouched = 0
    for name, entry in compressed.entries.items():
        begin, end = entry["data_offsets"]
        untouched += 0 if name in parts else end - begin
    weights = sum(math.prod(original.entries[name]["shape"]) for name in names)
    return Sizes(file_bytes, compressed.bytes, untouched, weights)


def measure_quality(original: Path, restored: Path, names: list[str]) -> dict[str, float]:
    """Return signal over error of each tensor in dB, reading one tensor at a time."""
    with safe_open(original, "np") as before, safe_open(restored, "np") as after:
        return {
            name: signal_over_error_db(before.get_tensor(name), after.get_tensor(name))
            for name in names
        }


def signal_over_error_db(before: Array, after: Array) -> float:
    """Return squared signal over squared error in dB: inf for equal tensors."""
    if before.shape != after.shape or before.dtype != after.dtype:
        raise SystemExit(f"{before.dtype}{before.shape} was restored as {after.dtype}{after.shape}")
    exact = before.astype(np.float64)
    error = float(np.sum((after.astype(np.float64) - exact) ** 2))
    energy = float(np.sum(exact**2))
    return 10 * math.log10(energy / error) if error else math.inf


def print_report(original_bytes: int, sizes: Sizes, quality: dict[str, float]) -> None:
    """Print one line per figure."""
    worst = min(quality, key=quality.__getitem__)

    def part(count: int) -> str:
        return f"{count:>13,} bytes {100 * count / sizes.file:6.2f} %"

    print(f"original file        {original_bytes:>13,} bytes")
    print(
        f"compressed file      {part(sizes.file)}, {original_bytes / sizes.file:.2f} times smaller"
    )
    print(f"  compressed tensors {part(sizes.compressed)}, {len(quality)} tensors")
    print(f"  untouched tensors  {part(sizes.untouched)}")
    print(f"  header             {part(sizes.header)}")
    print(f"compressed weights   {sizes.weights:>13,}")
    print(f"bits per weight      {8 * sizes.compressed / sizes.weights:>13.4f}")
    print(
        f"signal over error    {sum(quality.values()) / len(quality):>13.2f} dB, mean over tensors"
    )
    print(f"  least              {quality[worst]:>13.2f} dB, {worst}")


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description="Print what `make demo` came to.")
    parser.add_argument("demo", type=Path, metavar="DEMO", help="folder of the demonstration")
    demo: Path = parser.parse_args().demo
    paths = [demo / folder / WEIGHTS for folder in ("model", "compressed", "restored")]
    for path in paths:
        if not path.is_file():
            raise SystemExit(f"{path}: missing; run `make demo` first")
    original, compressed, restored = paths
    headers = read_header(original), read_header(compressed)
    names = compressed_names(*headers)
    if not names:
        raise SystemExit(f"{compressed}: no tensor in it is compressed")
    sizes = measure_sizes(compressed.stat().st_size, *headers)
    print_report(original.stat().st_size, sizes, measure_quality(original, restored, names))


if __name__ == "__main__":
    main()
