"""Checkpoints: compress and decompress models of files and folders (spec section 9.5)."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvq_ref import metadata, parsing
from pvq_ref.container import Header, Reader, Writer, header_bytes, layout, read_header
from pvq_ref.decoding import decoded_ranges
from pvq_ref.encoding import RowReader, encode
from pvq_ref.errors import IntegrityError, ModelError, NonFiniteError, OutputError, PVQError
from pvq_ref.model import CONFIG, Model, open_model, rebuilt_index, write_json
from pvq_ref.output import check_free, target_path, whole, write_sums
from pvq_ref.parallel import thread_count
from pvq_ref.plan import Plan, Settings, TensorPlan, make_plan
from pvq_ref.tensor import DTYPES, PVQTensor, check_fields

Progress = Callable[[str, int], None]  # name of the tensor, weights done since the last call
RowsDone = Callable[[int], None]
Encoder = Callable[[TensorPlan, RowReader, RowsDone], PVQTensor]
AnyPath = str | PathLike[str]


@dataclass(frozen=True)
class Result:
    """What a compression wrote."""

    plan: Plan
    header_size: int
    file_size: int


def _silent(name: str, weights: int) -> None:
    pass


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
    force: bool = False,
    progress: Progress = _silent,
) -> Result:
    """Compress a model without calibration data.

    Parameters: src, a .safetensors file or a folder of them; dst, what to make of it, in the same
    form; bits, the rate that no tensor exceeds; embed_bits, the rate of embeddings and output
    heads, which otherwise stay as they are; include and exclude, see `selection.choose`; force, to
    replace an existing output once the new one is complete; progress, called with a tensor's name
    and the weights done; the rest as in `quantize`. The same bytes for any number of threads.
    Raises ModelError, HeaderError, NonFiniteError, DomainError, OutputError, and leaves nothing
    behind then.
    """
    settings = Settings(
        bits, embed_bits, group, gain_bits, order, block, seed, rotate, design, include, exclude
    )
    model = open_model(fspath(src))
    plan = make_plan(model, settings)
    return run(model, plan, target_path(dst), plain_encoder(plan, threads), force, progress)


def plain_encoder(plan: Plan, threads: int | None) -> Encoder:
    """Return what codes tensors without calibration data. Raises DomainError."""
    thread_count(threads)

    def one(t: TensorPlan, read: RowReader, rows_done: RowsDone) -> PVQTensor:
        assert t.coding is not None
        design = plan.settings.design
        return encode(read, t.entry.shape, t.entry.dtype, t.coding, design, threads, rows_done)

    return one


def check_output(model: Model, plan: Plan, target: Path, force: bool) -> None:
    """Raise what would be in the way of the output: OutputError, ModelError."""
    check_target(model, target, force)
    _check_names(plan)


def run(
    model: Model,
    plan: Plan,
    target: Path,
    encoder: Encoder,
    force: bool,
    progress: Progress,
    reports: Mapping[str, object] = MappingProxyType({}),
) -> Result:
    """Carry out a plan; reports are JSON files that a folder gets besides."""
    check_output(model, plan, target, force)
    headers: dict[str, Header] = {}
    with whole(target, force, folder=model.is_folder) as partial:
        for file, source in model.headers.items():
            path = partial / file if model.is_folder else partial
            tensors = [t for t in plan.tensors if t.file == file]
            _compress_file(model.file(file), path, tensors, source, encoder, progress)
            headers[file] = read_header(path)
        if model.is_folder:
            config = model.config | {"quantization_config": _config(plan)}
            _write_around(model, partial, config, headers, sum(t.weights for t in plan.tensors))
            for name, report in reports.items():
                write_json(partial / name, report)
            write_sums(partial)
    header_size = sum(header.data_start for header in headers.values())
    return Result(plan, header_size, header_size + plan.compressed_size + plan.untouched_size)


def _config(plan: Plan) -> dict[str, Any]:
    return {
        "quant_method": "pvq",
        "format_version": metadata.FORMAT_VERSION,
        "bits": plan.settings.bits,
        "embed_bits": plan.settings.embed_bits,
        "group_size": plan.settings.group,
    }


def check_target(model: Model, target: Path, force: bool) -> None:
    """Raise OutputError for an output that exists or can't be, or that touches its source."""
    check_free(target, force, folder=model.is_folder)
    source, output = model.path.resolve(), target.resolve()
    if output == source or source in output.parents or output in source.parents:
        raise OutputError(f"the output must be outside its source, and not around it, got {target}")


