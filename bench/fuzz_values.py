"""Changes that need no look at a whole file: of bytes, blindly, and of values of JSON."""

import json
import random
import struct
from collections.abc import Callable
from typing import Any

Random = random.Random
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


def flip(rng: Random, content: bytes) -> bytes:
    """Flip a few bits."""
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
    flip, flip, flip, _overwrite, _insert, _delete, _truncate, _append, _repeat, _set_length,
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
