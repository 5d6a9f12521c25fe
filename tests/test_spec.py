"""The specification: its sections, and the file that it shows byte by byte."""

import re
from pathlib import Path

from pvq_ref import vectors

TEXT = (Path(__file__).parent.parent / "docs" / "spec.md").read_text("utf-8")
MARKS = ("exact", "deterministic", "informative")


def test_every_section_is_marked():
    heads = re.findall(r"^##+ (\d+(?:\.\d+)?) (.+)$", TEXT, re.MULTILINE)
    assert len(heads) > 40
    numbers = [number for number, _ in heads]
    assert numbers == sorted(set(numbers), key=lambda number: [*map(int, number.split("."))])
    parents = {number.split(".")[0] for number in numbers if "." in number}
    for number, title in heads:
        if number not in parents and title != "Error feedback":  # which is reserved
            assert title.endswith(tuple(f" ({mark})" for mark in MARKS)), number


def test_the_file_of_section_9_7_is_the_vector():
    case = next(case for case in vectors.cases() if case["id"] == "decode_file/one")
    ref = bytes.fromhex(case["args"]["bytes"])
    section = TEXT[TEXT.index("### 9.7") : TEXT.index("## 10 ")]
    dump = re.findall(r"^ +(\d+)  ((?:[0-9a-f]{2} )+) ", section, re.MULTILINE)
    pieces = [bytes.fromhex(digits) for _, digits in dump]
    spaces, text = re.search(r"ends in (\d+) spaces:\n\n((?:    .+\n)+)", section).groups()
    header = "".join(line[4:] for line in text.splitlines()).encode()
    assert header.startswith(pieces.pop(1))
    assert pieces[0] + header + b" " * int(spaces) + b"".join(pieces[1:]) == ref
    places = [int(place) for place, _ in dump]
    assert places == [0, 8, 8 + len(header) + int(spaces), 996, 998]
    assert f"All {len(ref)} bytes" in section
    assert " ".join(re.findall("..", case["result"]["a"]["bytes"])) in section
