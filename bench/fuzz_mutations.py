"""Broken inputs out of good ones: each a function of a seed, a number and the good inputs alone.

Bytes are changed blindly, or by what they mean: numbers and keys of the JSON, offsets, payloads. A
file that is changed by meaning mostly gets right hashes again, since whoever forges one can do that
too: otherwise hashes would stop all of them, and what comes after would never be reached.
"""

import hashlib
import json
import random
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from fuzz_seeds import FILE, FOLDER, HESSIANS, PLAN, TASK, Seed

Random = random.Random
WEIGHTS = {FILE: 70, FOLDER: 14, HESSIANS: 8, PLAN: 4, TASK: 4}
NO_HASH = "0" * 64
NUMBERS = [0, 1, 2, 3, 7, 8, 31, 32, 33, 64, 127, 255, 256, 1000, 4095, 4096, 4097, 65535, 65536]
NUMBERS += [10**6, 10**9, 2**31 - 1, 2**31, 2**32, 2**53, 2**61, 2**62, 2**63 - 1, 2**63, 2**64]
NUMBERS += [10**30, 10**400, -1, -2, -(2**31), -(2**63), -(10**30)]
STRINGS = ["", "a", "a.weight", "b.weight_index", "norm", "__metadata__", "pvq", "format", "pt"]
STRINGS += ["F32", "U8", "F16", "F64", "BF16", "F4", "I64", "C64", "fischer", "opus", "blocked"]
STRINGS += ["lloyd-max", "fitted", "0", "-1", "1e3", "18446744073709551616", NO_HASH, "../x"]
STRINGS += ["/etc/passwd", "m.safetensors", "..", ".", "\0", "\n", "\x1b[2J", "é", "\U0001f600"]
STRINGS += ["x" * 5000, "9" * 5000, "config.json", "a/b", "a\\b"]
WORDS = [struct.pack("<Q", n % 2**64) for n in (0, 1, 8, 2**31, 2**63, 2**64 - 1, 10**8, 10**8 + 1)]
WORDS += [b"[" * 300, b"{" * 300, b'{"a":' * 300, b"\xff" * 16, b"\0" * 16, b"NaN", b"1e999"]
WORDS += [b'"__metadata__":{}', b"\\ud800", b"-", b",", b'"', b"\n", b"\xef\xbb\xbf", b"\x80"]

# ---------------------------------------------------------------- bytes


def _place(rng: Random, content: bytes) -> int:
    """Return a place, often in the first bytes."""
    return rng.randrange(min(len(content), rng.choice([8, 64, 1 << 30])) or 1)


