"""The command line: `pvq-ref compress | decompress | inspect | verify | evaluate | …`.

Nothing heavy is imported before the arguments are known, so that --help is quick. Results go to
stdout (one JSON object with --json), everything else to stderr.
"""

import argparse
import io
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from pvq_ref.arguments import USAGE, parser
from pvq_ref.printing import Bar, announce_compilation, emit, printable, say

OK, FAILED, UNVERIFIED, INTERRUPTED, TERMINATED = 0, 1, 3, 130, 143


def _compress(args: argparse.Namespace) -> int:
    from pvq_ref.compressing import compress

    return compress(args)


def _merge(args: argparse.Namespace) -> int:
    from pvq_ref.compressing import merge

    return merge(args)


def _calibrate(args: argparse.Namespace) -> int:
    from pathlib import Path

    from pvq_ref.calibrated import Text
    from pvq_ref.collecting import collect_hessians

    text = Text(Path(args.text), args.tokens, args.window, args.part, args.text_seed)
    began = time.monotonic()
    with Bar(args, None, "layer") as bar:
        count = collect_hessians(
            args.model,
            args.out,
            text,
            device=args.device,
            batch=args.batch,
            threads=args.threads,
            force=args.force,
            progress=bar,
        )
    seconds = time.monotonic() - began
    say(args, f"{count} layers, Hessians written in {seconds:.1f} s")
    emit(args, {"layers": count, "seconds": seconds})
    return OK


def _decompress(args: argparse.Namespace) -> int:
    from math import prod

    from pvq_ref import parsing
    from pvq_ref.checkpoint import decompress
    from pvq_ref.memory import Limits, memory_size
    from pvq_ref.model import open_model

    limits = Limits(args.threads, memory_size(args.max_memory))

    tensors: dict[str, Any] = {}
    for header in open_model(args.model).headers.values():
        tensors |= parsing.parse(header).tensors
    weights = sum(prod(t.shape) for t in tensors.values())
    announce_compilation(args)
    began = time.monotonic()
    with Bar(args, weights) as bar:
        decompress(
            args.model,
            args.out,
            threads=limits.threads,
            max_memory=limits.memory,
            force=args.force,
            progress=bar,
        )
    seconds = time.monotonic() - began
    say(args, f"{len(tensors)} tensors, {weights:,} weights decompressed in {seconds:.1f} s")
    emit(args, {"tensors": len(tensors), "weights": weights, "seconds": seconds})
    return OK


def _inspect(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from pvq_ref.inspection import describe, entropies
    from pvq_ref.model import open_model
    from pvq_ref.parallel import thread_count

    thread_count(args.threads)
    model = open_model(args.model)
    description = describe(model)
    if args.entropy:
        announce_compilation(args)
        with Bar(args, description.weights) as bar:
            description = replace(description, entropies=entropies(model, args.threads, bar))
    say(args, *description.lines())
    emit(args, description.as_json())
    return OK


def _verify(args: argparse.Namespace) -> int:
    from pvq_ref.memory import Limits, memory_size
    from pvq_ref.verification import verify

    limits = Limits(args.threads, memory_size(args.max_memory))
    announce_compilation(args)
    with Bar(args, None) as bar:
        report = verify(
            args.model,
            args.against,
            threads=limits.threads,
            max_memory=limits.memory,
            progress=bar,
        )
    for error in report.errors:
        say(args, f"{error.name}  {error.db:.2f} dB")
    if report.mean_db is not None:
        say(args, f"mean over {len(report.errors)} tensors: {report.mean_db:.2f} dB")
    for problem in report.problems:
        print(f"pvq-ref: {printable(problem)}", file=sys.stderr)
    if not report.problems:
        say(
            args,
            f"{report.compressed} compressed and {report.untouched} other tensors are as written",
        )
    emit(args, report.as_json())
    return UNVERIFIED if report.problems else OK


def _evaluate(args: argparse.Namespace) -> int:
    from pvq_ref.evaluate import evaluate

    with Bar(args, None, "token") as bar:

        def progress(name: str, done: int, total: int) -> None:
            bar.expect(total)
            bar(name, done)

        report = evaluate(
            args.model,
            text=args.text,
            tasks=args.tasks,
            against=args.against,
            window=args.window,
            limit=args.tokens,
            items=args.items,
            part=args.part,
            device=args.device,
            dtype=args.dtype,
            batch=args.batch,
            progress=progress,
        )
    say(args, *report.lines())
    emit(args, report.as_json())
    return OK


def _vectors(args: argparse.Namespace) -> int:
    from pvq_ref import vectors
    from pvq_ref.output import target_path

    names = vectors.write(target_path(args.out), force=args.force)
    say(args, f"{len(vectors.cases())} cases in {len(names) - 1} files, and {vectors.SCHEMA}")
    emit(args, {"files": names, "cases": len(vectors.cases())})
    return OK


def _conform(args: argparse.Namespace) -> int:
    from pvq_ref.conform import check

    report = check(args.port, args.timeout, args.only)
    for problem in report.problems:
        print(f"pvq-ref: {problem}", file=sys.stderr)
    say(args, *report.lines())
    emit(args, report.as_json())
    return OK if report.conforms else UNVERIFIED


def _warmup(args: argparse.Namespace) -> int:
    from pvq_ref.jit import cache_directory

    announce_compilation(args)
    began = time.monotonic()
    from pvq_ref.warmup import warm_up

    warmth = warm_up()
    seconds, directory = time.monotonic() - began, cache_directory()
    place = f"in {directory}" if directory else "and not kept: no directory is writable"
    if warmth.compiled:
        say(args, f"{warmth.compiled} kernels compiled in {seconds:.1f} s, {place}")
    else:
        say(args, f"nothing to do: all kernels are there, {place}")
    emit(
        args,
        {
            "compiled": warmth.compiled,
            "known": warmth.known,
            "directory": str(directory) if directory else None,
            "seconds": seconds,
        },
    )
    return OK


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "compress": _compress,
    "merge": _merge,
    "decompress": _decompress,
    "inspect": _inspect,
    "verify": _verify,
    "calibrate": _calibrate,
    "evaluate": _evaluate,
    "vectors": _vectors,
    "conform": _conform,
    "warmup": _warmup,
}


class _Terminated(KeyboardInterrupt):
    """SIGTERM came; what is under way ends as after Ctrl-C."""


def _on_terminate(number: int, frame: object) -> NoReturn:
    raise _Terminated


def _complain(message: object, error: BaseException) -> None:
    """Say on stderr what went wrong, and what can be done."""
    for line in (message, *getattr(error, "__notes__", [])):
        print(f"pvq-ref: {printable(str(line))}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    args = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _on_terminate)
    for stream in (sys.stdout, sys.stderr):  # names of tensors may need more than the terminal has
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    from pvq_ref.errors import DomainError, PVQError

    try:
        code = COMMANDS[args.command](args)
        sys.stdout.flush()  # here, where a full disk or a closed pipe can still be told
        return code
    except KeyboardInterrupt as error:
        terminated = isinstance(error, _Terminated)
        word = "terminated" if terminated else "interrupted"
        left = hasattr(error, "__notes__")
        _complain(word if left else f"{word}; nothing was left behind", error)
        return TERMINATED if terminated else INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return FAILED
    except MemoryError as error:
        _complain("memory doesn't suffice for this", error)
        return FAILED
    except (PVQError, OSError) as error:
        _complain(error, error)
        if isinstance(error, OSError):
            _drop_stdout()
        return USAGE if isinstance(error, DomainError) else FAILED


def _drop_stdout() -> None:
    """Let nothing more be written to stdout, or the interpreter would fail at it once more."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
