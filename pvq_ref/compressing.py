"""The commands `compress` (a plan, then data-free, with Hessians, or with a text) and `merge`."""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvq_ref.allocation import read_rates, write_rates
from pvq_ref.companion import accompanied
from pvq_ref.compensated import Feedback
from pvq_ref.errors import DomainError
from pvq_ref.hessian_encoding import with_hessians
from pvq_ref.hessians import Hessians
from pvq_ref.memory import Limits, memory_size
from pvq_ref.model import Model, open_model
from pvq_ref.output import target_path
from pvq_ref.plan import EXAMPLE_EMBED_BITS, Plan, Settings, make_plan
from pvq_ref.printing import Bar, announce_compilation, emit, note, say, size_of
from pvq_ref.running import Result, Run, check_target, run
from pvq_ref.sharding import compress_shard, shard_of
from pvq_ref.sharding import merge as join
from pvq_ref.units import Method, Unit
from pvq_ref.workfolder import WorkFolder

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
    how = Feedback(args.damping, args.search, args.sweeps, args.paths)
    return Calibration(text, how, args.share, args.tune, args.device, args.batch, args.weigh_tokens)


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


def _method(args: argparse.Namespace, plan: Plan) -> Method:
    """Return how tensors are coded, without a text."""
    if not args.hessians:
        return Method()
    feedback = Feedback(args.damping, args.search, args.sweeps, args.paths)
    return with_hessians(plan, Hessians(args.hessians), feedback, args.threads)


def _with_dask(args: argparse.Namespace, model: Model, plan: Plan, target: Path, how: Run) -> Run:
    """Return how to run with a cluster's help."""
    from pvq_ref.distributing import Job, spread

    feedback = Feedback(args.damping, args.search, args.sweeps, args.paths)
    job = Job.of(model, plan, target, how.limits.memory, args.hessians, feedback)

    def over(units: list[Unit], work: WorkFolder) -> list[Unit]:
        return spread(args.dask, job, units, work, how.limits, how.progress, how.say)

    return replace(how, spread=over)


def _carry_out(
    args: argparse.Namespace, model: Model, plan: Plan, target: Path, how: Run
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
            max_memory=how.limits.memory,
            force=args.force,
            resume=args.resume,
            progress=how.progress,
            say=how.say,
        )
        losses = {n: t["loss"] for n, t in report["tensors"].items() if t["loss"]}
        return result, {"report": report, "losses": losses}
    if args.dask:
        how = _with_dask(args, model, plan, target, how)
    result = run(model, plan, target, _method(args, plan), how)
    return result, {"losses": result.notes} if args.hessians else {}


def _compress_shard(
    args: argparse.Namespace,
    model: Model,
    plan: Plan,
    target: Path,
    limits: Limits,
    shard: tuple[int, int],
) -> int:
    """Code one share of the work, and say how much it was."""
    began = time.monotonic()
    with Bar(args, None) as bar:
        how = Run(limits, args.force, True, bar, lambda line: note(args, line))
        weights = compress_shard(model, plan, target, _method(args, plan), how, shard)
    seconds = time.monotonic() - began
    say(
        args,
        f"shard {args.shard}: {weights:,} of {plan.weights:,} weights done in {seconds:.1f} s; "
        f"when all shards are: pvq-ref merge {args.model} {args.out}",
    )
    number, count = shard
    emit(args, {"shard": number, "shards": count, "weights": weights, "seconds": seconds})
    return 0


def merge(args: argparse.Namespace) -> int:
    """Run the command `merge` and return its exit code."""
    began = time.monotonic()
    result = join(args.model, args.out, force=args.force)
    seconds = time.monotonic() - began
    sizes = {"header_bytes": result.header_size, "file_bytes": result.file_size}
    losses = {"losses": result.notes} if result.notes else {}
    say(args, *_total_lines(result.plan, done=True), _time_line(result, seconds))
    emit(args, result.plan.as_json() | sizes | {"seconds": seconds} | losses)
    return 0


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
    if (args.tune or args.weigh_tokens) and not args.calibrate:
        raise DomainError("--tune and --weigh-tokens must come with --calibrate")
    if args.calibrate and (args.shard is not None or args.dask):
        raise DomainError(
            "--shard and --dask must come without --calibrate, whose layers wait for each other"
        )
    if args.shard is not None and args.dask:
        raise DomainError("--shard and --dask must not come together")
    settings = _settings(args)
    limits = Limits(args.threads, memory_size(args.max_memory))
    shard = None if args.shard is None else shard_of(args.shard)
    model, target = open_model(args.model), target_path(args.out)
    if not args.dry_run:
        check_target(model, target, args.force)
    announce_compilation(args)
    with accompanied(args.threads):  # the plan searches, and so the first kernels are its own
        return _compress(args, model, target, settings, limits, shard)


def _compress(
    args: argparse.Namespace,
    model: Model,
    target: Path,
    settings: Settings,
    limits: Limits,
    shard: tuple[int, int] | None,
) -> int:
    plan = _allocate(args, model, make_plan(model, settings))
    say(args, *_plan_lines(plan), *(f"left out: {name}" for name in model.left_out))
    if args.dry_run:
        say(args, *_total_lines(plan, done=False))
        emit(args, plan.as_json())
        return 0
    if shard is not None:
        return _compress_shard(args, model, plan, target, limits, shard)
    began = time.monotonic()
    with Bar(args, plan.weights) as bar:
        how = Run(limits, args.force, args.resume, bar, lambda line: note(args, line))
        result, report = _carry_out(args, model, plan, target, how)
    seconds = time.monotonic() - began
    if not args.quiet:  # to plan embeddings for these lines takes a while
        say(args, *_total_lines(plan, done=True), *_loss_lines(report), _time_line(result, seconds))
    emit(
        args,
        plan.as_json()
        | {"header_bytes": result.header_size, "file_bytes": result.file_size, "seconds": seconds}
        | report,
    )
    return 0
