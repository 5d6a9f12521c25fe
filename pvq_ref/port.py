"""`python -m pvq_ref.port`: this package as a port, which speaks the protocol of docs/conform.md.

A request a line comes in, an answer a line goes out. What a port needs beside the codec is here: no
more than reading and writing of numbers.
"""

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from pvq_ref import counting, packing, words
from pvq_ref.checkpoint import load
from pvq_ref.container import NUMPY_TYPES
from pvq_ref.decoding import dequantize
from pvq_ref.encoding import encode
from pvq_ref.errors import IndexRangeError, PVQError
from pvq_ref.gain import FITTED, BetaLaw, law_levels, nearest_levels, optimal_gains
from pvq_ref.groups import Coding
from pvq_ref.hadamard import Block, Construction, matrix
from pvq_ref.parsing import _parse_tensor
from pvq_ref.projecting import search_project
from pvq_ref.ranking import rank, unrank
from pvq_ref.rates import Allotment, Grid
from pvq_ref.rotation import MAX_SEED, Rotation, signs, splitmix64
from pvq_ref.searching import search
from pvq_ref.tensor import DTYPES, PVQTensor, round_to

Args = dict[str, Any]
_NAMES = {dtype: name for name, dtype in NUMPY_TYPES.items()}


def _floats(values: Iterable[str]) -> NDArray[np.float64]:
    return np.array([float.fromhex(value) for value in values], np.float64)


def _hexes(values: Iterable[float]) -> list[str]:
    return [float(value).hex() for value in values]


def _order(args: Args) -> dict[str, Any]:
    order, block = args["order"], args["block"]
    return {"order": order, "block": block} if order == "blocked" else {"order": order}


def _index(args: Args) -> words.Words:
    """Return an index in the words of its pyramid."""
    index = int(args["index"])
    length = counting.word_count(args["n"], args["k"])
    if not 0 <= index < 1 << 64 * length:
        raise IndexRangeError(f"index must be of {length} words, got {index}")
    return words.from_integers([index], length)


def _unrank(args: Args) -> list[int]:
    n, k = args["n"], args["k"]
    return list(map(int, unrank(_index(args), n, k, **_order(args), threads=1)[0]))


def _rank(args: Args) -> str:
    y = np.array([args["y"]], np.int64)
    return str(words.to_integer(rank(y, **_order(args), threads=1)[0]))


def _words(args: Args) -> list[str]:
    index = _index(args)
    unrank(index, args["n"], args["k"], "opus", threads=1)  # refuses what isn't below V
    return list(map(str, index[0]))


def _half_count(args: Args) -> str:
    n = counting.checked_integer("n", args["n"], 0)
    k = counting.checked_integer("k", args["k"], 0)
    return str(list(counting.half_counts(n, k))[n][k])


def _search(function: Callable[..., NDArray[np.int32]], args: Args) -> list[int]:
    return list(map(int, function(_floats(args["x"])[None], args["k"], threads=1)[0]))


def _optimal_gain(args: Args) -> str:
    gains = optimal_gains(_floats(args["w"])[None], np.array([args["y"]], np.int32))
    return float(gains[0]).hex()


def _levels(args: Args) -> list[str]:
    levels = law_levels(args["design"], BetaLaw(args["n"], args["cols"]), args["gain_bits"])
    return _hexes((levels * float.fromhex(args["c"])).astype(np.float32))


def _nearest_level(args: Args) -> int:
    levels = _floats(args["levels"]).astype(np.float32)
    return int(nearest_levels(_floats([args["g"]]), levels)[0])


def _signs(args: Args) -> list[int]:
    seed = counting.checked_integer("seed", int(args["seed"]), 0, MAX_SEED)
    return list(map(int, signs(seed, args["cols"])))


def _plan(args: Args) -> list[dict[str, int]]:
    return [
        {"count": b.count, "order": b.order, "paley": b.base.paley, "q": b.base.q}
        for b in Rotation.of(args["cols"]).blocks
    ]


def _matrix(args: Args) -> list[str]:
    rows = matrix(Construction(args["paley"], args["q"]))
    return ["".join("+" if value > 0 else "-" for value in row) for row in rows]


def _rotation(args: Args) -> tuple[Rotation, NDArray[np.float64]]:
    blocks = tuple(
        Block(b["count"], b["order"], Construction(b["paley"], b["q"])) for b in args["blocks"]
    )
    x = _floats(args["row"])[None]
    return Rotation(int(args["seed"]), x.shape[1], blocks), x


