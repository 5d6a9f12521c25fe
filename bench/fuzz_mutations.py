"""Broken inputs out of good ones: each a function of a seed, a number and the good inputs alone.

Bytes are changed blindly, or by what they mean: numbers and keys of the JSON, offsets, payloads. A
file that is changed by meaning mostly gets right hashes again, since whoever forges one can do that
too: otherwise hashes would stop all of them, and what comes after would never be reached.
"""

import hashlib
import json
import struct
from functools import lru_cache
from typing import Any

from fuzz_seeds import FILE, FOLDER, HESSIANS, PLAN, TASK, Seed
from fuzz_values import NO_HASH, NUMBERS, Random, blindly, change_json, dumps, flip

WEIGHTS = {FILE: 70, FOLDER: 14, HESSIANS: 8, PLAN: 4, TASK: 4}

# ---------------------------------------------------------------- files by meaning


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack_from("<Q", content)
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _frame(header: Any, data: bytes, pad: int = 8) -> bytes:
    text = dumps(header).encode()
    text += b" " * (-len(text) % pad)
    return struct.pack("<Q", len(text)) + text + data


def _with_hashes(header: dict[str, Any], pvq: Any, data: bytes) -> bytes:
    """Put a file together with right hashes, as far as its form allows that."""
    if not isinstance(pvq, dict) or not isinstance(header.get("__metadata__"), dict):
        return _frame(header, data)
    if isinstance(pvq.get("sha256"), dict):
        for name, entry in header.items():
            if name in pvq["sha256"] and isinstance(entry, dict):
                a, b = (entry.get("data_offsets") or [0, 0])[:2]
                pvq["sha256"][name] = hashlib.sha256(data[a:b]).hexdigest()
    pvq["header_sha256"] = NO_HASH
    header["__metadata__"]["pvq"] = dumps(pvq)
    empty = _frame(header, data)
    digest = hashlib.sha256(empty[: len(empty) - len(data)]).hexdigest()
    field = '\\"header_sha256\\":\\"{}\\"'
    return empty.replace(field.format(NO_HASH).encode(), field.format(digest).encode(), 1)


def _change_offsets(rng: Random, header: dict[str, Any]) -> None:
    entry = header[rng.choice([name for name in header if name != "__metadata__"])]
    offsets = entry["data_offsets"]
    shift = rng.choice([1, -1, 2, 8, -8, 2**31, 2**62, 2**63, -(2**63)])
    entry["data_offsets"] = rng.choice(
        [[n + shift for n in offsets], offsets[::-1], [offsets[0], offsets[1] + shift], [0, shift]]
    )
    if rng.random() < 0.5:
        entry["shape"] = [rng.choice(NUMBERS), rng.choice(NUMBERS)]


def _payload(rng: Random, header: dict[str, Any], data: bytes) -> bytes:
    """Change the data of one entry, its size aside."""
    names = [name for name, entry in header.items() if name != "__metadata__"]
    start, stop = header[rng.choice(names)]["data_offsets"]
    size = stop - start
    part = data[start:stop]
    new = rng.choice([
        b"\xff" * size, bytes(size), rng.randbytes(size), flip(rng, part), part[::-1],
        (struct.pack("<e", rng.choice([float("nan"), float("inf"), -1.0, 65504.0])) * size)[:size],
        (struct.pack("<f", rng.choice([float("nan"), -float("inf"), 3e38, -0.0])) * size)[:size],
        part[:-1] + b"\x80",
    ])  # fmt: skip
    return data[:start] + new[:size].ljust(size, b"\0") + data[stop:]


