"""A block of a real model, multiplied on a device.

Run by hand: `make demo`, then `pytest -m model tests/test_cuda_model.py` where there is one. The
compressed folder is demo/compressed, or what PVQ_SMOLLM2_COMPRESSED names.
"""

import os
from pathlib import Path

import numpy as np
import pytest

import pvq_ref
from pvq_ref.errors import DeviceError

cuda = pytest.importorskip("pvq_ref.cuda", reason="needs the extra `cuda`", exc_type=ImportError)
from gpu_data import Reference, integers  # noqa: E402
from pvq_ref.cuda.intrinsics import SIMULATED  # noqa: E402
from tests.cuda_arrays import Placed  # noqa: E402

DEMO = Path(__file__).parent.parent / "demo" / "compressed"
FOLDER = Path(os.environ.get("PVQ_SMOLLM2_COMPRESSED", DEMO))
LAYERS = {
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
}

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def block():
    """{name: tensor} of the linear layers of block 0."""
    if SIMULATED:
        pytest.skip("a real block takes the simulator too long")
    try:
        cuda.DeviceArray.of(np.zeros(1))
    except DeviceError:
        pytest.skip("there is no CUDA device")
    if not FOLDER.is_dir():
        pytest.skip(f"{FOLDER} isn't there")
    start, end = "model.layers.0.", ".weight"
    found = {
        name.removeprefix(start).removesuffix(end): tensor
        for name, tensor in pvq_ref.load(FOLDER).items()
        if name.startswith(start) and isinstance(tensor, pvq_ref.PVQTensor)
    }
    assert found.keys() == LAYERS
    return found


@pytest.mark.parametrize("batch", [1, 3, 16])
@pytest.mark.parametrize("name", sorted(LAYERS))
def test_products_are_those_of_the_cpu(block, name, batch):
    t = block[name]
    x = np.random.default_rng(batch).standard_normal((t.grid.cols, batch))
    got = cuda.matmul(cuda.upload(t), Placed(x)).copy_to_host()
    ref = pvq_ref.matmul(t, x)
    assert np.all(np.abs(got - ref) <= Reference(t).bound(x))
    assert np.array_equal(cuda.unrank(cuda.upload(t)).copy_to_host(), integers(t))
