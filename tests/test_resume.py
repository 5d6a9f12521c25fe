"""Interrupted compressions: what stays, what is used of it, and that the bytes are the same."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pvq_ref import compress, decompress, load, running
from pvq_ref.assembly import Assembly
from pvq_ref.errors import ModelError, NonFiniteError, OutputError, PVQError
from pvq_ref.hessian_encoding import compress_with_hessians
from pvq_ref.model import open_model
from pvq_ref.plan import Settings
from pvq_ref.verification import verify
from pvq_ref.workfolder import WorkFolder
from tests.models import MATRICES, files_of, make_file, make_folder, make_hessians, names_in, stamps

PROGRAM = [sys.executable, "-m", "pvq_ref"]


class Stop(Exception):
    """The interruption."""


def stop_after(count):
    """A progress function that stops the work once so many tensors are done."""
    seen = []

    def progress(name, weights):
        if name not in seen:
            seen.append(name)
        if len(seen) > count:
            raise Stop

    return progress


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    make_folder(folder / "m", shards=2)
    make_file(folder / "m.safetensors")
    make_hessians(folder / "h", list(MATRICES)[:4])
    return folder


def with_hessians(src, dst, **options):
    settings = Settings(bits=4, group=8)
    return compress_with_hessians(src, dst, src.parent / "h", settings, threads=1, **options)


def without(src, dst, threads=1, **options):
    return compress(src, dst, 4, group=8, threads=threads, **options)


def on_two_threads(src, dst, **options):
    return without(src, dst, threads=2, **options)


WAYS = {"data-free": without, "two threads": on_two_threads, "Hessians": with_hessians}


def pieces(target):
    """{piece: (inode, time, bytes)} of what is kept of an output."""
    found = (target.with_name(target.name + ".partial")).glob("0*-*")
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in found
    }


@pytest.fixture(scope="module")
def ref(models):
    for name, way in WAYS.items():
        way(models / "m", models / name)
    return {name: files_of(models / name) for name in WAYS}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [0, 1, 4, len(MATRICES) - 1])
def test_what_is_finished_is_kept_and_the_bytes_are_the_same(models, ref, tmp_path, way, count):
    with pytest.raises(Stop):
        WAYS[way](models / "m", tmp_path / "c", progress=stop_after(count))
    before = pieces(tmp_path / "c")
    assert len(before) >= count
    last = stop_after(len(MATRICES) - 1)
    with pytest.raises(Stop):
        WAYS[way](models / "m", tmp_path / "c", progress=last, resume=True)
    after = pieces(tmp_path / "c")
    assert before.items() <= after.items()
    WAYS[way](models / "m", tmp_path / "c", resume=True)
    assert files_of(tmp_path / "c") == ref[way]
    assert names_in(tmp_path) == ["c"]


@pytest.mark.parametrize("is_put", [True, False])
def test_a_thread_can_wait_for_a_piece(tmp_path, is_put):
    work = WorkFolder(tmp_path / "c", {})
    with pytest.raises(OutputError, match="must have the piece"):
        work.wait("0")  # nobody is going to put it
    with ThreadPoolExecutor(1) as pool:
        with work.filling():
            waiting = pool.submit(work.wait, "0")
            work.put("1", [np.zeros(3)], {})
            time.sleep(0.01)
            assert not waiting.done()
            if is_put:
                work.put("0", [np.arange(3.0)], {})
                assert np.array_equal(waiting.result().array(0, 3, float), np.arange(3.0))
        if not is_put:
            with pytest.raises(OutputError, match="must have the piece"):
                waiting.result()
    assert work.wait("1").note["name"] == "1"


def test_losses_are_kept_with_their_tensors(models, tmp_path):
    _, expected = with_hessians(models / "m", tmp_path / "ref")
    with pytest.raises(Stop):
        with_hessians(models / "m", tmp_path / "c", progress=stop_after(3))
    _, got = with_hessians(models / "m", tmp_path / "c", resume=True)
    assert got == expected


def damage_nothing(content):
    return content


def damage_one_bit(content):
    return content[:-40] + bytes([content[-40] ^ 4]) + content[-39:]


def damage_note(content):
    return content.replace(b'"name"', b'"nane"', 1)


DAMAGES = [damage_one_bit, damage_note, lambda c: c[:-1], lambda c: c + b"\0", lambda c: b"",
           lambda c: c[:31], lambda c: b"\0" * len(c), lambda c: b"x" * (1 << 21)]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_piece_that_is_not_whole_is_made_anew(models, ref, tmp_path, way, damage):
    with pytest.raises(Stop):
        WAYS[way](models / "m", tmp_path / "c", progress=stop_after(4))
    first = min(pieces(tmp_path / "c"))
    path = tmp_path / "c.partial" / first
    path.write_bytes(damage(path.read_bytes()))
    WAYS[way](models / "m", tmp_path / "c", resume=True)
    assert files_of(tmp_path / "c") == ref[way]


def test_a_piece_under_the_name_of_another_does_not_count(models, ref, tmp_path):
    with pytest.raises(Stop):
        without(models / "m", tmp_path / "c", progress=stop_after(4))
    a, b, *_ = sorted(pieces(tmp_path / "c"))
    shutil.copyfile(tmp_path / "c.partial" / a, tmp_path / "c.partial" / b)
    without(models / "m", tmp_path / "c", resume=True)
    assert files_of(tmp_path / "c") == ref["data-free"]


def test_pieces_of_other_settings_do_not_count(models, ref, tmp_path):
    """Not even where somebody put them beside another state."""
    for name, bits in (("c", 4), ("other", 3)):
        with pytest.raises(Stop):
            compress(models / "m", tmp_path / name, bits, group=8, progress=stop_after(4))
    for path in (tmp_path / "other.partial").glob("0*"):
        shutil.copyfile(path, tmp_path / "c.partial" / path.name)
    without(models / "m", tmp_path / "c", resume=True)
    assert files_of(tmp_path / "c") == ref["data-free"]


# What can't be gone on with


@pytest.mark.parametrize("option", [{"seed": 1}, {"bits": 3}, {"embed_bits": 4}, {"group": 16},
                                    {"exclude": ["*o_proj*"]}])  # fmt: skip
def test_other_settings_are_refused(models, tmp_path, option):
    base = {"bits": 4, "group": 8}
    with pytest.raises(Stop):
        compress(models / "m", tmp_path / "c", **base, progress=stop_after(3))
    before = stamps(tmp_path)
    with pytest.raises(
        OutputError, match=r"same model and settings .* differs in settings"
    ) as told:
        compress(models / "m", tmp_path / "c", **base | option, resume=True)
    assert not hasattr(told.value, "__notes__")
    after = stamps(tmp_path)
    assert before.keys() == after.keys()
    assert all(before[path] == after[path] for path in before if path != tmp_path)


def test_another_way_is_refused(models, tmp_path):
    with pytest.raises(Stop):
        without(models / "m", tmp_path / "c", progress=stop_after(3))
    with pytest.raises(OutputError, match="differs in feedback, hessians, whole"):
        with_hessians(models / "m", tmp_path / "c", resume=True)


def test_threads_and_limits_may_change(models, ref, tmp_path):
    with pytest.raises(Stop):
        without(models / "m", tmp_path / "c", progress=stop_after(3))
    before, more = pieces(tmp_path / "c"), {"threads": 3, "max_memory": 1 << 33, "resume": True}
    with pytest.raises(Stop):  # and 4.0 is 4
        compress(models / "m", tmp_path / "c", 4.0, group=8, **more, progress=stop_after(7))
    assert before.items() <= pieces(tmp_path / "c").items()
    compress(models / "m", tmp_path / "c", 4, group=8, **more)
    assert files_of(tmp_path / "c") == ref["data-free"]


def touch(path):
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))


def test_a_changed_source_is_refused(models, tmp_path):
    shutil.copytree(models / "m", tmp_path / "m")
    with pytest.raises(Stop):
        without(tmp_path / "m", tmp_path / "c", progress=stop_after(3))
    touch(sorted((tmp_path / "m").glob("*.safetensors"))[0])
    with pytest.raises(OutputError, match="differs in source"):
        without(tmp_path / "m", tmp_path / "c", resume=True)


def test_a_source_that_changes_meanwhile_is_refused(models, tmp_path):
    shutil.copytree(models / "m", tmp_path / "m")
    file = sorted((tmp_path / "m").glob("*.safetensors"))[0]

    with pytest.raises(ModelError, match="must not change while"):
        without(tmp_path / "m", tmp_path / "c", progress=lambda name, weights: touch(file))
    assert names_in(tmp_path) == ["m"]


def test_a_source_that_disappears_is_named_and_may_come_back(models, ref, tmp_path):
    shutil.copytree(models / "m", tmp_path / "m")
    file = sorted((tmp_path / "m").glob("*.safetensors"))[1]

    def progress(name, weights):
        if file.exists():
            file.rename(tmp_path / "away")

    with pytest.raises(ModelError, match=f"must stay readable.*{file.name}") as told:
        without(tmp_path / "m", tmp_path / "c", progress=progress)
    assert "--resume" in told.value.__notes__[0]
    (tmp_path / "away").rename(file)
    without(tmp_path / "m", tmp_path / "c", resume=True)
    assert files_of(tmp_path / "c") == ref["data-free"]


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("stale", ["nothing", "a file", "a folder", "broken state", "a link"])
def test_where_there_is_nothing_to_resume_it_begins_anew(models, ref, tmp_path, stale, resume):
    partial = tmp_path / "c.partial"
    if stale == "a file":
        partial.write_bytes(b"old")
    elif stale == "a link":
        partial.symlink_to(tmp_path / "nowhere")
    elif stale != "nothing":
        partial.mkdir()
        (partial / "model.safetensors").write_bytes(b"old")
        if stale == "broken state":
            (partial / "state.json").write_text('{"source": [')
    without(models / "m", tmp_path / "c", resume=resume)
    assert files_of(tmp_path / "c") == ref["data-free"]
    assert names_in(tmp_path) == ["c"]


def test_without_resume_what_is_there_is_not_used(models, ref, tmp_path):
    with pytest.raises(Stop):
        without(models / "m", tmp_path / "c", progress=stop_after(4))
    before = pieces(tmp_path / "c")
    with pytest.raises(Stop):
        without(models / "m", tmp_path / "c", progress=stop_after(4))
    after = pieces(tmp_path / "c")
    assert before.keys() == after.keys()
    assert all(before[name][1] < after[name][1] for name in before)


def test_nothing_is_kept_where_resuming_cannot_help(models, tmp_path):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(models / "m.safetensors")
    tensors["b.weight"][3, 3] = np.nan
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(NonFiniteError, match=r"row 3, column 3$"):
        compress(tmp_path / "m.safetensors", tmp_path / "c", 4)
    assert names_in(tmp_path) == ["m.safetensors"]


# Not taken for a whole output


def test_what_is_not_complete_is_no_model(models, tmp_path, monkeypatch):
    """Even where all of it is there but the last rename."""

    def fail(*arguments):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(running.output, "replace", fail)
        with pytest.raises(Stop):
            without(models / "m", tmp_path / "c")
    assert (tmp_path / "c.partial" / "out" / "SHA256SUMS").exists()
    for path in (tmp_path / "c.partial", tmp_path / "c.partial" / "out"):
        for use in (open_model, load, lambda p: decompress(p, tmp_path / "d")):
            with pytest.raises(ModelError, match=r"must be complete.*--resume"):
                use(path)
    assert any("must be complete" in one for one in verify(path).problems)
    assert names_in(tmp_path) == ["c.partial"]


def test_no_output_is_called_as_if_it_were_not_complete(models, tmp_path):
    with pytest.raises(OutputError, match=r"must not be called \.partial"):
        without(models / "m", tmp_path / "c.partial")
    (tmp_path / "my.partial").mkdir()  # a folder of somebody's own
    without(models / "m", tmp_path / "my.partial" / "c")
    assert verify(tmp_path / "my.partial" / "c").problems == []


# Real interruptions


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A file of eight tensors that take a while, and what becomes of it."""
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("big")
    rng = np.random.default_rng(0)
    save_file(
        {f"{i}.weight": rng.standard_normal((512, 1024), dtype=np.float32) for i in range(8)},
        folder / "m.safetensors",
    )
    compress(folder / "m.safetensors", folder / "ref.safetensors")
    return folder / "m.safetensors", (folder / "ref.safetensors").read_bytes()


