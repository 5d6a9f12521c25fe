"""One process for one output, and threads that don't get in each other's way."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pvq_ref import compress, decompress, dequantize, load, quantize, rank, search, unrank
from pvq_ref.errors import OutputError
from pvq_ref.locking import locked
from pvq_ref.verification import verify
from tests.models import files_of, make_file, make_folder, names_in

HOLD = """
import sys, time
from pathlib import Path
from pvq_ref.locking import locked
with locked(Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("locks")
    make_folder(folder / "m", shards=2)
    make_file(folder / "m.safetensors")
    for name in ("m", "m.safetensors"):
        compress(folder / name, folder / f"{name}.pvq", 4.0)
        decompress(folder / f"{name}.pvq", folder / f"{name}.back")
    return folder


@pytest.fixture
def holder(tmp_path):
    """Starts another process that holds the lock of tmp_path/c."""
    children = []

    def start(how="alone"):
        child = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / "c"), how], stdout=subprocess.PIPE
        )
        children.append(child)
        assert child.stdout.readline() == b"held\n"
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


def test_what_another_process_writes_is_refused(models, tmp_path, holder):
    (tmp_path / "c.partial").mkdir()
    (tmp_path / "c.partial" / "theirs").touch()
    holder()
    for run in (compress, decompress):
        source = models / ("m" if run is compress else "m.pvq")
        with pytest.raises(OutputError, match="by one run at a time"):
            run(source, tmp_path / "c")
    assert names_in(tmp_path) == ["c.lock", "c.partial"]
    assert names_in(tmp_path / "c.partial") == ["theirs"]


def test_a_lock_dies_with_its_process(models, tmp_path, holder):
    child = holder()
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert names_in(tmp_path) == ["c.lock"]
    compress(models / "m", tmp_path / "c", 4.0)
    assert files_of(tmp_path / "c") == files_of(models / "m.pvq")
    assert names_in(tmp_path) == ["c"]


def test_some_share_a_lock_and_nobody_else_gets_it(tmp_path, holder):
    holder("shared")
    with locked(tmp_path / "c", shared=True):
        pass
    with pytest.raises(OutputError), locked(tmp_path / "c"):
        pass
    assert names_in(tmp_path) == ["c.lock"]


def test_two_threads_do_not_write_the_same_output(models, tmp_path):
    """A lock is held by a run, not by its process."""
    begun, go_on = threading.Event(), threading.Event()

    def progress(name, weights):
        begun.set()
        assert go_on.wait(30)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(compress, models / "m", tmp_path / "c", 4.0, progress=progress)
        assert begun.wait(30)
        with pytest.raises(OutputError, match="by one run at a time"):
            compress(models / "m", tmp_path / "c", 4.0)
        go_on.set()
        first.result()
    assert files_of(tmp_path / "c") == files_of(models / "m.pvq")
    assert names_in(tmp_path) == ["c"]


def test_a_lock_that_was_unlinked_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    """The last holder removes the file between our open and our lock."""
    import fcntl

    opened, flock = [], fcntl.flock

    def slow(file, how):
        if not opened:
            (tmp_path / "c.lock").unlink()
        opened.append(file)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    with locked(tmp_path / "c"):
        assert os.path.samestat(os.fstat(opened[-1]), (tmp_path / "c.lock").stat())
    assert len(opened) == 2


def test_many_threads_use_the_library_at_once(models, tmp_path):
    """Whatever they share (tables, laws, compiled kernels) is the same for all."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((64, 96))
    y = search(w.reshape(-1, 12), 7)
    refs = quantize(w, 4.5, group=24), rank(y, "opus")
    barrier = threading.Barrier(6)

    def work(number):
        barrier.wait()
        out = tmp_path / str(number)
        compress(models / "m", out, 4.0, threads=1)
        assert verify(out, models / "m").problems == []
        decompress(out, tmp_path / f"{number}.back")
        got = quantize(w, 4.5, group=24)
        assert got.index.tobytes() == refs[0].index.tobytes()
        assert dequantize(got).tobytes() == dequantize(refs[0]).tobytes()
        assert np.array_equal(rank(y, "opus"), refs[1])
        assert np.array_equal(unrank(refs[1], 12, 7, "opus"), y)
        assert load(out).keys() == load(models / "m.pvq").keys()
        return files_of(out), files_of(tmp_path / f"{number}.back")

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(work, range(6)))
    ref = files_of(models / "m.pvq"), files_of(models / "m.back")
    assert all(got == ref for got in results)


def test_two_processes_at_once_leave_one_whole_output(models, tmp_path):
    program = [sys.executable, "-m", "pvq_ref", "compress", str(models / "m")]
    children = [
        subprocess.Popen([*program, str(tmp_path / "c"), "-qb4"], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    deadline = time.monotonic() + 60
    told = [child.communicate(timeout=deadline - time.monotonic())[1] for child in children]
    assert sum(child.returncode == 0 for child in children) == 1
    for child, line in zip(children, told, strict=True):
        if child.returncode:
            assert child.returncode == 1
            assert "one run at a time" in line or "must not exist yet" in line
    assert files_of(tmp_path / "c") == files_of(models / "m.pvq")
    assert names_in(tmp_path) == ["c"]
