"""Checkpoints: compress and decompress models of files and folders (spec section 9.5)."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvq_ref import __version__, metadata, output, parsing
from pvq_ref.assembly import Assembly, entries_of, write_around
from pvq_ref.container import Reader, Writer, header_bytes, layout, read_header
from pvq_ref.errors import ArgumentError, IntegrityError, ModelError, OutputError, PVQError
from pvq_ref.locking import locked
from pvq_ref.memory import DEFAULT_MEMORY, Limits
from pvq_ref.model import Model, open_model
from pvq_ref.output import check_free, partial_path, target_path, whole, writing
from pvq_ref.plan import Plan, Settings, make_plan
from pvq_ref.stored import decoded
from pvq_ref.tensor import PVQTensor, check_fields
from pvq_ref.units import Method, Note, Progress, Unit, all_units, code_units, reading
from pvq_ref.workfolder import Say, WorkFolder, source_state

AnyPath = str | PathLike[str]


def _silent(*_: object) -> None:
    pass


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


def compress(
    src: AnyPath,
    dst: AnyPath,
    bits: float = 3.25,
    *,
    embed_bits: float | None = None,
    group: int = 32,
    gain_bits: int | None = None,
    order: str = "blocked",
    block: int = 4,
    seed: int = 0,
    rotate: bool = True,
    design: str = "auto",
    include: tuple[str, ...] | list[str] = (),
    exclude: tuple[str, ...] | list[str] = (),
    threads: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    force: bool = False,
    resume: bool = False,
    progress: Progress = _silent,
) -> Result:
    """Compress a model without calibration data.

    Parameters: src, a .safetensors file or a folder of them; dst, what to make of it, in the same
    form; bits, the rate that no tensor exceeds; embed_bits, the rate of embeddings and output
    heads, which otherwise stay as they are; include and exclude, see `selection.choose`;
    max_memory, bytes beyond those of the program itself; force, to replace an existing output once
    the new one is complete; resume, to go on with what an interrupted run left in dst.partial,
    which is discarded otherwise; progress, called with a tensor's name and the weights done; the
    rest as in `quantize`. The same bytes for any number of threads, any limit, and after any
    interruption. Raises ModelError, HeaderError, NonFiniteError, DomainError, OutputError; what was
    finished stays in dst.partial, unless resuming can't help.
    """
    settings = Settings(
        bits, embed_bits, group, gain_bits, order, block, seed, rotate, design, include, exclude
    )
    how = Run(Limits(threads, max_memory), force, resume, progress)
    model = open_model(fspath(src))
    return run(model, make_plan(model, settings), target_path(dst), Method(), how)


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
        code_units(model, plan, units, method, work, how.limits, how.progress)
        assembly = Assembly(model, plan, work, method.whole)
        return complete(assembly, target, state["source"], how.force, reports)


def complete(
    assembly: Assembly,
    target: Path,
    source: object,
    force: bool,
    reports: Mapping[str, object] = MappingProxyType({}),
) -> Result:
    """Put an output together of its pieces, and let it take its place.

    source is what `source_state` said when the first of the pieces was made.
    """
    model, plan = assembly.model, assembly.plan
    out = partial_path(target) / "out"
    output.remove(out)
    headers = assembly.write(out, reports)
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
    source, output = model.path.resolve(), target.resolve()
    if output == source or source in output.parents or output in source.parents:
        raise OutputError(f"the output must be outside its source, and not around it, got {target}")


def _check_names(plan: Plan) -> None:
    """Raise ModelError if a tensor has a name that a compressed one's fields need."""
    names = [name for t in plan.tensors for name, _, _ in entries_of(t)]
    if len(set(names)) < len(names):
        clash = sorted(name for name, count in Counter(names).items() if count > 1)
        raise ModelError(
            f"the model must not have names like those of packed fields, got {clash[0]!r}"
        )


