"""A compression carried out: what is checked, what is kept, and how it ends.

One work folder and one lock for one output; the units of work are coded, and the output is put
together of them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pvq_ref import __version__, output
from pvq_ref.assembly import Assembly, entries_of
from pvq_ref.container import Header
from pvq_ref.errors import ArgumentError, ModelError, OutputError
from pvq_ref.locking import locked
from pvq_ref.memory import Limits
from pvq_ref.model import Model
from pvq_ref.output import check_free, partial_path, writing
from pvq_ref.parallel import thread_count
from pvq_ref.plan import Plan, Settings
from pvq_ref.units import Method, Note, Progress, Unit, all_units, code_units, reading
from pvq_ref.workfolder import Say, WorkFolder, source_state


def _silent(*_: object) -> None:
    pass


Headers = dict[str, Header]


@dataclass(frozen=True)
class Run:
    """How a compression is carried out; no byte of the output depends on it.

    force, to replace an existing output; resume, to go on with what an interrupted run left in
    OUT.partial; progress, called with a tensor's name and the weights done; say gets lines about
    what is going on; spread, which may have units coded elsewhere and returns what is left.
    """

    limits: Limits = field(default_factory=Limits)
    force: bool = False
    resume: bool = False
    progress: Progress = _silent
    say: Say = _silent
    spread: Callable[[list[Unit], WorkFolder], list[Unit]] | None = None


@dataclass(frozen=True)
class Result:
    """What a compression wrote, and what was noted of tensors that were coded whole."""

    plan: Plan
    header_size: int
    file_size: int
    notes: dict[str, Note]


def check_output(model: Model, plan: Plan, target: Path, force: bool) -> None:
    """Raise what would be in the way of the output: OutputError, ModelError."""
    check_target(model, target, force)
    _check_names(plan)


def settings_json(settings: Settings) -> dict[str, Any]:
    """Return settings as JSON."""
    return asdict(replace(settings, rates=dict(settings.rates)))


def state_of(model: Model, plan: Plan, method: Method) -> dict[str, Any]:
    """Return all that the pieces of an output depend on, as JSON."""
    return {
        "program": f"pvq_ref {__version__}",
        "source": source_state(model),
        "settings": settings_json(plan.settings),
        "whole": sorted(method.whole),
        **method.state,
    }


@contextmanager
def working(
    target: Path, state: Mapping[str, Any], how: Run, *, shared: bool = False
) -> Iterator[WorkFolder]:
    """Give the work folder of an output, locked; say in errors that what is finished stays.

    It doesn't where resuming can't help, since the source or an argument is wrong.
    """
    resume = how.resume or shared
    with locked(target, shared=shared):
        with writing(target):
            work = WorkFolder(target, state, resume=resume, shared=shared, say=how.say)
        try:
            with writing(target):
                yield work
        except ArgumentError:
            if not shared:
                output.remove(work.path)
            raise
        except BaseException as error:
            if work.path.is_dir():
                again = "run this shard again" if shared else "run again with --resume"
                error.add_note(f"{again} to go on with what is in {work.path}")
            raise


def run(
    model: Model,
    plan: Plan,
    target: Path,
    method: Method,
    how: Run,
    reports: Mapping[str, object] = MappingProxyType({}),
) -> Result:
    """Carry out a plan; reports are JSON files that a folder gets besides."""
    check_output(model, plan, target, how.force)
    state = state_of(model, plan, method)
    with working(target, state, how) as work:
        units = all_units(plan, method.whole)
        if kept := sum(work.get(unit.name) is not None for unit in units):
            how.say(f"going on: {kept} of {len(units)} pieces are in {work.path}")
        if how.spread is not None:
            units = how.spread(units, work)
        assembly = Assembly(model, plan, work, method.whole, how.limits.threads)

        def code(progress: Progress) -> None:
            code_units(model, units, method, work, how.limits, progress)

        def write(out: Path) -> Headers:
            if thread_count(how.limits.threads) > 1:
                return _write_meanwhile(assembly, out, reports, work, code, how.progress)
            code(how.progress)
            return assembly.write(out, reports)

        return complete(assembly, target, state["source"], how.force, write)


def _write_meanwhile(
    assembly: Assembly,
    out: Path,
    reports: Mapping[str, object],
    work: WorkFolder,
    code: Callable[[Progress], None],
    progress: Progress,
) -> Headers:
    """Write the output in a thread of its own, each tensor as soon as its pieces are coded."""
    with ThreadPoolExecutor(1) as pool:
        with work.filling():
            headers = pool.submit(assembly.write, out, reports)

            def checked_progress(name: str, weights: int) -> None:
                if headers.done():
                    headers.result()  # what went wrong there ends the coding too
                progress(name, weights)

            code(checked_progress)
        return headers.result()


def complete(
    assembly: Assembly,
    target: Path,
    source: object,
    force: bool,
    write: Callable[[Path], Headers] | None = None,
) -> Result:
    """Put an output together of its pieces, and let it take its place.

    source is what `source_state` said when the first of the pieces was made; write is how to write
    the output to a free name, `assembly.write` if None.
    """
    model, plan = assembly.model, assembly.plan
    out = partial_path(target) / "out"
    output.remove(out)
    headers = (write or assembly.write)(out)
    with reading(model.path):
        now = source_state(model)
    if now != source:
        output.remove(partial_path(target))  # it can't be gone on with
        raise ModelError("the model must not change while it is compressed")
    check_free(target, force, folder=model.is_folder)
    output.replace(out, target)
    output.remove(partial_path(target))
    header_size = sum(header.data_start for header in headers.values())
    size = header_size + plan.compressed_size + plan.untouched_size
    return Result(plan, header_size, size, assembly.notes)


def check_target(model: Model, target: Path, force: bool) -> None:
    """Raise OutputError for an output that exists or can't be, or that touches its source."""
    check_free(target, force, folder=model.is_folder)
    source, made = model.path.resolve(), target.resolve()
    if made == source or source in made.parents or made in source.parents:
        raise OutputError(f"the output must be outside its source, and not around it, got {target}")


def _check_names(plan: Plan) -> None:
    """Raise ModelError if a tensor has a name that a compressed one's fields need."""
    names = [name for t in plan.tensors for name, _, _ in entries_of(t)]
    if len(set(names)) < len(names):
        clash = sorted(name for name, count in Counter(names).items() if count > 1)
        raise ModelError(
            f"the model must not have names like those of packed fields, got {clash[0]!r}"
        )
