"""The command `compress`: a plan, then data-free, with Hessians, or with a text."""

import argparse
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvq_ref.allocation import read_rates, write_rates
from pvq_ref.checkpoint import Result, check_target, plain_encoder, run
from pvq_ref.compensated import Feedback
from pvq_ref.errors import DomainError
from pvq_ref.hessian_encoding import HessianEncoder
from pvq_ref.hessians import Hessians
from pvq_ref.model import Model, open_model
from pvq_ref.output import target_path
from pvq_ref.parallel import thread_count
from pvq_ref.plan import EXAMPLE_EMBED_BITS, Plan, Settings, make_plan
from pvq_ref.printing import Bar, announce_compilation, emit, note, say, size_of

if TYPE_CHECKING:
    from pvq_ref.calibrated import Calibration


def _plan_lines(plan: Plan) -> list[str]:
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


def _total_lines(plan: Plan, *, done: bool) -> list[str]:
    lines = [
        f"{len(plan.compressed)} tensors, {plan.weights:,} weights: {size_of(plan.source_size)} "
        f"{'became' if done else 'would become'} {size_of(plan.compressed_size)}, "
        f"{plan.file_rate:.4f} bits per weight",
        f"{len(plan.tensors) - len(plan.compressed)} tensors of {size_of(plan.untouched_size)} "
        f"{'stayed' if done else 'would stay'} as they are",
    ]
    size, saved = plan.embedding_saving()
    if saved > 0:
        lines.append(
            f"of these, embeddings and heads take {size_of(size)}; --embed-bits "
            f"{EXAMPLE_EMBED_BITS} would save {size_of(saved)}"
        )
    return lines


def _settings(args: argparse.Namespace) -> Settings:
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
    from pvq_ref.calibrated import Calibration, Text

    text = Text(Path(args.calibrate), args.tokens, args.window, args.part, args.text_seed)
    how = Feedback(args.damping, args.search, args.sweeps)
    return Calibration(text, how, args.share, args.tune, args.device, args.batch)


def _allocate(args: argparse.Namespace, model: Model, plan: Plan) -> Plan:
    """Share the rate out, where that is asked for and no plan file has it already."""
    if plan.settings.rates or not (args.allocate or args.plan):
        return plan
    if not (args.allocate and args.calibrate):
        raise DomainError("a new plan must have --allocate and --calibrate, or the rates in a file")
    from pvq_ref.calibrated import allocated

    rates = allocated(model, plan, _calibration(args), lambda line: note(args, line))
    if args.plan:
        write_rates(Path(args.plan), rates, plan.settings.bits)
    return make_plan(model, replace(plan.settings, rates=rates))


def _run(
    args: argparse.Namespace, model: Model, plan: Plan, target: Path, bar: Bar
) -> tuple[Result, dict[str, Any]]:
    """Compress with a text, with Hessians, or without either; return what is reported besides."""
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
            say=lambda line: note(args, line),
        )
        losses = {n: t["loss"] for n, t in report["tensors"].items() if t["loss"]}
        return result, {"report": report, "losses": losses}
    if args.hessians:
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


def _time_line(result: Result, seconds: float) -> str:
    rate = result.plan.weights / seconds / 1e6
    size = size_of(result.file_size)
    return f"{size} written in {seconds:.1f} s, {rate:.1f} million weights per second"


def compress(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if not args.calibrate and (args.resume or args.tune):
        raise DomainError("--resume and --tune must come with --calibrate")
    settings = _settings(args)
    thread_count(args.threads)
    model, target = open_model(args.model), target_path(args.out)
    if not args.dry_run:
        check_target(model, target, args.force)
    announce_compilation(args)  # the plan searches too
    plan = _allocate(args, model, make_plan(model, settings))
    say(args, *_plan_lines(plan), *(f"left out: {name}" for name in model.left_out))
    if args.dry_run:
        say(args, *_total_lines(plan, done=False))
        emit(args, plan.as_json())
        return 0
    began = time.monotonic()
    with Bar(args, plan.weights) as bar:
        result, report = _run(args, model, plan, target, bar)
    seconds = time.monotonic() - began
    say(args, *_total_lines(plan, done=True), *_loss_lines(report), _time_line(result, seconds))
    emit(
        args,
        plan.as_json()
        | {"header_bytes": result.header_size, "file_bytes": result.file_size, "seconds": seconds}
        | report,
    )
    return 0