def decompress(
    src: AnyPath,
    dst: AnyPath,
    *,
    threads: int | None = None,
    max_memory: int = DEFAULT_MEMORY,
    force: bool = False,
    progress: Progress = _silent,
) -> None:
    """Decompress a model into plain safetensors, each tensor in the type of its source.

    Parameters: src, a compressed file or folder; dst, what to make of it, in the same form; the
    rest as in `compress`. Hashes are checked on the way. Raises ModelError, FormatError and its
    children, OutputError, and leaves nothing behind then.
    """
    limits = Limits(threads, max_memory)
    model = open_model(fspath(src))
    parsed = {file: parsing.parse(header) for file, header in model.headers.items()}
    target = target_path(dst)
    check_target(model, target, force)
    headers = {}
    with locked(target), whole(target, force, folder=model.is_folder) as partial:
        for file, meta in parsed.items():
            path = partial / file if model.is_folder else partial
            _decompress_file(model.file(file), path, meta, limits, progress)
            headers[file] = read_header(path)
        if model.is_folder:
            config = {k: v for k, v in model.config.items() if k != "quantization_config"}
            sizes = (
                np.prod(e.shape, dtype=object) for h in headers.values() for e in h.entries.values()
            )
            write_around(model, partial, config, headers, int(sum(sizes)))


def _decompress_file(
    source: Path, target: Path, meta: parsing.FileMetadata, limits: Limits, progress: Progress
) -> None:
    with Reader(source) as reader:
        parsing.check_entries(reader, meta)
        untouched = [reader.header.entries[name] for name in meta.untouched]
        wanted = [(e.name, e.dtype, e.shape) for e in untouched]
        entries = layout(wanted + [(name, t.dtype, t.shape) for name, t in meta.tensors.items()])
        head = header_bytes(entries, meta.source_metadata or {"format": "pt"})
        with Writer(target, entries, len(head)) as writer:
            for name in meta.untouched:
                writer.write(name, reader.chunks(name))
                parsing.check_hash(name, writer.hashes[name], meta)
            for name, bare in meta.tensors.items():
                writer.write(name, _decoded_chunks(reader, name, bare, meta, limits, progress))
            writer.finish(head)


def _decoded_chunks(
    reader: Reader,
    name: str,
    bare: PVQTensor,
    meta: parsing.FileMetadata,
    limits: Limits,
    progress: Progress,
) -> Iterator[NDArray[Any]]:
    try:
        for _, rows in decoded(reader, name, bare, meta, limits):
            yield rows
            progress(name, rows.size)
    except IntegrityError:
        raise
    except PVQError as error:
        raise type(error)(f"tensor {name!r}: {error}") from None


def load(path: AnyPath) -> dict[str, PVQTensor | NDArray[Any]]:
    """Load a compressed file or folder: a PVQTensor for each compressed tensor, else an array.

    Returns tensors by name. Hashes are checked. Raises ModelError, FormatError and its children.
    """
    model = open_model(fspath(path))
    tensors: dict[str, PVQTensor | NDArray[Any]] = {}
    for file, header in model.headers.items():
        meta = parsing.parse(header)
        with Reader(model.file(file)) as reader:
            for name, bare in meta.tensors.items():
                tensors[name] = parsing.with_fields(reader, name, bare, meta)
            for name in meta.untouched:
                parsing.check_entry(reader, name, meta)
                tensors[name] = reader.read(name)
    for tensor in tensors.values():
        if isinstance(tensor, PVQTensor):
            check_fields(tensor)
    return tensors


def save_tensor(path: AnyPath, name: str, tensor: PVQTensor) -> None:
    """Write a file that holds one compressed tensor. Raises OutputError."""
    target = target_path(path)
    check_free(target, force=False, folder=False)
    entries = layout(metadata.entries_of(name, tensor.shape, tensor.allotment))
    objects = {name: metadata.object_of(tensor)}
    blank = dict.fromkeys(entries, metadata.NO_HASH)
    room = len(metadata.build_header(entries, blank, objects, {}))
    with whole(target, False, folder=False) as partial, Writer(partial, entries, room) as writer:
        for part in metadata.PARTS:
            writer.write(f"{name}_{part}", [getattr(tensor, part)])
        writer.finish(metadata.build_header(entries, writer.hashes, objects, {}, size=room))