def _flip(rng: Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(rng: Random, content: bytes) -> bytes:
    word, place = rng.choice(WORDS), _place(rng, content)
    return content[:place] + word + content[place + len(word) :]


def _insert(rng: Random, content: bytes) -> bytes:
    place = _place(rng, content)
    new = rng.choice([rng.choice(WORDS), rng.randbytes(rng.randrange(1, 40)), b" " * 8])
    return content[:place] + new + content[place:]


def _delete(rng: Random, content: bytes) -> bytes:
    place = _place(rng, content)
    return content[:place] + content[place + rng.choice([1, 1, 8, 100]) :]


def _truncate(rng: Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _append(rng: Random, content: bytes) -> bytes:
    return content + rng.choice([b"\0", b" " * 8, rng.randbytes(20), content])


def _repeat(rng: Random, content: bytes) -> bytes:
    a, b = sorted((_place(rng, content), _place(rng, content)))
    return content[:b] + content[a:b] + content[b:]


def _set_length(rng: Random, content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    new = rng.choice([*NUMBERS, length + rng.randrange(-16, 17), length ^ 1 << rng.randrange(64)])
    return struct.pack("<Q", new % 2**64) + content[8:]


def _noise(rng: Random, content: bytes) -> bytes:
    body = rng.randbytes(rng.randrange(300))
    return rng.choice([body, struct.pack("<Q", len(body)) + body, content[:8] + body])


BLIND: list[Callable[[Random, bytes], bytes]] = [
    _flip, _flip, _flip, _overwrite, _insert, _delete, _truncate, _append, _repeat, _set_length,
    _noise,
]  # fmt: skip


def blindly(rng: Random, content: bytes) -> bytes:
    """Change bytes without a look at what they mean."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        content = rng.choice(BLIND)(rng, content)
    return content


# ---------------------------------------------------------------- JSON


def _any_value(rng: Random) -> Any:
    if rng.random() < 0.05:
        return _deep(rng.choice([5, 50, 300]), rng.random() < 0.5)
    simple = [None, True, False, 0.0, 1.5, -1e308, 1e-400, [], {}, [0, 0], [[]], {"a": 1}]
    return rng.choice([rng.choice(simple), rng.choice(NUMBERS), rng.choice(STRINGS)])


def _deep(depth: int, as_list: bool) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if as_list else {"a": value}
    return value


def _spots(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of every value below one."""
    found: list[tuple[Any, Any]] = []
    for key, below in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((value, key))
        if isinstance(below, dict | list):
            found += _spots(below)
    return found


def _near(rng: Random, old: Any) -> Any:
    """Return a value not far from an old one."""
    if isinstance(old, bool) or old is None:
        return rng.choice([True, False, None, 0, 1])
    if isinstance(old, float):
        return rng.choice([-old, 2 * old, 3, str(old), 1e300, [old]])
    if isinstance(old, int):
        return rng.choice([old + 1, old - 1, -old, 2 * old, old + 8, 7.5, f"{old}", [old]])
    if isinstance(old, str):
        return rng.choice([old + "x", old[:-1], old.upper(), old[::-1], old * 2, [old]])
    if isinstance(old, list):
        numbered = {str(i): one for i, one in enumerate(old)}
        return rng.choice([old[::-1], old + old, old[:-1], [*old, 1], [1, *old], numbered])
    return rng.choice([list(old), [[*one] for one in old.items()], {**old, "more": 1}, {}])


def change_json(rng: Random, value: Any) -> None:
    """Change a JSON object or list in place, in a few places."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        spots = _spots(value)
        if not spots:
            return
        container, key = rng.choice(spots)
        action = rng.randrange(6)
        if action <= 1:
            container[key] = _near(rng, container[key])
        elif action <= 3:
            container[key] = _any_value(rng)
        elif action == 4:
            del container[key]
        elif isinstance(container, dict):
            container[rng.choice(STRINGS)] = container.pop(key)
        else:
            container.append(_any_value(rng))


def dumps(value: Any) -> str:
    """Return canonical JSON; numbers that it can't hold become words that it hasn't either."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


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
        b"\xff" * size, bytes(size), rng.randbytes(size), _flip(rng, part), part[::-1],
        (struct.pack("<e", rng.choice([float("nan"), float("inf"), -1.0, 65504.0])) * size)[:size],
        (struct.pack("<f", rng.choice([float("nan"), -float("inf"), 3e38, -0.0])) * size)[:size],
        part[:-1] + b"\x80",
    ])  # fmt: skip
    return data[:start] + new[:size].ljust(size, b"\0") + data[stop:]


def _resize(rng: Random, pvq: dict[str, Any], header: dict[str, Any]) -> bytes:
    """Give a tensor other numbers, and its entries sizes that look as if they followed."""
    name = rng.choice(list(pvq["tensors"]))
    item = pvq["tensors"][name]
    rows, cols = rng.choice([(1, 2), (3, 40), (8, 64), (1, 4096), (2, 3000), (1, 1 << 20)])
    n = min(cols, rng.choice([1, 2, 4, 8, 32, 128, 256, 1024, 4096]))
    k = rng.choice([1, 2, 5, 20, 60, 1000, 10**5, 10**6, 2**31 - 1])
    gain_bits, tail = rng.choice([0, 0, 1, 8]), cols % n
    item.update(shape=[rows, cols], n=n, k=k, tail_k=1 if tail else 0, gain_bits=gain_bits)
    item.update(rotation=None, order=rng.choice(["fischer", "opus", "blocked"]))
    item["block"] = rng.choice([1, 4, 16, 2**31 - 1]) if item["order"] == "blocked" else 0
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
