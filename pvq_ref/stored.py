"""Tensors of a file decoded in ranges of rows, so that none is in memory as a whole (spec 8.5).

A range of rows whose fields begin at whole bytes is a tensor of its own.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvq_ref.container import Reader
from pvq_ref.decoding import check_before_tables, decode_rows, has_large_tables
from pvq_ref.errors import CapacityError, DomainError
from pvq_ref.memory import Limits
from pvq_ref.metadata import PARTS
from pvq_ref.packing import packed_size
from pvq_ref.parallel import map_over
from pvq_ref.parsing import FileMetadata, check_hash
from pvq_ref.tensor import DTYPES, PVQTensor, check_fields, round_to


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
    reader: Reader, name: str, bare: PVQTensor, meta: FileMetadata, limits: Limits
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Return an iterator of (first row, rows of W in the source's type) of a tensor.

    Its hashes have been checked (`parsing.check_entry`), and those of what is decoded are checked
    at the end, should the file have changed. Raises IntegrityError, HeaderError, PayloadError,
    MetadataError, and CapacityError if rows are too long for the limit.
    """
    try:
        step, threads = limits.ranges(bare.grid.rows, bare.grid.cols)
    except DomainError as error:
        raise CapacityError(str(error)) from None
    if has_large_tables(bare):
        for start, t in stored_ranges(reader, name, bare, meta, step):
            check_fields(t)
            check_before_tables(t, step, start)

    def work(one: tuple[int, PVQTensor]) -> tuple[int, NDArray[Any]]:
        start, t = one
        check_fields(t)
        x = decode_rows(t, 0, t.grid.rows, first=start)
        if t.rotation is not None:
            t.rotation.inverse(x)
        return start, round_to(x, np.dtype(DTYPES[t.dtype]))

    return map_over(work, stored_ranges(reader, name, bare, meta, step), threads)