def _resize(rng: Random, pvq: dict[str, Any], header: dict[str, Any]) -> bytes:
    """Give a tensor other numbers, and its entries sizes that look as if they followed.

    What is right of it decodes quickly: otherwise an error after it would come late.
    """
    name = rng.choice(list(pvq["tensors"]))
    item = pvq["tensors"][name]
    rows, cols = rng.choice([(1, 2), (3, 40), (8, 64), (1, 4096), (2, 3000), (1, 1 << 20)])
    n = min(cols, rng.choice([1, 2, 4, 8, 32, 128, 256, 1024, 4096]))
    k = rng.choice([1, 2, 5, 20, 60, 250, 10**5, 10**6, 2**31 - 1])
    gain_bits, tail = rng.choice([0, 0, 1, 8]), cols % n
    item.update(shape=[rows, cols], n=n, k=k, tail_k=1 if tail else 0, gain_bits=gain_bits)
    item.update(rotation=None, order=rng.choice(["fischer", "opus", "blocked"]))
    item["block"] = rng.choice([4, 16, 2**31 - 1]) if item["order"] == "blocked" else 0
    index_bits = cols // n * bits(n, k) + (bits(tail, 1) if tail else 0)
    sizes = {
        f"{name}_index": -(-rows * index_bits // 8) + rng.choice([0, 0, 0, 1, -1]),
        f"{name}_gain": -(-rows * (cols // n + (tail > 0)) * gain_bits // 8),
        f"{name}_row_norm": rows,
        f"{name}_levels": (1 + (tail > 0)) << gain_bits,
    }
    header[f"{name}_levels"]["shape"] = [1 + (tail > 0), 1 << gain_bits]
    for entry in ("index", "gain", "row_norm"):
        header[f"{name}_{entry}"]["shape"] = [max(0, sizes[f"{name}_{entry}"])]
    widths = {"U8": 1, "F16": 2, "F32": 4, "I64": 8}
    data, end = [], 0
    order = sorted(header.keys() - {"__metadata__"}, key=lambda e: (-widths[header[e]["dtype"]], e))
    for entry in order:
        count = 1
        for dimension in header[entry]["shape"]:
            count *= dimension
        size = count * widths[header[entry]["dtype"]]
        header[entry]["data_offsets"] = [end, end + size]
        end += size
        data.append(bytes(size))
    return b"".join(data)


@lru_cache(1000)
def bits(n: int, k: int) -> int:
    """Return the width of an index, from the closed form of spec section 2."""
    total, term = 0, 2 * n
    for j in range(1, min(n, k) + 1):
        total += term
        term = term * 2 * (n - j) * (k - j) // ((j + 1) * j)
    return (total - 1).bit_length()


def by_meaning(rng: Random, content: bytes) -> bytes:
    """Change what a safetensors file says, or its payloads; hashes are mostly made right again."""
    header, data = _split(content)
    metadata = header.get("__metadata__", {})
    key = next((key for key in ("pvq", "pvq_hessians") if key in metadata), None)
    action = rng.randrange(12)
    if action == 0:
        change_json(rng, header)
        return _frame(header, data, rng.choice([8, 8, 1]))
    if action == 1:
        _change_offsets(rng, header)
        return _frame(header, data)
    if key is None or action == 2:
        return _frame(header, _payload(rng, header, data))
    described = json.loads(metadata[key])
    if action <= 7:
        below = described["tensors" if key == "pvq" else "hessians"]
        change_json(rng, rng.choice([described, below, rng.choice(list(below.values()))]))
    if key != "pvq":
        metadata[key] = dumps(described)
        return _frame(header, _payload(rng, header, data) if action > 7 else data)
    if action == 8:
        data = _resize(rng, described, header)
    if action >= 9 or rng.random() < 0.3:
        data = _payload(rng, header, data)
    if rng.random() < 0.1:
        metadata[key] = dumps(described)
        return _frame(header, data)
    return _with_hashes(header, described, data)


# ---------------------------------------------------------------- cases


def _change_text(rng: Random, content: bytes) -> bytes:
    """Change a JSON file, or any other side file."""
    try:
        value = json.loads(content)
    except ValueError:
        return blindly(rng, content)
    if rng.random() < 0.4 or not isinstance(value, dict):
        return blindly(rng, content)
    change_json(rng, value)
    return dumps(value).encode()


def mutate(rng: Random, seed: Seed) -> dict[str, bytes | None]:
    """Return the files of a broken input; None for one that is missing."""
    files: dict[str, bytes | None] = dict(seed.files)
    name = rng.choice(seed.main)
    content = seed.files[name]
    if len(files) > 1 and rng.random() < 0.05:
        files[name] = None
    elif not name.endswith(".safetensors"):
        files[name] = _change_text(rng, content)
    else:
        change = by_meaning if rng.random() < 0.75 else blindly
        files[name] = change(rng, content)
    if seed.kind == FOLDER and name != "SHA256SUMS" and rng.random() < 0.5:
        lines = [
            f"{hashlib.sha256(body).hexdigest()}  {one}\n"
            for one, body in sorted(files.items())
            if body is not None and one != "SHA256SUMS"
        ]
        files["SHA256SUMS"] = "".join(lines).encode()
    return files


def case(seed: int, number: int, good: list[Seed]) -> tuple[Seed, dict[str, bytes | None]]:
    """Return a case: the good input that it comes from, and its files."""
    rng = Random(f"{seed}/{number}")
    chosen = rng.choices(good, [WEIGHTS[one.kind] / _count(good, one.kind) for one in good])[0]
    return chosen, mutate(rng, chosen)


def _count(good: list[Seed], kind: str) -> int:
    return sum(one.kind == kind for one in good)
