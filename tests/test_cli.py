"""The command line: results on stdout, everything else on stderr, and exit codes."""

import fcntl
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pvq_ref import __version__
from pvq_ref.cli import main
from tests.models import (
    LEFT_OUT,
    MATRICES,
    files_of,
    make_file,
    make_folder,
    names_in,
    pvq_of,
    raw,
    stamps,
)

COMMANDS = ("compress", "decompress", "inspect", "verify")  # those that take a model
PROGRAM = [sys.executable, "-m", "pvq_ref"]
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
WEIGHTS = sum(int(np.prod(shape)) for shape in MATRICES.values())


@pytest.fixture(autouse=True)
def handler():
    """The command line takes SIGTERM for itself; what runs these tests gets it back."""
    old = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, old)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder and a file, and both compressed."""
    folder = tmp_path_factory.mktemp("cli")
    make_folder(folder / "m", shards=2)
    make_file(folder / "m.safetensors")
    for name in ("m", "m.safetensors"):
        paths = [str(folder / name), str(folder / f"c{name[1:]}")]
        assert main(["compress", *paths, "-b4", "-q"]) == 0
    return folder


@pytest.fixture
def run(capsys):
    """Run a command line in this process: (exit code, stdout, stderr)."""

    def call(*argv):
        try:
            code = main([str(one) for one in argv])
        except SystemExit as done:
            code = done.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


def process(*argv, **options):
    return subprocess.run(
        [*PROGRAM, *map(str, argv)], capture_output=True, text=True, timeout=120, **options
    )


# Help


def test_version(run):
    assert run("--version") == (0, f"pvq-ref {__version__}\n", "")


def test_help_names_every_command_and_exit_code(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for word in (*OPTIONS, "0 done", "1 failed", "2 wrong usage", "3 verification", "130"):
        assert word in " ".join(out.split())


OPTIONS = {
    "compress": ["MODEL", "OUT", "--bits", "--embed-bits", "--group", "--gain-bits", "--order",
                 "--levels", "--seed", "--no-rotate", "--include", "--exclude", "--dry-run",
                 "--force", "--json", "--quiet", "--threads", "--calibrate", "--hessians",
                 "--tokens", "--window", "--part", "--text-seed", "--share", "--tune", "--allocate",
                 "--weigh-tokens", "--paths",
                 "--plan", "--search", "--sweeps", "--damping", "--resume", "--device", "--batch",
                 "--max-memory", "--shard", "--dask"],
    "merge": ["MODEL", "OUT", "--force", "--json", "--quiet"],
    "decompress": ["MODEL", "OUT", "--force", "--json", "--quiet", "--threads", "--max-memory"],
    "inspect": ["MODEL", "--entropy", "--json", "--quiet", "--threads"],
    "verify": ["MODEL", "--against", "--json", "--quiet", "--threads", "--max-memory"],
    "vectors": ["OUT", "--force", "--json", "--quiet"],
    "conform": ["COMMAND", "--timeout", "--only", "--json", "--quiet"],
    "warmup": ["--json", "--quiet"],
}  # fmt: skip


@pytest.mark.parametrize("command", OPTIONS)
def test_help_of_a_command_names_every_option(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    words = {word.strip("[],.") for word in out.split()}
    options = {word for word in words if word.startswith("--") and word != "--"}
    assert options - {"--help"} == {one for one in OPTIONS[command] if one.startswith("--")}
    assert set(OPTIONS[command]) <= words


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["compress", "--help"], ["verify"]])
def test_help_imports_nothing_heavy(argv):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "pvq_ref", *argv],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == (2 if argv == ["verify"] else 0)
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"numpy", "numba", "scipy", "ml_dtypes", "safetensors", "tqdm"}


def test_the_program_is_the_module():
    program = shutil.which("pvq-ref", path=os.path.dirname(sys.executable))
    if program is None:
        pytest.skip("the program isn't installed beside the interpreter")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"pvq-ref {__version__}\n")


# What each command does


@pytest.mark.parametrize("name", ["m", "m.safetensors"])
def test_a_round_trip(models, tmp_path, run, name):
    assert run("compress", models / name, tmp_path / "c", "--bits", 4)[0] == 0
    assert run("verify", tmp_path / "c", "--against", models / name)[0] == 0
    assert run("decompress", tmp_path / "c", tmp_path / "d")[0] == 0
    ref = {name: one[:2] for name, one in raw(models / name).items()}
    assert {name: one[:2] for name, one in raw(tmp_path / "d").items()} == ref


def test_compress_tells_what_became_of_every_matrix(models, tmp_path, run):
    code, out, err = run("compress", models / "m", tmp_path / "c", "-b", 4)
    assert (code, err) == (0, "")
    for name in MATRICES:
        (line,) = [line for line in out.splitlines() if line.startswith(f"{name}  ")]
        assert "bits per weight" in line
    assert "model.embed_tokens.weight  64×40 F16  stays as it is: embedding" in out
    assert "8 tensors, 9,600 weights" in out
    assert WEIGHTS == 9600
    for name in LEFT_OUT:
        assert f"left out: {name}" in out


def test_decompress_tells_what_it_did(models, tmp_path, run):
    code, out, err = run("decompress", models / "c", tmp_path / "d")
    assert (code, err) == (0, "")
    assert "8 tensors, 9,600 weights decompressed" in out


def test_inspect_tells_what_is_in_a_model(models, run):
    code, out, err = run("inspect", models / "c")
    assert (code, err) == (0, "")
    for name in MATRICES:
        assert f"{name}  " in out
    assert "8 tensors, 9,600 weights" in out
    assert "pvq-ref decompress" in out


def test_verify_tells_that_all_is_well(models, run):
    code, out, err = run("verify", models / "c")
    assert (code, err) == (0, "")
    assert "8 compressed and 7 other tensors are as written" in out


def test_verify_against_tells_the_error_of_every_tensor(models, run):
    code, out, err = run("verify", models / "c", "--against", models / "m")
    assert (code, err) == (0, "")
    for name in MATRICES:
        (line,) = [line for line in out.splitlines() if line.startswith(f"{name}  ")]
        assert 15 < float(line.split()[-2]) < 30
        assert line.endswith(" dB")
    assert "mean over 8 tensors" in out


def test_options_arrive(models, tmp_path, run):
    code, _, err = run(
        "compress", models / "m.safetensors", tmp_path / "c", "-b", 6, "-g", 16, "--gain-bits", 2,
        "--order", "opus", "--levels", "quantile", "--seed", 7, "--exclude", "b", "-j", 1,
    )  # fmt: skip
    assert (code, err) == (0, "")
    ((name, item),) = pvq_of(tmp_path / "c")["tensors"].items()
    assert name == "a.weight"
    assert (item["n"], item["gain_bits"], item["order"], item["levels"]) == (
        16, 2, "opus", "quantile"
    )  # fmt: skip
    assert item["rotation"]["seed"] == "7"


def test_no_rotate_arrives(models, tmp_path, run):
    run("compress", models / "m.safetensors", tmp_path / "c", "-b4", "--no-rotate")
    assert pvq_of(tmp_path / "c")["tensors"]["a.weight"]["rotation"] is None


def test_include_and_exclude_may_be_repeated(models, tmp_path, run):
    argv = ["--include", "*.q_proj.weight", "--include", "re:k_proj", "--include", "*.v_proj.*",
            "--exclude", "re:v_proj"]  # fmt: skip
    code, out, _ = run("compress", models / "m", tmp_path / "c", "-b4", "--json", *argv)
    assert code == 0
    got = {one["name"] for one in json.loads(out)["tensors"] if "left_as_is" not in one}
    assert got == {f"model.layers.0.self_attn.{letter}_proj.weight" for letter in "qk"}


def test_the_saving_by_embed_bits_is_what_it_brings(models, tmp_path, run):
    rng = np.random.default_rng(0)
    save_file({"model.embed_tokens.weight": rng.standard_normal((900, 64)).astype(np.float16),
               "w": rng.standard_normal((64, 64)).astype(np.float16)}, tmp_path / "m")  # fmt: skip
    _, out, _ = run("compress", tmp_path / "m", tmp_path / "c", "-b4")
    (hint,) = [line for line in out.splitlines() if "--embed-bits" in line]
    bits = hint.split("--embed-bits ")[1].split()[0]
    _, with_it, _ = run("compress", tmp_path / "m", tmp_path / "e", "-b4", "--embed-bits", bits)
    assert "--embed-bits" not in with_it
    told = float(hint.split("would save ")[1].split()[0])
    sizes = [(tmp_path / name).stat().st_size for name in ("c", "e")]
    assert told == pytest.approx((sizes[0] - sizes[1]) / 1000, abs=1.0)


# Exit codes and messages


def fails(result, code, *words):
    """An error: one line on stderr after `pvq-ref: `, nothing on stdout, no traceback."""
    got, out, err = result
    assert got == code, err
    assert out == ""
    assert err.startswith("pvq-ref: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_model_is_a_failure(tmp_path, run, command):
    out = [tmp_path / "out"] if "compress" in command else []
    fails(run(command, tmp_path / "nothing", *out), 1, "nothing")


@pytest.mark.parametrize("command", ["compress", "decompress", "inspect"])
@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x08" + b"\0" * 7 + b"{}      "])
def test_a_broken_file_is_a_failure(tmp_path, run, command, content):
    (tmp_path / "m.safetensors").write_bytes(content)
    out = [tmp_path / "out"] if "compress" in command else []
    fails(run(command, tmp_path / "m.safetensors", *out), 1)
    assert names_in(tmp_path) == ["m.safetensors"]


def test_a_broken_file_fails_verification(tmp_path, run):
    (tmp_path / "m.safetensors").write_bytes(b"not a model at all")
    fails(run("verify", tmp_path / "m.safetensors"), 3, "m.safetensors")


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_an_existing_output_is_a_failure(models, tmp_path, run, command):
    (tmp_path / "out").mkdir()
    source = models / ("m" if command == "compress" else "c")
    fails(run(command, source, tmp_path / "out"), 1, "must not exist yet", "force")
    assert files_of(tmp_path) == {}


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_force_replaces_an_output(models, tmp_path, run, command):
    source = models / ("m.safetensors" if command == "compress" else "c.safetensors")
    (tmp_path / "out").write_text("old")
    assert run(command, source, tmp_path / "out", "--force")[0] == 0
    assert raw(tmp_path / "out")


@pytest.mark.parametrize("command", ["decompress", "inspect"])
def test_a_plain_model_is_a_failure(models, tmp_path, run, command):
    out = [tmp_path / "out"] if command == "decompress" else []
    fails(run(command, models / "m", *out), 1, "isn't compressed")


def test_a_quantized_model_is_a_failure(models, tmp_path, run):
    fails(run("compress", models / "c", tmp_path / "out"), 1, "'pvq'", "decompress it first")


def test_a_model_with_nan_is_a_failure_and_not_wrong_usage(models, tmp_path, run):
    tensors = load_file(models / "m.safetensors")
    tensors["a.weight"][2, 3] = np.nan
    save_file(tensors, tmp_path / "m")
    result = run("compress", tmp_path / "m", tmp_path / "c")
    fails((result[0], "", result[2]), 1, "'a.weight'", "row 2, column 3")
    assert names_in(tmp_path) == ["m"]


@pytest.mark.parametrize(
    ("option", "word"),
    [
        (["--bits", "0.5"], "bits must be from 1 to 8, got 0.5"),
        (["--bits", "8.5"], "bits must be from 1 to 8, got 8.5"),
        (["--bits", "nan"], "bits must be from 1 to 8, got nan"),
        (["--bits=-1"], "bits must be from 1 to 8, got -1"),
        (["--embed-bits", "9"], "embed_bits must be from 1 to 8, got 9"),
        (["--group", "0"], "group must be from 1 to 4096, got 0"),
        (["--group", "5000"], "group must be from 1 to 4096, got 5000"),
        (["--gain-bits", "9"], "gain_bits must be from 0 to 8, got 9"),
        (["--seed=-1"], "seed must be from 0"),
        (["--seed", str(2**64)], "seed must be from 0"),
        (["--threads", "0"], "threads must be from 1 to 4096, got 0"),
        (["--threads=-2"], "threads must be from 1 to 4096, got -2"),
        (["--include", "nothing.*"], "include must match a tensor, got 'nothing.*'"),
        (["--exclude", "nothing"], "exclude must match a tensor, got 'nothing'"),
        (["--include", "re:("], "include must be a regular expression: 're:('"),
    ],
    ids=str,
)
def test_a_value_outside_its_domain_is_wrong_usage(models, tmp_path, run, option, word):
    for more in ([], ["--dry-run"]):
        fails(run("compress", models / "m", tmp_path / "c", *option, *more), 2, word)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("command", ["decompress", "verify"])
def test_bad_threads_are_wrong_usage_everywhere(models, tmp_path, run, command):
    out = [tmp_path / "out"] if command == "decompress" else []
    result = run(command, models / "c", *out, "--threads", "0")
    fails(result, 2, "pvq-ref: threads must be from 1 to 4096, got 0")


@pytest.mark.parametrize(
    "argv",
    [[], ["other"], ["compress"], ["compress", "m"], ["inspect"], ["inspect", "m", "-j", "one"],
     ["compress", "m", "c", "--bits", "four"], ["compress", "m", "c", "--bits"],
     ["compress", "m", "c", "--group", "1.5"], ["compress", "m", "c", "--order", "other"],
     ["compress", "m", "c", "--levels", "other"], ["compress", "m", "c", "--seed", "0x1"],
     ["compress", "m", "c", "more"], ["verify", "m", "--other"], ["--other"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_refers_to_help(run, argv):
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("usage: pvq-ref")
    assert "--help)" in err.splitlines()[-1]


def test_problems_are_exit_code_three(models, tmp_path, run):
    shutil.copytree(models / "c", tmp_path / "c")
    (tmp_path / "c" / "tokenizer.json").write_text("changed")
    (tmp_path / "c" / "more").write_text("more")
    code, out, err = run("verify", tmp_path / "c")
    assert (code, out) == (3, "")
    lines = err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("pvq-ref: ") for line in lines)


def test_quiet_still_tells_problems(models, tmp_path, run):
    shutil.copytree(models / "c", tmp_path / "c")
    (tmp_path / "c" / "tokenizer.json").unlink()
    code, out, err = run("verify", tmp_path / "c", "--quiet")
    assert (code, out, err) == (3, "", "pvq-ref: tokenizer.json is missing\n")


def test_a_missing_original_is_a_failure(models, tmp_path, run):
    fails(run("verify", models / "c", "--against", tmp_path / "nothing"), 1, "nothing")


def test_another_original_is_a_problem(models, tmp_path, run):
    make_folder(tmp_path / "other", seed=1)
    code, _, err = run("verify", models / "c", "--against", tmp_path / "other")
    assert code == 3
    assert "differs from the original" in err


# Dry runs


@pytest.mark.parametrize("name", ["m", "m.safetensors"])
def test_a_dry_run_writes_nothing(models, tmp_path, run, name):
    before = stamps(models)
    code, out, err = run("compress", models / name, tmp_path / "c", "-b4", "--dry-run")
    assert (code, err) == (0, "")
    assert "would become" in out
    assert names_in(tmp_path) == []
    assert stamps(models) == before


def test_a_dry_run_needs_no_free_output(models, tmp_path, run):
    (tmp_path / "c").mkdir()
    assert run("compress", models / "m", tmp_path / "c", "--dry-run")[0] == 0
    assert names_in(tmp_path) == ["c"]


def test_a_dry_run_tells_what_a_run_does(models, tmp_path, run):
    argv = ["compress", models / "m", tmp_path / "c", "-b3", "--json"]
    plan = json.loads(run(*argv, "--dry-run")[1])
    done = json.loads(run(*argv)[1])
    assert {key: done[key] for key in plan} == plan
    size = sum(path.stat().st_size for path in (tmp_path / "c").glob("*.safetensors"))
    assert plan["compressed_bytes"] + plan["untouched_bytes"] + done["header_bytes"] == size


def test_what_a_dry_run_promises_can_be_done(tmp_path, run):
    """Tables that would not fit are refused by the plan, not after hours of work."""
    save_file({"w": np.ones((8, 1024), np.float16)}, tmp_path / "m")
    for group in (200, 1024):
        argv = ["compress", tmp_path / "m", tmp_path / f"{group}", "-q", "--group", group]
        argv += ["--gain-bits", "3"]
        assert run(*argv)[0] == run(*argv, "--dry-run")[0], group


# JSON

PLAN = {"weights", "source_bytes", "compressed_bytes", "untouched_bytes", "bits_per_weight",
        "tensors"}  # fmt: skip
PLAN_TENSOR = {"name", "file", "shape", "dtype", "source_bytes", "bytes"}
PLAN_COMPRESSED = {"n", "k", "tail_k", "gain_bits", "rates", "predicted_db"}
RATES = {"fractional", "coded", "file"}


def strict(text):
    """Parse JSON that is one object and has no NaN."""

    def refuse(constant):
        raise AssertionError(constant)

    value = json.loads(text, parse_constant=refuse)
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("dry", [True, False])
def test_json_of_compress(models, tmp_path, run, dry):
    code, out, _ = run("compress", models / "m", tmp_path / "c", "--json", *["-n"] * dry)
    got = strict(out)
    assert code == 0
    assert got.keys() == PLAN | (set() if dry else {"header_bytes", "file_bytes", "seconds"})
    assert {one["name"] for one in got["tensors"]} == set(raw(models / "m"))
    for one in got["tensors"]:
        if one["name"] in MATRICES:
            assert one.keys() == PLAN_TENSOR | PLAN_COMPRESSED
            assert one["rates"].keys() == RATES
            assert one["rates"]["fractional"] <= one["rates"]["coded"] <= one["rates"]["file"]
        else:
            assert one.keys() == PLAN_TENSOR | {"left_as_is"}
            assert one["bytes"] == one["source_bytes"]
    assert got["weights"] == WEIGHTS
    assert got["bits_per_weight"] == 8 * got["compressed_bytes"] / WEIGHTS <= 3.25


def test_json_of_decompress(models, tmp_path, run):
    code, out, _ = run("decompress", models / "c", tmp_path / "d", "--json")
    got = strict(out)
    assert code == 0
    assert got.keys() == {"tensors", "weights", "seconds"}
    assert (got["tensors"], got["weights"]) == (len(MATRICES), WEIGHTS)


INSPECT = {"format_version", "weights", "compressed_bytes", "untouched_tensors", "untouched_bytes",
           "header_bytes", "bits_per_weight", "tensors"}  # fmt: skip


def test_json_of_inspect(models, run):
    code, out, _ = run("inspect", models / "c", "--json")
    got = strict(out)
    assert code == 0
    assert got.keys() == INSPECT
    assert (got["format_version"], got["weights"], got["untouched_tensors"]) == (1, WEIGHTS, 7)
    files = list((models / "c").glob("*.safetensors"))
    parts = ("compressed_bytes", "untouched_bytes", "header_bytes")
    assert sum(got[part] for part in parts) == sum(path.stat().st_size for path in files)
    items = {name: item for path in files for name, item in pvq_of(path)["tensors"].items()}
    assert {one["name"] for one in got["tensors"]} == set(items)
    for one in got["tensors"]:
        assert one.keys() == items[one["name"]].keys() | {"name", "bytes", "rates"}
        assert {key: one[key] for key in items[one["name"]]} == items[one["name"]]
        assert one["rates"].keys() == RATES
        assert one["rates"]["file"] == 8 * one["bytes"] / np.prod(one["shape"])


VERIFY = {"ok", "compressed_tensors", "untouched_tensors", "problems", "mean_db", "tensors"}


def test_json_of_verify(models, run):
    code, out, _ = run("verify", models / "c", "--json")
    got = strict(out)
    assert code == 0
    assert got.keys() == VERIFY
    assert (got["ok"], got["problems"], got["mean_db"], got["tensors"]) == (True, [], None, [])


def test_json_of_verify_against(models, run):
    code, out, _ = run("verify", models / "c", "--against", models / "m", "--json")
    got = strict(out)
    assert code == 0
    assert got.keys() == VERIFY
    assert {one["name"] for one in got["tensors"]} == set(MATRICES)
    assert all(one.keys() == {"name", "db"} for one in got["tensors"])
    assert got["mean_db"] == pytest.approx(np.mean([one["db"] for one in got["tensors"]]))


def test_json_of_problems(models, tmp_path, run):
    shutil.copytree(models / "c", tmp_path / "c")
    (tmp_path / "c" / "tokenizer.json").unlink()
    code, out, err = run("verify", tmp_path / "c", "--json")
    got = strict(out)
    assert code == 3
    assert (got["ok"], got["problems"]) == (False, ["tokenizer.json is missing"])
    assert "pvq-ref: tokenizer.json is missing\n" in err


def test_with_json_stdout_is_json_and_nothing_else(models, tmp_path, run):
    for argv in (
        ["compress", models / "m", tmp_path / "c"],
        ["decompress", models / "c", tmp_path / "d"],
        ["inspect", models / "c"],
        ["verify", models / "c"],
    ):
        _, out, err = run(*argv, "--json")
        strict(out)
        assert "8" in err  # what people read goes to stderr


# Quiet, and progress


def test_quiet_prints_nothing(models, tmp_path, run):
    for argv in (["compress", models / "m", tmp_path / "c"], ["inspect", models / "c"],
                 ["compress", models / "m", tmp_path / "e", "--dry-run"],
                 ["decompress", models / "c", tmp_path / "d"], ["verify", models / "c"],
                 ["verify", models / "c", "--against", models / "m"]):  # fmt: skip
        assert run(*argv, "--quiet") == (0, "", "")


def test_quiet_with_json_prints_json_alone(models, run):
    code, out, err = run("inspect", models / "c", "--json", "--quiet")
    assert (code, err) == (0, "")
    strict(out)


def on_a_terminal(*argv):
    """What a process writes to stderr if that is a terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
    with subprocess.Popen(
        [*PROGRAM, *map(str, argv)], stdout=subprocess.DEVNULL, stderr=slave
    ) as child:
        os.close(slave)
        written = b""
        while True:
            try:
                piece = os.read(master, 4096)
            except OSError:  # all of it was read
                break
            if not piece:
                break
            written += piece
    os.close(master)
    assert child.returncode == 0, written
    return written.decode()


