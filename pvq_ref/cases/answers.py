"""The oracle's answer to a request of the protocol (docs/conform.md)."""

import struct
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from pvq_ref.cases.case import number, numbers
from pvq_ref.errors import PVQError
from pvq_ref.oracle import container, counting, packing, ranking, rotation, tensor
from pvq_ref.oracle.hadamard import base
from pvq_ref.oracle.rotation import Block
from pvq_ref.oracle.search import search, search_project

Args = dict[str, Any]


def _floats(values: Iterable[str]) -> list[float]:
    return [float.fromhex(value) for value in values]


def _order(args: Args) -> tuple[str, int]:
    """Return order and block size; the block size of orders without one is 0 (section 9.3)."""
    order, block = args["order"], args["block"]
    return order, block if order == "blocked" else 1


def _blocks(args: Args) -> list[Block]:
    return [Block(**block) for block in args["blocks"]]


def _rank(args: Args) -> str:
    return str(ranking.rank(args["y"], *_order(args)))


def _unrank(args: Args) -> list[int]:
    return list(ranking.unrank(int(args["index"]), args["n"], args["k"], *_order(args)))


def _words(args: Args) -> list[str]:
    return list(map(str, ranking.words(int(args["index"]), args["n"], args["k"])))


def _optimal_gain(args: Args) -> str:
    from pvq_ref.oracle.gain import optimal_gain

    return number(optimal_gain(_floats(args["w"]), args["y"]))


def _levels(args: Args) -> list[str]:
    from pvq_ref.oracle.gain import level_table

    c = float.fromhex(args["c"])
    return numbers(level_table(args["design"], args["n"], args["cols"], args["gain_bits"], c))


def _nearest_level(args: Args) -> int:
    from pvq_ref.oracle.gain import nearest_level

    return nearest_level(float.fromhex(args["g"]), _floats(args["levels"]))


def _splitmix64(args: Args) -> list[str]:
    outputs = rotation.splitmix64(int(args["state"]))
    return [str(word) for word in islice(outputs, args["length"])]


def _matrix(args: Args) -> list[str]:
    rows = base(args["paley"], args["q"])
    return ["".join("+" if value > 0 else "-" for value in row) for row in rows]


def _forward(args: Args) -> list[str]:
    return numbers(rotation.forward(_floats(args["row"]), int(args["seed"]), _blocks(args)))


def _inverse(args: Args) -> list[str]:
    return numbers(rotation.inverse(_floats(args["row"]), int(args["seed"]), _blocks(args)))


def _row_norms(args: Args) -> Args:
    data, exponent = tensor.encode_row_norms([_floats(row) for row in args["rows"]])
    return {"norms": data.hex(), "exponent": exponent}


def _unpack(args: Args) -> list[str]:
    data = bytes.fromhex(args["bytes"])
    return list(map(str, packing.unpack(data, args["width"], args["count"])))


def _decode_tensor(args: Args) -> list[list[str]]:
    parts = {part: bytes.fromhex(args[part]) for part in ("index", "gain", "row_norm", "levels")}
    return [numbers(row) for row in tensor.decode(parts, args["metadata"])]


def _decode_file(args: Args) -> Args:
    return {
        name: {"dtype": dtype, "shape": list(shape), "bytes": data.hex()}
        for name, (dtype, shape, data) in container.decode_file(
            bytes.fromhex(args["bytes"])
        ).items()
    }


OPERATIONS: dict[str, Callable[[Args], Any]] = {
    "count": lambda args: str(counting.count_closed_form(args["n"], args["k"])),
    "half_count": lambda args: str(counting.half_count(args["n"], args["k"])),
    "rank": _rank,
    "unrank": _unrank,
    "words": _words,
    "search": lambda args: list(search(_floats(args["x"]), args["k"])),
    "search_project": lambda args: list(search_project(_floats(args["x"]), args["k"])),
    "optimal_gain": _optimal_gain,
    "levels": _levels,
    "nearest_level": _nearest_level,
    "splitmix64": _splitmix64,
    "signs": lambda args: rotation.signs(int(args["seed"]), args["cols"]),
    "plan": lambda args: [vars(block) for block in rotation.plan(args["cols"])],
    "matrix": _matrix,
    "forward": _forward,
    "inverse": _inverse,
    "row_norms": _row_norms,
    "pack": lambda args: packing.pack(list(map(int, args["fields"])), args["width"]).hex(),
    "unpack": _unpack,
    "round": lambda args: tensor.round_all(_floats(args["values"]), args["dtype"]).hex(),
    "decode_tensor": _decode_tensor,
    "decode_file": _decode_file,
}


def answer(op: str, args: Args) -> Args:
    """Return an object with the result of an operation, or with the name of its error."""
    try:
        return {"result": OPERATIONS[op](args)}
    except PVQError as error:
        return {"error": type(error).__name__}


def binary32(values: Iterable[float]) -> bytes:
    """Return numbers as binary32, little-endian."""
    return b"".join(struct.pack("<f", value) for value in values)