def _check_names(plan: Plan) -> None:
    """Raise ModelError if a tensor has a name that a compressed one's fields need."""
    names = [name for t in plan.tensors for name, _, _ in _entries_of(t)]
    if len(set(names)) < len(names):
        clash = sorted(name for name, count in Counter(names).items() if count > 1)
        raise ModelError(
            f"the model must not have names like those of packed fields, got {clash[0]!r}"
        )


def _entries_of(t: TensorPlan) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return the entries that a tensor gets in the output."""
    e = t.entry
    if t.coding is None:
        return [(e.name, e.dtype, e.shape)]
    return metadata.entries_of(e.name, e.shape, t.coding.allotment)


def _compress_file(
    source: Path,
    target: Path,
    tensors: list[TensorPlan],
    header: Header,
    encoder: Encoder,
    progress: Progress,
) -> None:
    entries = layout([one for t in tensors for one in _entries_of(t)])
    objects: dict[str, dict[str, object]] = {}
    template = {
        t.entry.name: metadata.longest_object(t.entry.shape, t.entry.dtype, t.coding)
        for t in tensors
        if t.coding
    }
    hashes = dict.fromkeys(entries, metadata.NO_HASH)
    room = len(metadata.build_header(entries, hashes, template, header.metadata))
    with Reader(source) as reader, Writer(target, entries, room) as writer:
        for t in tensors:
            name = t.entry.name
            if t.coding is None:
                writer.write(name, reader.chunks(name))
                continue
            tensor = _encode(reader, t, encoder, progress)
            objects[name] = metadata.object_of(tensor)
            for part in metadata.PARTS:
                writer.write(f"{name}_{part}", [getattr(tensor, part)])
        writer.finish(
            metadata.build_header(entries, writer.hashes, objects, header.metadata, size=room)
        )


def _encode(reader: Reader, t: TensorPlan, encoder: Encoder, progress: Progress) -> PVQTensor:
    name, cols = t.entry.name, t.entry.shape[-1]

    def read(start: int, stop: int) -> NDArray[Any]:
        return reader.read_rows(name, start, stop)

    try:
        return encoder(t, read, lambda rows: progress(name, rows * cols))
    except NonFiniteError as error:
        raise NonFiniteError(f"tensor {name!r}: {error}") from None


def _write_around(
    model: Model,
    folder: Path,
    config: dict[str, Any],
    headers: dict[str, Header],
    parameters: int,
) -> None:
    """Write what stands beside the weight files: side files, config, index."""
    for name in model.side_files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.path / name, folder / name)
    if config:
        write_json(folder / CONFIG, config)
    if model.index:
        write_json(folder / model.index, rebuilt_index(headers, parameters))


def decompress(
    src: AnyPath,
    dst: AnyPath,
    *,
    threads: int | None = None,
    force: bool = False,
    progress: Progress = _silent,
) -> None:
    """Decompress a model into plain safetensors, each tensor in the type of its source.

    Parameters: src, a compressed file or folder; dst, what to make of it, in the same form; the
    rest as in `compress`. Hashes are checked on the way. Raises ModelError, FormatError and its
    children, OutputError, and leaves nothing behind then.
    """
    thread_count(threads)
    model = open_model(fspath(src))
    parsed = {file: parsing.parse(header) for file, header in model.headers.items()}
    target = target_path(dst)
    check_target(model, target, force)
    headers = {}
    with whole(target, force, folder=model.is_folder) as partial:
        for file, meta in parsed.items():
            path = partial / file if model.is_folder else partial
            _decompress_file(model.file(file), path, meta, threads, progress)
            headers[file] = read_header(path)
        if model.is_folder:
            config = {k: v for k, v in model.config.items() if k != "quantization_config"}
            sizes = (
                np.prod(e.shape, dtype=object) for h in headers.values() for e in h.entries.values()
            )
            _write_around(model, partial, config, headers, int(sum(sizes)))


def _decompress_file(
    source: Path, target: Path, meta: parsing.FileMetadata, threads: int | None, progress: Progress
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
                writer.write(name, _decoded_chunks(reader, name, bare, meta, threads, progress))
            writer.finish(head)


def _decoded_chunks(
    reader: Reader,
    name: str,
    bare: PVQTensor,
    meta: parsing.FileMetadata,
    threads: int | None,
    progress: Progress,
) -> Iterator[NDArray[Any]]:
    try:
        tensor = parsing.with_fields(reader, name, bare, meta)
        for _, rows in decoded_ranges(tensor, DTYPES[tensor.dtype], threads):
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