def test_progress_is_shown_on_a_terminal(models, tmp_path):
    assert f"{WEIGHTS / 1000:.2f}k" in on_a_terminal("compress", models / "m", tmp_path / "c")


def test_progress_is_not_shown_elsewhere(models, tmp_path, run):
    code, _, err = run("compress", models / "m", tmp_path / "c")
    assert (code, err) == (0, "")


def test_quiet_shows_no_progress(models, tmp_path):
    assert on_a_terminal("compress", models / "m", tmp_path / "c", "--quiet") == ""


# Processes


def test_an_error_in_a_process(models, tmp_path):
    done = process("compress", tmp_path / "nothing", tmp_path / "c")
    fails((done.returncode, done.stdout, done.stderr), 1, "nothing")


def test_a_reader_that_goes_away_is_no_traceback(models):
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen(
        [*PROGRAM, "inspect", str(models / "c")],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env=BUFFERED,
    ) as child:
        os.close(write)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert err == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_an_output_that_cannot_be_written_is_a_failure(models):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*PROGRAM, "inspect", models / "c", "--json", "-q"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, env=BUFFERED,
        )  # fmt: skip
    fails((done.returncode, "", done.stderr), 1, "No space left")


def test_a_terminal_without_unicode_gets_something_readable(models, tmp_path):
    save_file({"é": load_file(models / "m.safetensors")["a.weight"]}, tmp_path / "m")
    done = process(
        "compress", tmp_path / "m", tmp_path / "c", "-n",
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "40" in done.stdout


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A file that takes many seconds to compress."""
    path = tmp_path_factory.mktemp("big") / "m.safetensors"
    w = np.random.default_rng(0).standard_normal((4096, 4096), dtype=np.float32)
    save_file({"w": w}, path)
    return path


def resuming(out):
    return f"pvq-ref: run again with --resume to go on with what is in {out}.partial\n"


@pytest.mark.parametrize(("number", "old"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_an_interrupt_leaves_what_is_finished_and_nothing_else(big, tmp_path, number, old):
    if old:
        (tmp_path / "c").write_bytes(b"old")
    before = names_in(tmp_path)
    with subprocess.Popen(
        [*PROGRAM, "compress", str(big), str(tmp_path / "c"), "--force"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as child:  # fmt: skip
        deadline = time.monotonic() + 60
        while not (tmp_path / "c.partial").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        assert child.poll() is None, "the test needs a model that takes longer"
        child.send_signal(number)
        out, err = child.communicate(timeout=60)
    word, code = ("interrupted", 130) if number == signal.SIGINT else ("terminated", 143)
    assert child.returncode == code
    assert err == f"pvq-ref: {word}\n" + resuming(tmp_path / "c")
    assert "became" not in out
    assert names_in(tmp_path) == sorted([*before, "c.partial"])
    if old:
        assert (tmp_path / "c").read_bytes() == b"old"


@pytest.mark.parametrize("resume", [True, False])
def test_compressing_again_after_an_interrupt_works(models, tmp_path, run, monkeypatch, resume):
    from pvq_ref import assembly

    def interrupted(folder, threads):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(assembly, "write_sums", interrupted)
        code, _, err = run("compress", models / "m", tmp_path / "c", "-q", "-b4")
    assert (code, err) == (130, "pvq-ref: interrupted\n" + resuming(tmp_path / "c"))
    assert names_in(tmp_path) == ["c.partial"]
    more = ["--resume"] if resume else []
    code, _, err = run("compress", models / "m", tmp_path / "c", "-b4", *more)
    partial = tmp_path / "c.partial"
    discarded = f"pvq-ref: {partial} of an earlier run was discarded; resume would have gone on\n"
    count = len(MATRICES)
    going_on = f"pvq-ref: going on: {count} of {count} pieces are in {partial}\n"
    assert (code, err) == (0, going_on if resume else discarded)
    assert files_of(tmp_path / "c") == files_of(models / "c")


def test_an_interrupted_decompression_leaves_nothing(models, tmp_path, run, monkeypatch):
    from pvq_ref import checkpoint

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_around", interrupted)
    code, _, err = run("decompress", models / "c", tmp_path / "d", "-q")
    assert (code, err) == (130, "pvq-ref: interrupted; nothing was left behind\n")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("command", ["compress", "decompress", "verify"])
@pytest.mark.parametrize("size", ["", "256", "-1M", "1.5G", "many", "1P"])
def test_a_bad_size_of_memory_is_wrong_usage(models, tmp_path, run, command, size):
    paths = [models / ("m" if command == "compress" else "c"), tmp_path / "out"]
    code, _, err = run(command, *paths[: 1 + (command != "verify")], f"--max-memory={size}")
    assert code == 2
    assert "max_memory must be" in err
    assert names_in(tmp_path) == []
