"""A small set of the cases of bench/fuzz.py, and flipped bits; bench/fuzz.py reads many more."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import fuzz_flips
import fuzz_seeds
from fuzz_mutations import case
from fuzz_reading import Broken, check_command, clear, command_line, read, subject, write

CASES = 400
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def good():
    return fuzz_seeds.seeds()


@pytest.fixture
def folders(tmp_path):
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    return tmp_path / "in", tmp_path / "out"


def test_good_inputs_are_read(good, folders):
    """Otherwise the laws about broken ones would be empty."""
    inside, out = folders
    for seed in good[:4] + good[5:]:
        write(inside, dict(seed.files))
        assert set(read(seed, subject(seed, inside), out / "o").values()) == {"read"}
        clear(inside)
        clear(out)


def test_broken_inputs_keep_the_laws(good, folders):
    inside, out = folders
    seen = Counter()
    for number in range(CASES):
        seed, files = case(7, number, good)
        write(inside, files)
        seen.update(read(seed, subject(seed, inside), out / "o").values())
        clear(inside)
        clear(out)
    for kind in ("HeaderError", "MetadataError", "IntegrityError", "PayloadError", "ModelError"):
        assert seen[kind], kind
    assert seen["read"]


def test_the_command_line_keeps_the_laws(good, folders):
    inside, out = folders
    codes = Counter()
    for number in range(24):
        seed, files = case(8, number, good)
        if seed.kind in (fuzz_seeds.FILE, fuzz_seeds.FOLDER):
            write(inside, files)
            codes.update(command_line(subject(seed, inside), out / "o"))
            clear(inside)
            clear(out)
    assert {"decompress → 0", "decompress → 1", "verify → 3", "inspect → 1"} <= codes.keys()


def test_cases_are_functions_of_seed_and_number(good):
    assert [case(3, number, good) for number in range(60)] == [
        case(3, number, fuzz_seeds.seeds()) for number in range(60)
    ]
    assert case(3, 0, good) != case(4, 0, good)


@pytest.mark.parametrize(
    ("code", "stdout", "stderr"),
    [(1, "", "Traceback (most recent call last):\n"), (-11, "", ""), (0, "", "pvq-ref: x\n"),
     (1, "", ""), (1, "half", "pvq-ref: x\n"), (2, "", "pvq-ref: x\n")],
)  # fmt: skip
def test_commands_that_end_badly_are_noticed(tmp_path, code, stdout, stderr):
    with pytest.raises(Broken):
        check_command(["verify", "x"], code, stdout, stderr, tmp_path / "o")


def test_an_output_that_should_not_be_there_is_noticed(tmp_path):
    (tmp_path / "o").write_text("")
    with pytest.raises(Broken):
        check_command(["decompress", "x"], 1, "", "pvq-ref: x\n", tmp_path / "o")


def test_single_bits_of_a_small_file_are_found(tmp_path):
    content = fuzz_flips.small_file(tmp_path)
    for bit in range(0, 8 * len(content), 53):
        assert fuzz_flips.is_found(content, bit, tmp_path) == (True, True), bit


@pytest.mark.slow
def test_every_single_bit_of_a_small_file_is_found(tmp_path):
    content = fuzz_flips.small_file(tmp_path)
    for bit in range(8 * len(content)):
        assert fuzz_flips.is_found(content, bit, tmp_path) == (True, True), bit


BAD_WORKERS = """
import os, sys, tempfile
from pathlib import Path
sys.path.insert(0, "bench")
import fuzz_seeds, fuzz_workers
fuzz_workers.PATIENCE = 3.0
def read(seed, path, out):
    what = fuzz_workers.bad.get(seed.number)
    if what == "crash":
        os.abort()
    if what == "hang":
        while True:
            pass
    if what == "memory":
        bytearray(fuzz_workers.MEMORY + (1 << 20))
    if what == "error":
        raise ZeroDivisionError
    return {"verify": "problems"}
class Numbered:
    kind = "none"
    main = ("x",)
    def __init__(self, number):
        self.number = number
fuzz_workers.bad = {1: "crash", 3: "hang", 5: "memory", 7: "error"}
fuzz_workers.read = read
fuzz_workers.case = lambda seed, number, good: (Numbered(number), {"x": b""})
with tempfile.TemporaryDirectory() as folder:
    done = fuzz_workers.run(10, 0, 2, None, [], Path(folder))
print(done.counts["verify problems"], done.cases)
for finding in sorted(done.findings):
    print(finding.splitlines()[0], finding.splitlines()[-1])
"""


def test_workers_that_crash_hang_or_take_too_much_are_noticed():
    done = subprocess.run(
        [sys.executable, "-c", BAD_WORKERS], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "6 8", done.stderr
    assert [line.split(":")[0] for line in lines[1:]] == ["case 1", "case 3", "case 5", "case 7"]
    assert "status 134" in lines[1] or "status 6" in lines[1]
    assert "status 9" in lines[2]
    assert lines[3].endswith("MemoryError")
    assert lines[4].endswith("ZeroDivisionError")
