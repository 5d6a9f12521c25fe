"""Tensors of a file decoded in ranges of rows, so that none is in memory as a whole (spec 8.5).

A range of rows whose fields begin at whole bytes is a tensor of its own.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvq_ref.container import Reader
from pvq_ref.decoding import check_before_tables, decode_rows, has_large_tables
from pvq_ref.errors import CapacityError, DomainError
from pvq_ref.memory import Limits
from pvq_ref.metadata import PARTS
from pvq_ref.packing import packed_size
from pvq_ref.parallel import map_over, read_ahead
from pvq_ref.parsing import FileMetadata, check_hash
from pvq_ref.tensor import DTYPES, PVQTensor, check_fields, round_to

Naming = Callable[[str], AbstractContextManager[None]]


def stored_ranges(
    reader: Reader, name: str, bare: PVQTensor, meta: FileMetadata, step: int
) -> Iterator[tuple[int, PVQTensor]]:
    """Yield (first row, `step` rows as a tensor) of a tensor of an open file.

    Hashes are checked once everything has been read. Raises IntegrityError, HeaderError.
    """
    a, grid = bare.allotment, bare.grid
    entries = {part: reader.header.entries[f"{name}_{part}"] for part in PARTS}
    digests = {part: hashlib.sha256() for part in PARTS}
    levels = reader.read(entries["levels"].name)
    digests["levels"].update(levels.tobytes())
    row_bits = {
        "index": a.row_index_bits,
        "gain": grid.groups * a.gain_bits,
        "row_norm": 16,
    }
    for start in range(0, grid.rows, step):
        stop, fields = min(start + step, grid.rows), dict[str, Any]()
        for part, width in row_bits.items():
            first, end = start * width // 8, packed_size(stop * width)
            fields[part] = reader.read_bytes(entries[part], first, end)
            digests[part].update(fields[part].data)
        fields["row_norm"] = fields["row_norm"].view("<f2")
        rows = replace(grid, rows=stop - start)
        coding = replace(bare.coding, allotment=replace(a, grid=rows))
        shape = stop - start, grid.cols
        yield start, replace(bare, shape=shape, coding=coding, levels=levels, **fields)
    for part, digest in digests.items():
        check_hash(entries[part].name, digest.hexdigest(), meta)


def decoded(
    reader: Reader,
    tensors: Mapping[str, PVQTensor],
    meta: FileMetadata,
    limits: Limits,
    naming: Naming = lambda name: nullcontext(),
) -> Iterator[tuple[str, int, NDArray[Any]]]:
    """Yield (name, first row, rows of W in the source's type) of tensors, one after the other.

    They go through one pool of threads, which keeps them all busy. Their hashes have been checked
    (`parsing.check_entry`), and those of what is decoded are checked at the end of each tensor,
    should the file have changed. naming gives a context in which a tensor's errors are raised.
    Raises IntegrityError, HeaderError, PayloadError, MetadataError, and CapacityError if rows are
    too long for the limit.
    """

    def ranges_of(name: str) -> tuple[int, int]:
        grid = tensors[name].grid
        try:
            return limits.ranges(grid.rows, grid.cols)
        except DomainError as error:
            with naming(name):
                raise CapacityError(str(error)) from None

    def read(names: Iterable[str]) -> Iterator[tuple[str, int, PVQTensor]]:
        for name in names:
            bare, (step, _) = tensors[name], ranges_of(name)
            with naming(name):
                if has_large_tables(bare):
                    for start, t in stored_ranges(reader, name, bare, meta, step):
                        check_fields(t)
                        check_before_tables(t, step, start)
                for start, t in stored_ranges(reader, name, bare, meta, step):
                    yield name, start, t

    def work(one: tuple[str, int, PVQTensor]) -> tuple[str, int, NDArray[Any]]:
        name, start, t = one
        with naming(name):
            check_fields(t)
            x = decode_rows(t, 0, t.grid.rows, first=start)
        if t.rotation is not None:
            t.rotation.inverse(x)
        return name, start, round_to(x, np.dtype(DTYPES[t.dtype]))

    for threads, names in groupby(tensors, key=lambda name: ranges_of(name)[1]):
        ranges = read(names)
        if threads > 1:
            ranges = read_ahead(ranges, threads)
        yield from map_over(work, ranges, threads)
