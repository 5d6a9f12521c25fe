"""What must hold on real models. Run by hand: `make demo`, then `pytest -m model`.

The folders are demo/model and demo/minilm, or what PVQ_SMOLLM2 and PVQ_MINILM name;
bench/fetch_smollm2.py and bench/fetch_minilm.py make them.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import pvq_ref
from pvq_ref.container import Reader, read_header
from pvq_ref.metadata import PARTS
from pvq_ref.verification import verify

DEMO = Path(__file__).parent.parent / "demo"
MODELS = {
    "smollm2": (Path(os.environ.get("PVQ_SMOLLM2", DEMO / "model")), 210),
    "minilm": (Path(os.environ.get("PVQ_MINILM", DEMO / "minilm")), 37),
}

pytestmark = pytest.mark.model


@pytest.fixture(scope="module", params=MODELS)
def case(request, tmp_path_factory):
    """(source, compressed, restored, number of linear layers) at 3.25 bits."""
    source, layers = MODELS[request.param]
    if not source.is_dir():
        pytest.skip(f"{source} isn't there")
    folder = tmp_path_factory.mktemp(request.param)
    pvq_ref.compress(source, folder / "compressed")
    pvq_ref.decompress(folder / "compressed", folder / "restored")
    return source, folder / "compressed", folder / "restored", layers


def test_all_linear_layers_are_compressed_and_verify_is_clean(case):
    source, compressed, _, layers = case
    report = verify(compressed, source)
    assert report.problems == []
    assert report.compressed == layers
    assert report.mean_db >= 17.2


def test_every_byte_of_the_file_counts(case):
    source, compressed, _, _ = case
    path = compressed / "model.safetensors"
    header, original = read_header(path), read_header(source / "model.safetensors")
    untouched = sum(e.size for e in header.entries.values() if e.name in original.entries)
    tensors = [name for name in original.entries if f"{name}_index" in header.entries]
    weights = sum(int(np.prod(original.entries[name].shape)) for name in tensors)
    size = path.stat().st_size
    assert 8 * (size - header.data_start - untouched) / weights <= 3.25
    assert header.data_start < 0.01 * size


def test_decompressed_tensors_are_those_of_dequantize(case):
    _, compressed, restored, _ = case
    tensors = pvq_ref.load(compressed)
    with Reader(restored / "model.safetensors") as reader:
        assert set(reader.header.entries) == set(tensors)
        for name, tensor in tensors.items():
            got = reader.read(name)
            ref = tensor
            if isinstance(tensor, pvq_ref.PVQTensor):
                ref = pvq_ref.dequantize(tensor, got.dtype)
            assert got.tobytes() == ref.tobytes(), name


def test_the_bytes_do_not_depend_on_threads(case, tmp_path):
    source, compressed, _, _ = case
    pvq_ref.compress(source, tmp_path / "one", threads=1)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (compressed / name).read_bytes()


def test_the_safetensors_package_reads_both(case):
    from safetensors import safe_open

    _, compressed, restored, layers = case
    with safe_open(compressed / "model.safetensors", "np") as file:
        parts = [name for name in file.keys() if name.rpartition("_")[2] in ("index", "gain")]  # noqa: SIM118
        assert len(parts) == 2 * layers
        assert json.loads(file.metadata()["pvq"])["format_version"] == 1
        assert all(f"{parts[0].rpartition('_')[0]}_{part}" in file.keys() for part in PARTS)  # noqa: SIM118
    with safe_open(restored / "model.safetensors", "np") as file:
        assert len(file.keys()) > layers
