"""The decoder in C, docs/port, which was written from the specification alone."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import pvq_ref
from pvq_ref.cli import main
from tests.models import flip

SOURCE = Path(__file__).parent.parent / "docs" / "port" / "pvq_decode.c"
COMPILER = os.environ.get("CC") or shutil.which("cc")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")


@pytest.fixture(scope="session")
def port(tmp_path_factory):
    """The compiled decoder."""
    program = tmp_path_factory.mktemp("port") / "pvq_decode"
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"]
    subprocess.run([COMPILER, *flags, "-o", program, SOURCE, "-lm"], check=True)
    return program


@pytest.mark.conform
def test_the_port_conforms(port, capsys):
    code = main(["conform", "--json", "--", str(port), "--port"])
    report = json.loads(capsys.readouterr().out)
    assert code == 0, report
    assert report["passed"] > 400
    assert report["failed"] == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [{}, {"order": "fischer"}, {"order": "opus"}, {"rotate": False}, {"group": 8, "bits": 4},
     {"gain_bits": 0, "bits": 2}, {"group": 128, "bits": 3}],
    ids=str,
)  # fmt: skip
def test_the_port_decodes_files_to_the_same_bytes(port, tmp_path, dtype, options):
    rng = np.random.default_rng(1)
    shapes = {"a": (24, 40), "b": (5, 135), "c": (3, 7, 40), "d": (8, 577), "e": (4, 576)}
    tensors = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    save_file({**tensors, "norm": np.ones(7, dtype)}, tmp_path / "in", {"kept": "yes"})
    pvq_ref.compress(tmp_path / "in", tmp_path / "packed", **options)
    pvq_ref.decompress(tmp_path / "packed", tmp_path / "ref")
    subprocess.run([port, tmp_path / "packed", tmp_path / "got"], check=True)
    assert (tmp_path / "got").read_bytes() == (tmp_path / "ref").read_bytes()


def test_the_port_names_the_error_of_a_broken_file(port, tmp_path):
    save_file({"a": np.ones((24, 40), np.float32)}, tmp_path / "in")
    pvq_ref.compress(tmp_path / "in", tmp_path / "packed")
    shutil.copyfile(tmp_path / "packed", tmp_path / "broken")
    flip(tmp_path / "broken", -1)
    done = subprocess.run(
        [port, tmp_path / "broken", tmp_path / "got"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("IntegrityError: ")
    assert not (tmp_path / "got").exists()


@pytest.mark.model
def test_the_port_decodes_the_demo_model_to_the_same_bits(port, tmp_path):
    demo = Path(os.environ.get("PVQ_DEMO", SOURCE.parent.parent.parent / "demo"))
    packed = demo / "compressed" / "model.safetensors"
    if not packed.is_file():
        pytest.skip("run `make demo` first")
    subprocess.run([port, packed, tmp_path / "got"], check=True)
    assert (tmp_path / "got").read_bytes() == (demo / "restored" / "model.safetensors").read_bytes()