def finished(target):
    return len(list(target.with_name(target.name + ".partial").glob("0*-????????????")))


@pytest.mark.parametrize("count", [1, 5])
def test_kill_9_loses_what_is_not_finished_and_nothing_else(big, tmp_path, count):
    source, ref = big
    target = tmp_path / "c"
    with subprocess.Popen([*PROGRAM, "compress", str(source), str(target), "-qj1"]) as child:
        deadline = time.monotonic() + 60
        while finished(target) < count and time.monotonic() < deadline:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert child.returncode == -signal.SIGKILL, "the test needs a model that takes longer"
    assert not target.exists()
    before = pieces(target)
    assert len(before) >= count
    with pytest.raises(Stop):
        compress(source, target, progress=stop_after(7), resume=True)
    after = pieces(target)
    assert all(after[name] == one for name, one in before.items() if not name.endswith(".tmp"))
    compress(source, target, resume=True)
    assert target.read_bytes() == ref
    assert names_in(tmp_path) == ["c"]


@pytest.mark.parametrize("size", [200_000, 1_500_000])
def test_a_full_disk_is_told_and_can_be_mended(big, tmp_path, size):
    """No file may grow beyond `size`: a piece, and the output, hit it first."""
    source, ref = big
    done = subprocess.run(
        [*PROGRAM, "compress", str(source), str(tmp_path / "c"), "-q"],
        capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )  # fmt: skip
    assert done.returncode == 1
    told, what_next = done.stderr.splitlines()
    assert told.startswith(f"pvq-ref: {tmp_path / 'c'} can't be written: [Errno 27]")
    assert "--resume" in what_next
    assert names_in(tmp_path) == ["c.partial"]
    compress(source, tmp_path / "c", resume=True)
    assert (tmp_path / "c").read_bytes() == ref


