"""What the result pages share: tables, and what a page says of its own making."""

import json
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its first column flush left, the others flush right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def command(script: str) -> str:
    """Return the command that this process was started with, seen from the folder above bench/."""
    return shlex.join(["python", f"bench/{Path(script).name}", *sys.argv[1:]])


def noted(folder: Path) -> str:
    """Return what a folder that a script of bench/ made says of itself, or its name."""
    source = folder / "SOURCE.json"
    known = json.loads(source.read_text(encoding="utf-8")) if source.is_file() else {}
    if "note" not in known:
        return folder.resolve().name
    turned = "" if known.get("rotate") is None else f", --rotate {known['rotate']}"
    return f"{known['note']}{turned}"


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of installed packages."""
    return {"Python": platform.python_version(), **{name: version(name) for name in packages}}


def processor() -> str:
    """Return the name of the processor, as far as the system tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def made_with(*packages: str) -> str:
    """Return versions and processor as one phrase."""
    known = [f"{name} {number}" for name, number in versions(*packages).items()]
    return ", ".join([*known, processor()])


def write_page(path: Path, text: str) -> None:
    """Write a text file, in a new folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
