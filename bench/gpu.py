#!/usr/bin/env python3
"""Check and time products with compressed weights on a GPU (docs/gpu.md).

    python bench/gpu.py [--markdown FILE] [--picture FILE] [--json FILE] [--model FOLDER]
                        [--budget SECONDS] [--quick]
    python bench/gpu.py --page JSON [--markdown FILE] [--picture FILE]

First the integers of more than 10^7 groups are compared with the CPU's, and the layers of a block
of SmolLM2's shapes (or of a compressed model, --model) with the CPU's products. Each tensor is
checked before it is timed, all rows for every batch, against the bound in the docstring of
`pvq_ref.cuda.matmul`. Whatever is wrong or fails makes the exit code 1.

A round is one shape and rate, for groups of 16 and 32; beside them, in turn, PyTorch's products in
half precision and with four-bit integers, and a copy within the device's memory. Rounds come in
order of importance, and what the budget doesn't reach is listed as left out.

Where pvq_ref isn't installed, PYTHONPATH=. runs the script from the project's folder.

Everything is written to a JSON file, from which page and picture are made, there or elsewhere
(--page). NUMBA_ENABLE_CUDASIM=1 runs all of it on tiny shapes in a simulator.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import report
from gpu_work import SIMULATED, Record, work


def _device() -> Any:
    if SIMULATED:
        from gpu_device import SimulatedDevice

        return SimulatedDevice()
    from gpu_device import TorchDevice

    return TorchDevice()


def write(found: dict[str, Any], markdown: Path | None, picture: Path | None) -> None:
    """Write page and picture."""
    import gpu_page

    if picture is not None:
        try:
            import gpu_picture
        except ImportError as error:
            print(f"no picture here ({error}); make it elsewhere with --page", file=sys.stderr)
            picture = None if markdown is None else picture
        else:
            picture.parent.mkdir(parents=True, exist_ok=True)
            gpu_picture.save(found, picture)
    text = gpu_page.page(found, None if picture is None else picture.name)
    if markdown is not None:
        report.write_page(markdown, text)
    else:
        print(text)


def main() -> None:
    """Run, or make page and picture of an earlier run."""
    parser = argparse.ArgumentParser(description="Check and time pvq_ref.cuda on a GPU.")
    for name in ("--markdown", "--picture", "--json", "--model", "--page"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--budget", type=float, default=240.0)
    parser.add_argument("--quick", action="store_true")
    a = parser.parse_args()
    if a.page is not None:
        write(json.loads(a.page.read_text(encoding="utf-8")), a.markdown, a.picture)
        return
    from gpu_run import run  # a page is made without a device

    device = _device()
    record = Record(report.command("gpu.py"), device.describe())
    target = a.json or (a.markdown.with_suffix(".json") if a.markdown else Path("build/gpu.json"))
    try:
        run(device, record, work(a.quick), a.model, a.budget)
    finally:
        report.write_page(target, json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n")
    write(asdict(record), a.markdown, a.picture)
    if record.failures:
        raise SystemExit("\n".join(["failures:", *record.failures]))


if __name__ == "__main__":
    main()