def _forward(args: Args) -> list[str]:
    rotation, x = _rotation(args)
    rotation.forward(x)
    return _hexes(x[0])


def _inverse(args: Args) -> list[str]:
    rotation, x = _rotation(args)
    rotation.inverse(x)
    return _hexes(x[0])


def _row_norms(args: Args) -> Args:
    rows = np.stack([_floats(row) for row in args["rows"]])
    # One group a row and one level: the least that can be encoded, and its norms.
    coding = Coding(
        Allotment(Grid(len(rows), rows.shape[1], rows.shape[1]), 1, 0, 0), "opus", 0, None
    )
    t = encode(lambda start, stop: rows[start:stop], rows.shape, "F64", coding, FITTED, 1)
    return {"norms": t.row_norm.tobytes().hex(), "exponent": t.norm_exponent}


def _pack(args: Args) -> str:
    width, fields = args["width"], list(map(int, args["fields"]))
    data = np.zeros(packing.packed_size(width * len(fields)), np.uint8)
    table = words.from_integers(fields, max(1, -(-width // 64)))
    packing.pack_into(data, table, width, (0, max(1, len(fields)), 0))
    return data.tobytes().hex()


def _unpack(args: Args) -> list[str]:
    width, count = args["width"], args["count"]
    data = np.frombuffer(bytes.fromhex(args["bytes"]), np.uint8)
    packing.check_padding(data, width * count, "bytes")
    fields = packing.unpack_from(data, width, count, (0, max(1, count), 0))
    return [str(words.to_integer(field)) for field in fields]


def _round(args: Args) -> str:
    return round_to(_floats(args["values"]), DTYPES[args["dtype"]]).tobytes().hex()


def _decode_tensor(args: Args) -> list[list[str]]:
    types = {"index": np.uint8, "gain": np.uint8, "row_norm": np.float16, "levels": np.float32}
    bare = _parse_tensor("weight", args["metadata"])
    fields: dict[str, Any] = {
        part: np.frombuffer(bytes.fromhex(args[part]), dtype) for part, dtype in types.items()
    }
    rows = bare.allotment.level_rows
    if fields["levels"].size == rows << bare.allotment.gain_bits:
        fields["levels"] = fields["levels"].reshape(rows, -1)
    weights = dequantize(replace(bare, **fields), threads=1)
    return [_hexes(row) for row in weights.reshape(-1, bare.grid.cols)]


def _tensor(t: PVQTensor | NDArray[Any]) -> Args:
    if isinstance(t, PVQTensor):
        data = dequantize(t, DTYPES[t.dtype], threads=1)
        return {"dtype": t.dtype, "shape": list(t.shape), "bytes": data.tobytes().hex()}
    return {"dtype": _NAMES[t.dtype], "shape": list(t.shape), "bytes": t.tobytes().hex()}


def _decode_file(args: Args) -> Args:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "file.safetensors"
        path.write_bytes(bytes.fromhex(args["bytes"]))
        return {name: _tensor(t) for name, t in load(path).items()}


OPERATIONS: dict[str, Callable[[Args], Any]] = {
    "count": lambda args: str(counting.count(args["n"], args["k"])),
    "half_count": _half_count,
    "rank": _rank,
    "unrank": _unrank,
    "words": _words,
    "search": lambda args: _search(search, args),
    "search_project": lambda args: _search(search_project, args),
    "optimal_gain": _optimal_gain,
    "levels": _levels,
    "nearest_level": _nearest_level,
    "splitmix64": lambda args: list(map(str, splitmix64(int(args["state"]), args["length"]))),
    "signs": _signs,
    "plan": _plan,
    "matrix": _matrix,
    "forward": _forward,
    "inverse": _inverse,
    "row_norms": _row_norms,
    "pack": _pack,
    "unpack": _unpack,
    "round": _round,
    "decode_tensor": _decode_tensor,
    "decode_file": _decode_file,
}


def answer(op: str, args: Args) -> Args:
    """Return an object with the result of an operation, the name of its error, or unsupported."""
    if op not in OPERATIONS:
        return {"unsupported": True}
    try:
        with np.errstate(over="ignore"):
            return {"result": OPERATIONS[op](args)}
    except PVQError as error:
        return {"error": type(error).__name__}


def serve(answer: Callable[[str, Args], Args], requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are no more."""
    for line in requests:
        request = json.loads(line)
        text = json.dumps({"id": request["id"]} | answer(request["op"], request["args"]))
        print(text, file=answers, flush=True)


if __name__ == "__main__":
    serve(answer, sys.stdin, sys.stdout)
