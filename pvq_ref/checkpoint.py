"""Checkpoints: compress and decompress models of files and folders (spec section 9.5)."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvq_ref import metadata, parsing
from pvq_ref.assembly import write_around
from pvq_ref.container import Reader, Writer, header_bytes, layout, read_header
from pvq_ref.errors import IntegrityError, PVQError
from pvq_ref.jit import load_ahead
from pvq_ref.locking import locked
from pvq_ref.memory import DEFAULT_MEMORY, Limits
from pvq_ref.model import Model, open_model
from pvq_ref.output import check_free, target_path, whole
from pvq_ref.parallel import thread_count
from pvq_ref.plan import Settings, make_plan
from pvq_ref.running import Result, Run, check_target, run
from pvq_ref.stored import decoded
from pvq_ref.tensor import PVQTensor, check_fields
from pvq_ref.units import Method, Progress

AnyPath = str | PathLike[str]


def _silent(*_: object) -> None:
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
    if thread_count(threads) > 1:
        load_ahead()
    model = open_model(fspath(src))
    parsed = {file: parsing.parse(header) for file, header in model.headers.items()}
    target = target_path(dst)
    check_target(model, target, force)
    headers = {}
    with locked(target), whole(target, force, folder=model.is_folder) as partial:
        for file, meta in parsed.items():
            path = partial / file if model.is_folder else partial
            _decompress_file(model, file, path, meta, limits, progress)
            headers[file] = read_header(path)
        if model.is_folder:
            config = {k: v for k, v in model.config.items() if k != "quantization_config"}
            sizes = (
                np.prod(e.shape, dtype=object) for h in headers.values() for e in h.entries.values()
            )
            write_around(model, partial, config, headers, int(sum(sizes)))


def _decompress_file(
    model: Model,
    file: str,
    target: Path,
    meta: parsing.FileMetadata,
    limits: Limits,
    progress: Progress,
) -> None:
    with Reader(model.file(file), model.headers[file]) as reader:
        parsing.check_fields_of_all(reader, meta, limits.threads)
        untouched = [reader.header.entries[name] for name in meta.untouched]
        wanted = [(e.name, e.dtype, e.shape) for e in untouched]
        entries = layout(wanted + [(name, t.dtype, t.shape) for name, t in meta.tensors.items()])
        head = header_bytes(entries, meta.source_metadata or {"format": "pt"})
        with Writer(target, entries, len(head)) as writer:
            for name in meta.untouched:  # the first: their hashes too are checked before decoding
                writer.write(name, reader.chunks(name))
                parsing.check_hash(name, writer.hashes[name], meta)
            ranges = decoded(reader, meta.tensors, meta, limits, _naming)
            for name, of_tensor in groupby(ranges, key=lambda one: one[0]):
                writer.write_unhashed(name, _rows(of_tensor, progress))
            writer.finish(head)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Name the tensor in errors that don't name an entry already."""
    try:
        yield
    except IntegrityError:
        raise
    except PVQError as error:
        raise type(error)(f"tensor {name!r:.80}: {error}") from None


def _rows(
    ranges: Iterable[tuple[str, int, NDArray[Any]]], progress: Progress
) -> Iterator[NDArray[Any]]:
    for name, _, rows in ranges:
        yield rows
        progress(name, rows.size)


def load(path: AnyPath) -> dict[str, PVQTensor | NDArray[Any]]:
    """Load a compressed file or folder: a PVQTensor for each compressed tensor, else an array.

    Returns tensors by name. Hashes are checked. Raises ModelError, FormatError and its children.
    """
    model = open_model(fspath(path))
    tensors: dict[str, PVQTensor | NDArray[Any]] = {}
    for file, header in model.headers.items():
        meta = parsing.parse(header)
        with Reader(model.file(file), header) as reader:
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