@pytest.mark.parametrize("threads", [1, 2])
def test_an_output_that_fails_ends_the_coding(models, ref, tmp_path, monkeypatch, threads):
    """On several threads it is written meanwhile: nobody has to wait for the last weight then."""
    failed = threading.Event()

    def failing(self, out, reports):
        failed.set()
        raise OSError(errno.EIO, "Input/output error")

    def progress(name, weights):
        assert threads == 1 or failed.wait(60)
        time.sleep(0.05)  # the thread has yet to end
        seen.append(name)

    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(Assembly, "write", failing)
        with pytest.raises(OutputError, match="Input/output error"):
            without(models / "m", tmp_path / "c", threads, progress=progress)
    assert len(seen) == len(MATRICES) if threads == 1 else len(seen) <= 1
    without(models / "m", tmp_path / "c", threads, resume=True)
    assert files_of(tmp_path / "c") == ref["data-free"]


def test_a_disk_that_is_full_from_the_start_gets_nothing(models, tmp_path):
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, old[1]))
    try:
        with pytest.raises(OutputError, match=r"can't be written: .* too large"):
            without(models / "m", tmp_path / "c")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert names_in(tmp_path) == []


def test_a_target_that_cannot_be_written_is_told(models):
    """No user may write there, not even root."""
    with pytest.raises(PVQError, match="can't be written"):
        without(models / "m", "/proc/pvq_ref_output")
