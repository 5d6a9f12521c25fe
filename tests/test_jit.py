"""The kernel cache: never stale, never in the way."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pvq_ref
from pvq_ref import companion
from pvq_ref.cli import main
from pvq_ref.jit import UNCOMPILED
from tests.models import make_folder

CALL = "import numpy as np, pvq_ref; print(pvq_ref.rank(np.array([[1, -1]], np.int32))[0, 0])"

UNRANK = "import numpy as np, pvq_ref; print(pvq_ref.unrank(np.array([[3]], np.uint64), 2, 2)[0])"


def run(code, folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture
def copy(tmp_path):
    """A copy of the package, to be edited."""
    source = Path(pvq_ref.__file__).parent
    shutil.copytree(source, tmp_path / "pvq_ref", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_an_edited_helper_in_another_file_recompiles(copy):
    assert run(UNRANK, copy).stdout == "[ 1 -1]\n"
    helper = copy / "pvq_ref" / "finding.py"
    text = helper.read_text()
    changed = text.replace("    while edges[place + _ONE] <= left:", "    while False:")
    changed = changed.replace("np.uint64(edges[place + _ONE] <= left)", "_ONE")
    assert changed.count("while False") == 1
    helper.write_text(changed)
    assert run(UNRANK, copy).stdout != "[ 1 -1]\n"


def test_kernels_are_cached_on_disk(copy):
    run(CALL, copy)
    cached = list((copy / "pvq_ref" / "__pycache__" / "kernels").glob("*.nbc"))
    assert cached
    times = {path: path.stat().st_mtime_ns for path in cached}
    run(CALL, copy)
    assert {path: path.stat().st_mtime_ns for path in cached} == times


def test_kernels_are_loaded_without_what_compiles_them(copy):
    heavy = "import sys; print(sorted({'numba.np.linalg', 'scipy.linalg'} & set(sys.modules)))"
    assert run(f"{CALL}; {heavy}", copy).stdout == "3\n['numba.np.linalg', 'scipy.linalg']\n"
    assert run(f"{CALL}; {heavy}", copy).stdout == "3\n[]\n"
    # What isn't kept yet is compiled after what is.
    assert run(f"{CALL}; {UNRANK}", copy).stdout == "3\n[ 1 -1]\n"


def test_without_a_writable_directory_kernels_work_with_a_warning(copy):
    (copy / "file").write_text("not a directory")
    code = "import pvq_ref.jit as j; j._writable = lambda path: False; " + CALL
    done = run(code, copy)
    assert done.stdout == "3\n"
    assert done.stderr.count("no directory is writable for compiled kernels") == 1


def test_a_directory_can_be_named(copy, tmp_path):
    run(CALL, copy, NUMBA_CACHE_DIR=str(tmp_path / "named"))
    assert list((tmp_path / "named").rglob("*.nbc"))
    assert not (copy / "pvq_ref" / "__pycache__" / "kernels").exists()


def test_importing_the_package_imports_nothing_heavy(copy):
    code = "import sys, pvq_ref; print(sorted({'numba', 'numpy', 'scipy'} & set(sys.modules)))"
    assert run(code, copy).stdout == "[]\n"


def test_importing_the_oracle_imports_nothing_heavy(copy):
    code = "import sys, pvq_ref.oracle; print(sorted({'numba', 'numpy'} & set(sys.modules)))"
    assert run(code, copy).stdout == "[]\n"


def test_headers_are_read_without_numba_and_scipy(copy, tmp_path):
    code = (
        "import sys; from pvq_ref.cli import main; main(['inspect', sys.argv[1]]);"
        "print(sorted({'numba', 'scipy.special', 'scipy.linalg', 'tqdm'} & set(sys.modules)))"
    )
    file = tmp_path / "one.safetensors"
    pvq_ref.quantize(np.random.default_rng(0).standard_normal((8, 64))).save(file)
    for path in (file, tmp_path):  # the folder isn't a compressed model: that is an error, as quick
        assert run(code, copy, path).stdout.splitlines()[-1] == "[]"


def test_threads_may_call_a_kernel_first(copy):
    code = (
        "from concurrent.futures import ThreadPoolExecutor as Pool; import numpy as np, pvq_ref;"
        "from pvq_ref.gain import group_gains; w, y = np.ones((1, 2)), np.ones((1, 2), np.int32);"
        "print({float(x[0][0]) for x in Pool(8).map(lambda i: group_gains(w, y), range(8))})"
    )
    assert run(code, copy).stdout == f"{{{2 / np.sqrt(2)}}}\n"


@pytest.mark.skipif(UNCOMPILED, reason="kernels aren't compiled")
@pytest.mark.parametrize(("cold", "threads", "there"), [
    (True, 2, True), (True, 1, False), (False, 2, False),
])  # fmt: skip
def test_a_second_process_compiles_where_that_is_of_use(monkeypatch, cold, threads, there):
    monkeypatch.setattr(companion, "is_cold", lambda: cold)
    monkeypatch.setattr(companion, "_CODE", "print(7)")
    with companion.accompanied(threads) as other:
        assert (other is not None) == there
        if there:
            assert int(other.communicate(timeout=60)[0]) == 7


@pytest.mark.skipif(UNCOMPILED, reason="kernels aren't compiled")
def test_the_second_process_ends_with_the_work(monkeypatch):
    monkeypatch.setattr(companion, "is_cold", lambda: True)
    monkeypatch.setattr(companion, "_CODE", "import time; time.sleep(600)")
    with companion.accompanied(2) as other:
        assert other.poll() is None
    assert other.wait(timeout=60) != 0


@pytest.mark.slow
def test_a_second_process_leaves_less_to_compile(tmp_path):
    """Both parts of `warm_up` compile kernels that the other doesn't."""
    code = "import pvq_ref.warmup as w, pvq_ref.jit as j; w.{}(); print(j.compilations()[0])"
    for part in ("warm_up_search", "warm_up_without_search"):
        cache = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / part)}
        command = [sys.executable, "-c", code.format(part)]
        done = subprocess.run(command, env=cache, capture_output=True, text=True, check=True)
        assert int(done.stdout) > 20


def command(*arguments, cache):
    return subprocess.run(
        [sys.executable, "-m", "pvq_ref", *map(str, arguments)],
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip


@pytest.mark.slow
def test_after_a_warmup_nothing_is_compiled(tmp_path):
    cache = tmp_path / "cache"
    first = json.loads(command("warmup", "--json", cache=cache).stdout)
    assert first["compiled"] > 50 and first["known"] == 0
    again = command("warmup", cache=cache)
    assert again.stdout.startswith("nothing to do") and again.stderr == ""
    kept = sorted(cache.rglob("*"))
    make_folder(tmp_path / "m")
    for order in ("blocked", "fischer", "opus"):
        command("compress", tmp_path / "m", tmp_path / "c", "--order", order, "-f", cache=cache)
        command("decompress", tmp_path / "c", tmp_path / "d", "-f", cache=cache)
        command("verify", tmp_path / "c", "--against", tmp_path / "m", cache=cache)
        command("inspect", tmp_path / "c", "--entropy", cache=cache)
    assert sorted(cache.rglob("*")) == kept


def test_warmup_says_when_there_is_nothing_to_do(capsys):
    assert main(["warmup"]) == 0
    assert main(["warmup"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("nothing to do: all kernels are")
