"""The command line: `pvq-ref compress | decompress | inspect | verify | evaluate | …`.

Nothing heavy is imported before the arguments are known, so that --help is quick. Results go to
stdout (one JSON object with --json), everything else to stderr.
"""

import argparse
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from pvq_ref.arguments import USAGE, parser

if TYPE_CHECKING:
    from pathlib import Path

    from pvq_ref.calibrated import Calibration
    from pvq_ref.checkpoint import Result
    from pvq_ref.model import Model
    from pvq_ref.plan import Plan, Settings

OK, FAILED, UNVERIFIED, INTERRUPTED = 0, 1, 3, 130


def _say(args: argparse.Namespace, *lines: str) -> None:
    """Print lines for people: on stdout, or on stderr where stdout carries JSON."""
    if not args.quiet:
        print(*lines, sep="\n", file=sys.stderr if args.json else sys.stdout)


def _emit(args: argparse.Namespace, value: dict[str, Any]) -> None:
    if args.json:
        print(json.dumps(value, indent=2, allow_nan=False))


def _size(count: int) -> str:
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:.2f} {unit}"
    return f"{count} bytes"


def _announce_compilation(args: argparse.Namespace) -> None:
    """Say on stderr why the first run takes longer."""
    from pvq_ref.jit import is_cold

    if not args.quiet and is_cold():
        print("pvq-ref: compiling kernels, once on this machine …", file=sys.stderr)


class _Bar:
    """Progress on stderr, when that is a terminal: tensor, weights per second, time left."""

    def __init__(self, args: argparse.Namespace, total: int | None, unit: str = "W") -> None:
        from tqdm import tqdm

        hidden = True if args.quiet else None  # None: hidden unless stderr is a terminal
        self.bar = tqdm(total=total, unit=unit, unit_scale=True, disable=hidden, leave=False)

    def __call__(self, name: str, weights: int) -> None:
        self.bar.set_description(name, refresh=False)
        self.bar.update(weights)

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()


def _plan_lines(plan: "Plan") -> list[str]:
    lines = []
    for t in plan.tensors:
        shape = "×".join(map(str, t.entry.shape))
        head = f"{t.entry.name}  {shape} {t.entry.dtype}  "
        if t.coding is None:
            if len(t.entry.shape) > 1:
                lines.append(f"{head}stays as it is: {t.reason}")
            continue
        a = t.coding.allotment
        tail = f", tail k={a.tail_k}" if a.tail_k else ""
        lines.append(
            f"{head}n={a.grid.n} k={a.k}{tail}, {a.gain_bits} gain bits, {a.file_rate:.4f} bits "
            f"per weight, {a.predicted_db:.2f} dB expected"
        )
    return lines


def _total_lines(plan: "Plan", *, done: bool) -> list[str]:
    lines = [
        f"{len(plan.compressed)} tensors, {plan.weights:,} weights: {_size(plan.source_size)} "
        f"{'became' if done else 'would become'} {_size(plan.compressed_size)}, "
        f"{plan.file_rate:.4f} bits per weight",
        f"{len(plan.tensors) - len(plan.compressed)} tensors of {_size(plan.untouched_size)} "
        f"{'stayed' if done else 'would stay'} as they are",
    ]
    size, saved = plan.embedding_saving()
    if saved > 0:
        from pvq_ref.plan import EXAMPLE_EMBED_BITS

        lines.append(
            f"of these, embeddings and heads take {_size(size)}; --embed-bits "
            f"{EXAMPLE_EMBED_BITS} would save {_size(saved)}"
        )
    return lines


def _settings(args: argparse.Namespace) -> "Settings":
    from pathlib import Path

    from pvq_ref.allocation import read_rates
    from pvq_ref.plan import Settings

    known = args.plan is not None and Path(args.plan).exists()
    return Settings(
        bits=args.bits,
        embed_bits=args.embed_bits,
        group=args.group,
        gain_bits=args.gain_bits,
        order=args.order,
        seed=args.seed,
        rotate=not args.no_rotate,
        design=args.levels,
        include=args.include,
        exclude=args.exclude,
        rates=read_rates(Path(args.plan)) if known else {},
    )


def _calibration(args: argparse.Namespace) -> "Calibration":
    from pathlib import Path

    from pvq_ref.calibrated import Calibration, Text
    from pvq_ref.compensated import Feedback

    text = Text(Path(args.calibrate), args.tokens, args.window, args.part, args.text_seed)
    how = Feedback(args.damping, args.search, args.sweeps)
    return Calibration(text, how, args.share, args.tune, args.device, args.batch)


