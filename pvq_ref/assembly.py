"""Outputs put together: weight files from finished pieces, and what stands beside them.

Memory holds a block of rows of each file under way; only tensors that were kept whole are read
whole.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

from pvq_ref import metadata
from pvq_ref.container import Header, Reader, Writer, layout, read_header
from pvq_ref.finishing import finish
from pvq_ref.gain import Floats
from pvq_ref.model import CONFIG, Model, rebuilt_index, write_json
from pvq_ref.output import write_sums
from pvq_ref.parallel import map_over, thread_count
from pvq_ref.plan import Plan, TensorPlan
from pvq_ref.tensor import PVQTensor
from pvq_ref.units import Note, Unit, get_tensor, open_source, reading, units_of
from pvq_ref.workfolder import WorkFolder

CHUNK = 1 << 22  # bytes that are copied at a time
FILES = 4  # weight files that are written at a time, at most
Adjust = Callable[[str, PVQTensor], PVQTensor]
Fields = Mapping[str, Iterable[NDArray[Any]]]


def entries_of(t: TensorPlan) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return the entries that a tensor gets in the output."""
    e = t.entry
    if t.coding is None:
        return [(e.name, e.dtype, e.shape)]
    return metadata.entries_of(e.name, e.shape, t.coding.allotment)


class Assembly:
    """Puts the pieces of a plan together.

    Parameters: model, plan; work, where all pieces are, or come; whole, names of the tensors that
    are kept whole; threads; adjust, what is done with whole tensors at the end. `notes` fills with
    what was noted of these.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        work: WorkFolder,
        whole: frozenset[str],
        threads: int | None,
        adjust: Adjust = lambda name, tensor: tensor,
    ) -> None:
        self.model, self.plan, self.notes = model, plan, dict[str, Note]()
        self._work, self._whole, self._adjust = work, whole, adjust
        self._threads = min(thread_count(threads), FILES)
        self._numbers = {t.entry.name: number for number, t in enumerate(plan.compressed)}

    def units(self, t: TensorPlan) -> list[Unit]:
        """Return the units of a tensor."""
        return units_of(t, self._numbers[t.entry.name], t.entry.name in self._whole)

    def write(
        self, out: Path, reports: Mapping[str, object] = MappingProxyType({})
    ) -> dict[str, Header]:
        """Write the output to a free name; return the headers of its weight files.

        reports are JSON files that a folder gets besides.
        """
        if self.model.is_folder:
            out.mkdir()

        def write(file: str) -> Header:
            path = out / file if self.model.is_folder else out
            self._write_file(file, path, self.model.headers[file])
            return read_header(path)

        files = list(self.model.headers)
        headers = dict(zip(files, map_over(write, files, self._threads), strict=True))
        noted = [t.entry.name for t in self.plan.tensors if t.entry.name in self.notes]
        self.notes = {name: self.notes[name] for name in noted}  # whichever was the first
        if self.model.is_folder:
            config = self.model.config | {"quantization_config": _config(self.plan)}
            write_around(
                self.model, out, config, headers, sum(t.weights for t in self.plan.tensors)
            )
            for name, report in reports.items():
                write_json(out / name, report)
            write_sums(out, self._threads)
        return headers

    def _write_file(self, file: str, path: Path, source: Header) -> None:
        tensors = [t for t in self.plan.tensors if t.file == file]
        entries = layout([one for t in tensors for one in entries_of(t)])
        longest = {
            t.entry.name: metadata.longest_object(t.entry.shape, t.entry.dtype, t.coding)
            for t in tensors
            if t.coding
        }
        hashes = dict.fromkeys(entries, metadata.NO_HASH)
        room = len(metadata.build_header(entries, hashes, longest, source.metadata))
        objects: dict[str, dict[str, object]] = {}
        with (
            open_source(self.model.file(file)) as reader,
            Writer(path, entries, room) as writer,
        ):
            for t in tensors:
                name = t.entry.name
                if t.coding is None:
                    writer.write(name, _copied(reader, name))
                    continue
                objects[name], fields = self._fields(t)
                for part in metadata.PARTS:
                    writer.write(f"{name}_{part}", fields[part])
            writer.finish(
                metadata.build_header(entries, writer.hashes, objects, source.metadata, size=room)
            )

    def _fields(self, t: TensorPlan) -> tuple[dict[str, object], Fields]:
        """Return the JSON object of a compressed tensor, and its fields in pieces."""
        units = self.units(t)
        pieces = [(unit, self._work.wait(unit.name)) for unit in units]
        if t.entry.name in self._whole:
            found = get_tensor(self._work, units[0].name, t)
            assert found is not None
            tensor, self.notes[t.entry.name] = self._adjust(t.entry.name, found[0]), found[1]
            fields = {part: [getattr(tensor, part)] for part in metadata.PARTS}
            return metadata.object_of(tensor), fields
        assert t.coding is not None
        held = [units[0].table(pieces[0][1])] if len(pieces) == 1 else None

        def tables() -> Iterator[Floats]:  # one block needn't be read again and again
            return iter(held) if held else (unit.table(piece) for unit, piece in pieces)

        end = finish(tables, t.coding, self.plan.settings.design)
        described = metadata.tensor_object(
            t.entry.shape, t.entry.dtype, t.coding, end.design, end.norm_exponent
        )
        return described, {
            "index": (unit.index(piece) for unit, piece in pieces),
            "gain": map(end.gain, tables()),
            "row_norm": map(end.row_norm, tables()),
            "levels": [end.levels],
        }


def _copied(reader: Reader, name: str) -> Iterator[NDArray[Any]]:
    """Yield the bytes of an entry of the source."""
    chunks = iter(reader.chunks(name, CHUNK))
    while True:
        with reading(reader.path):  # not around the yield: what the other side raises isn't ours
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


def _config(plan: Plan) -> dict[str, Any]:
    return {
        "quant_method": "pvq",
        "format_version": metadata.FORMAT_VERSION,
        "bits": plan.settings.bits,
        "embed_bits": plan.settings.embed_bits,
        "group_size": plan.settings.group,
    }


def write_around(
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
