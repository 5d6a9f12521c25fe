"""Many workers for one output: shares of the work, and the bytes of a single run."""

import signal
import subprocess
import sys
import time
from threading import Barrier, Event
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvq_ref import assembly, compress, groups
from pvq_ref.cli import main
from pvq_ref.compensated import Feedback
from pvq_ref.errors import DomainError, OutputError
from pvq_ref.hessian_encoding import compress_with_hessians, with_hessians
from pvq_ref.hessians import Hessians
from pvq_ref.memory import Limits
from pvq_ref.model import open_model
from pvq_ref.plan import Settings, make_plan
from pvq_ref.running import Run
from pvq_ref.sharding import compress_shard, merge, shard_of
from pvq_ref.units import Method, all_units, share_of
from tests.models import MATRICES, files_of, make_folder, make_hessians, names_in

SETTINGS = Settings(bits=4.0, group=8)
PROGRAM = [sys.executable, "-m", "pvq_ref"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model, Hessians of some layers, and what single runs make of it."""

    folder = tmp_path_factory.mktemp("shards")
    make_folder(folder / "m", shards=2)
    make_hessians(folder / "h", list(MATRICES)[:4])
    compress(folder / "m", folder / "data-free", 4.0, group=8)
    compress_with_hessians(folder / "m", folder / "Hessians", folder / "h", SETTINGS)
    return folder / "m"


@pytest.fixture
def small_blocks(monkeypatch):
    """Tensors of more than eight rows have several units."""
    monkeypatch.setattr(groups, "BLOCK", 1)
    monkeypatch.setattr(groups, "RANGE", 1)


def method_of(plan, source, way):
    if way == "data-free":
        return Method()
    return with_hessians(plan, Hessians(source.parent / "h"), Feedback(), 1)


def shard(source, target, number, count, way="data-free", settings=SETTINGS, **how):
    opened = open_model(source)
    plan = make_plan(opened, settings)
    method = method_of(plan, source, way)
    how = Run(Limits(1), **how)
    return compress_shard(opened, plan, target, method, how, (number, count))


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40), st.integers(1, 12))
def test_shares_are_disjoint_and_even(sizes, count):
    units = [SimpleNamespace(name=f"{i:03}", weights=size) for i, size in enumerate(sizes)]
    shares = [share_of(units, worker, count) for worker in range(count)]
    assert sorted(unit.name for share in shares for unit in share) == [u.name for u in units]
    loads = [sum(unit.weights for unit in share) for share in shares]
    assert max(loads) - min(loads) <= max(sizes)


@pytest.mark.parametrize("way", ["data-free", "Hessians"])
@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_shards_give_the_bytes_of_a_single_run(model, tmp_path, small_blocks, way, count):
    target = tmp_path / "c"
    weights = [shard(model, target, i, count, way) for i in reversed(range(1, count + 1))]
    assert sum(weights) == make_plan(open_model(model), SETTINGS).weights
    assert names_in(tmp_path) == ["c.lock", "c.partial"]
    result = merge(model, target)
    assert files_of(target) == files_of(model.with_name(way))
    assert len(result.notes) == (4 if way == "Hessians" else 0)
    assert names_in(tmp_path) == ["c"]


def test_a_tensor_is_no_unit_where_it_is_large(model, small_blocks):
    plan = make_plan(open_model(model), SETTINGS)
    units = all_units(plan, frozenset())
    assert max(unit.stop - unit.start for unit in units) == 8
    assert len({unit.name for unit in units}) == len(units) > 2 * len(plan.compressed)


def test_what_a_shard_lacks_is_said_and_made_by_running_it_again(model, tmp_path, small_blocks):
    target = tmp_path / "c"
    shard(model, target, 1, 2)

    class Stop(Exception):
        pass

    done = []

    def progress(name, weights):
        done.append(name)
        if len(done) == 3:
            raise Stop

    with pytest.raises(Stop) as told:
        shard(model, target, 2, 2, progress=progress)
    assert "run this shard again" in told.value.__notes__[0]
    with pytest.raises(OutputError, match=r"must have all \d+ pieces, got \d+"):
        merge(model, target)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "c.partial").glob("0*")}
    shard(model, target, 2, 2)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    merge(model, target)
    assert files_of(target) == files_of(model.with_name("data-free"))


def test_a_single_run_may_finish_what_shards_began(model, tmp_path):
    shard(model, tmp_path / "c", 1, 2)
    compress(model, tmp_path / "c", 4.0, group=8, resume=True)
    assert files_of(tmp_path / "c") == files_of(model.with_name("data-free"))


def test_shards_must_agree(model, tmp_path):
    shard(model, tmp_path / "c", 1, 2)
    with pytest.raises(OutputError, match="differs in settings"):
        shard(model, tmp_path / "c", 2, 2, settings=Settings(bits=3.0, group=8))
    with pytest.raises(OutputError, match="differs in feedback, hessians, whole"):
        shard(model, tmp_path / "c", 2, 2, "Hessians")


def test_nothing_to_merge_is_said(model, tmp_path):
    with pytest.raises(OutputError, match="must be there, made by compress --shard"):
        merge(model, tmp_path / "c")
    (tmp_path / "c.partial").mkdir()
    (tmp_path / "c.partial" / "state.json").write_text('{"settings": {"nothing": 0}, "whole": []}')
    with pytest.raises(OutputError, match="must be of this version"):
        merge(model, tmp_path / "c")
    (tmp_path / "c.partial" / "state.json").write_text('{"calibration": {}}')
    with pytest.raises(OutputError, match="got a calibration"):
        merge(model, tmp_path / "c")
    assert names_in(tmp_path) == ["c.partial"]


@pytest.mark.parametrize(
    "text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "1/99999999"]
)
def test_bad_shards_are_wrong_usage(model, tmp_path, text, capsys):
    with pytest.raises(DomainError, match="shard must be i/N"):
        shard_of(text)
    assert main(["compress", str(model), str(tmp_path / "c"), f"--shard={text}"]) == 2
    assert names_in(tmp_path) == []


def test_processes_at_once_and_one_of_them_killed(model, tmp_path, capsys):
    def start(number):
        options = ["--bits=4", "--group=8", f"--shard={number}/3", "-q", "-j1"]
        return subprocess.Popen([*PROGRAM, "compress", str(model), str(tmp_path / "c"), *options])

    children = [start(number) for number in (1, 2, 3)]
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("c.partial/0*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    children[2].send_signal(signal.SIGKILL)
    assert [child.wait(60) for child in children[:2]] == [0, 0]
    children[2].wait()
    assert start(3).wait(60) == 0
    assert main(["merge", str(model), str(tmp_path / "c"), "-q"]) == 0
    assert files_of(tmp_path / "c") == files_of(model.with_name("data-free"))
    assert names_in(tmp_path) == ["c"]


def test_notes_come_in_the_order_of_the_plan_whichever_file_was_written_first(
    tmp_path, monkeypatch
):
    folder = make_folder(tmp_path / "m", shards=3)
    make_hessians(tmp_path / "h", list(MATRICES)[:4])
    write, started = assembly.Assembly._write_file, Barrier(2, timeout=60)

    def late_first(self, file, *arguments):
        if "00003" not in file:
            started.wait()  # the first two at the same time, the first the last of them
        if "00001" in file:
            second.wait(60)
        write(self, file, *arguments)
        if "00002" in file:
            second.set()

    second = Event()
    monkeypatch.setattr(assembly.Assembly, "_write_file", late_first)
    result, losses = compress_with_hessians(folder, tmp_path / "c", tmp_path / "h", threads=2)
    assert list(losses) == [
        t.entry.name for t in result.plan.compressed if t.entry.name in set(list(MATRICES)[:4])
    ]
    monkeypatch.undo()
    compress_with_hessians(folder, tmp_path / "d", tmp_path / "h", threads=1)
    assert files_of(tmp_path / "c") == files_of(tmp_path / "d")