def _allocate(args: argparse.Namespace, model: "Model", plan: "Plan") -> "Plan":
    """Share the rate out, where that is asked for and no plan file has it already."""
    from dataclasses import replace
    from pathlib import Path

    from pvq_ref.allocation import write_rates
    from pvq_ref.errors import DomainError
    from pvq_ref.plan import make_plan

    if plan.settings.rates or not (args.allocate or args.plan):
        return plan
    if not (args.allocate and args.calibrate):
        raise DomainError("a new plan must have --allocate and --calibrate, or the rates in a file")
    from pvq_ref.calibrated import allocated

    rates = allocated(model, plan, _calibration(args), lambda line: _note(args, line))
    if args.plan:
        write_rates(Path(args.plan), rates, plan.settings.bits)
    return make_plan(model, replace(plan.settings, rates=rates))


def _note(args: argparse.Namespace, line: str) -> None:
    """Say on stderr what is going on."""
    if not args.quiet:
        print(f"pvq-ref: {line}", file=sys.stderr)


def _compress(args: argparse.Namespace) -> int:
    from pvq_ref.checkpoint import check_target
    from pvq_ref.model import open_model
    from pvq_ref.output import target_path
    from pvq_ref.parallel import thread_count
    from pvq_ref.plan import make_plan

    settings = _settings(args)
    thread_count(args.threads)
    model, target = open_model(args.model), target_path(args.out)
    if not args.dry_run:
        check_target(model, target, args.force)
    plan = _allocate(args, model, make_plan(model, settings))
    _say(args, *_plan_lines(plan), *(f"left out: {name}" for name in model.left_out))
    if args.dry_run:
        _say(args, *_total_lines(plan, done=False))
        _emit(args, plan.as_json())
        return OK
    _announce_compilation(args)
    began = time.monotonic()
    with _Bar(args, plan.weights) as bar:
        result, report = _run(args, model, plan, target, bar)
    seconds = time.monotonic() - began
    _say(args, *_total_lines(plan, done=True), *_loss_lines(report), _time_line(result, seconds))
    _emit(
        args,
        plan.as_json()
        | {"header_bytes": result.header_size, "file_bytes": result.file_size, "seconds": seconds}
        | report,
    )
    return OK


def _run(
    args: argparse.Namespace, model: "Model", plan: "Plan", target: "Path", bar: _Bar
) -> tuple["Result", dict[str, Any]]:
    """Compress with a text, with Hessians, or without either; return what is reported besides."""
    from dataclasses import asdict

    from pvq_ref.checkpoint import plain_encoder, run

    if args.calibrate:
        from pvq_ref.calibrated import compress_calibrated

        result, report = compress_calibrated(
            model,
            plan,
            target,
            _calibration(args),
            threads=args.threads,
            force=args.force,
            resume=args.resume,
            progress=bar,
            say=lambda line: _note(args, line),
        )
        losses = {n: t["loss"] for n, t in report["tensors"].items() if t["loss"]}
        return result, {"report": report, "losses": losses}
    if args.hessians:
        from pvq_ref.compensated import Feedback
        from pvq_ref.hessian_encoding import HessianEncoder
        from pvq_ref.hessians import Hessians

        how = Feedback(args.damping, args.search, args.sweeps)
        coder = HessianEncoder(plan, Hessians(args.hessians), how, args.threads)
        result = run(model, plan, target, coder, args.force, bar)
        return result, {"losses": {name: asdict(lost) for name, lost in coder.losses.items()}}
    encoder = plain_encoder(plan, args.threads)
    return run(model, plan, target, encoder, args.force, bar), {}


def _loss_lines(report: dict[str, Any]) -> list[str]:
    losses = report.get("losses", {}).values()
    if not losses:
        return []
    without, coded = (sum(x[key] for x in losses) / len(losses) for key in ("without", "coded"))
    return [
        f"{len(losses)} layers calibrated: relative loss of outputs {coded:.5f}, {without:.5f} "
        "without feedback (means)"
    ]


