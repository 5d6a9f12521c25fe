"""What the commands print: results on stdout, one JSON object with --json, the rest on stderr."""

import argparse
import json
import sys
from typing import Any


def printable(line: str) -> str:
    """Return a line in which no name of a tensor or file can move the cursor or hide text."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def say(args: argparse.Namespace, *lines: str) -> None:
    """Print lines for people: on stdout, or on stderr where stdout carries JSON."""
    if not args.quiet:
        print(*map(printable, lines), sep="\n", file=sys.stderr if args.json else sys.stdout)


def note(args: argparse.Namespace, line: str) -> None:
    """Say on stderr what is going on."""
    if not args.quiet:
        print(f"pvq-ref: {line}", file=sys.stderr)


def emit(args: argparse.Namespace, value: dict[str, Any]) -> None:
    """Print one JSON object, where that is asked for."""
    if args.json:
        print(json.dumps(value, indent=2, allow_nan=False))


def size_of(count: int) -> str:
    """Return a number of bytes in words."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:.2f} {unit}"
    return f"{count} bytes"


def announce_compilation(args: argparse.Namespace) -> None:
    """Say on stderr why the first run takes longer."""
    from pvq_ref.jit import is_cold

    if not args.quiet and is_cold():
        print("pvq-ref: compiling kernels, once on this machine …", file=sys.stderr)


class Bar:
    """Progress on stderr, when that is a terminal: tensor, weights per second, time left."""

    def __init__(self, args: argparse.Namespace, total: int | None, unit: str = "W") -> None:
        self.bar: Any = None
        if sys.stderr.isatty() and not args.quiet:
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit=unit, unit_scale=True, leave=False)

    def __call__(self, name: str, weights: int) -> None:
        """Move on by some weights of a tensor."""
        if self.bar is not None:
            self.bar.set_description(name, refresh=False)
            self.bar.update(weights)

    def expect(self, total: int) -> None:
        """Set the total, once it is known."""
        if self.bar is not None:
            self.bar.total = total

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()