def _calibrate(args: argparse.Namespace) -> int:
    from pathlib import Path

    from pvq_ref.calibrated import Text
    from pvq_ref.collecting import collect_hessians

    text = Text(Path(args.text), args.tokens, args.window, args.part, args.text_seed)
    began = time.monotonic()
    with _Bar(args, None, "layer") as bar:
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
    _say(args, f"{count} layers, Hessians written in {seconds:.1f} s")
    _emit(args, {"layers": count, "seconds": seconds})
    return OK


def _time_line(result: "Result", seconds: float) -> str:
    rate = result.plan.weights / seconds / 1e6
    size = _size(result.file_size)
    return f"{size} written in {seconds:.1f} s, {rate:.1f} million weights per second"


def _decompress(args: argparse.Namespace) -> int:
    from math import prod

    from pvq_ref import parsing
    from pvq_ref.checkpoint import decompress
    from pvq_ref.model import open_model

    tensors: dict[str, Any] = {}
    for header in open_model(args.model).headers.values():
        tensors |= parsing.parse(header).tensors
    weights = sum(prod(t.shape) for t in tensors.values())
    _announce_compilation(args)
    began = time.monotonic()
    with _Bar(args, weights) as bar:
        decompress(args.model, args.out, threads=args.threads, force=args.force, progress=bar)
    seconds = time.monotonic() - began
    _say(args, f"{len(tensors)} tensors, {weights:,} weights decompressed in {seconds:.1f} s")
    _emit(args, {"tensors": len(tensors), "weights": weights, "seconds": seconds})
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
        _announce_compilation(args)
        with _Bar(args, description.weights) as bar:
            description = replace(description, entropies=entropies(model, args.threads, bar))
    _say(args, *description.lines())
    _emit(args, description.as_json())
    return OK


def _verify(args: argparse.Namespace) -> int:
    from pvq_ref.parallel import thread_count
    from pvq_ref.verification import verify

    thread_count(args.threads)
    _announce_compilation(args)
    with _Bar(args, None) as bar:
        report = verify(args.model, args.against, threads=args.threads, progress=bar)
    for error in report.errors:
        _say(args, f"{error.name}  {error.db:.2f} dB")
    if report.mean_db is not None:
        _say(args, f"mean over {len(report.errors)} tensors: {report.mean_db:.2f} dB")
    for problem in report.problems:
        print(f"pvq-ref: {problem}", file=sys.stderr)
    if not report.problems:
        _say(
            args,
            f"{report.compressed} compressed and {report.untouched} other tensors are as written",
        )
    _emit(args, report.as_json())
    return UNVERIFIED if report.problems else OK


def _evaluate(args: argparse.Namespace) -> int:
    from pvq_ref.evaluate import evaluate

    with _Bar(args, None, "token") as bar:

        def progress(name: str, done: int, total: int) -> None:
            bar.bar.total = total
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
    _say(args, *report.lines())
    _emit(args, report.as_json())
    return OK


def _vectors(args: argparse.Namespace) -> int:
    from pvq_ref import vectors
    from pvq_ref.output import target_path

    names = vectors.write(target_path(args.out), force=args.force)
    _say(args, f"{len(vectors.cases())} cases in {len(names) - 1} files, and {vectors.SCHEMA}")
    _emit(args, {"files": names, "cases": len(vectors.cases())})
    return OK


def _conform(args: argparse.Namespace) -> int:
    from pvq_ref.conform import check

    report = check(args.port, args.timeout, args.only)
    for problem in report.problems:
        print(f"pvq-ref: {problem}", file=sys.stderr)
    _say(args, *report.lines())
    _emit(args, report.as_json())
    return OK if report.conforms else UNVERIFIED


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "compress": _compress,
    "decompress": _decompress,
    "inspect": _inspect,
    "verify": _verify,
    "calibrate": _calibrate,
    "evaluate": _evaluate,
    "vectors": _vectors,
    "conform": _conform,
}


def _on_terminate(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


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
    except KeyboardInterrupt:
        print("pvq-ref: interrupted; nothing was left behind", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return FAILED
    except MemoryError:
        print("pvq-ref: memory doesn't suffice for this", file=sys.stderr)
        return FAILED
    except (PVQError, OSError) as error:
        print(f"pvq-ref: {error}", file=sys.stderr)
        if isinstance(error, OSError):
            _drop_stdout()
        return USAGE if isinstance(error, DomainError) else FAILED


def _drop_stdout() -> None:
    """Let nothing more be written to stdout, or the interpreter would fail at it once more."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
