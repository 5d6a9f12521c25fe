"""What pvq_ref.cuda says where its libraries or a device aren't there."""

import os
import subprocess
import sys

import numpy as np
import pytest

from pvq_ref.errors import DeviceError, MissingExtraError

IMPORT = """
import sys
sys.modules[{missing!r}] = None
import pvq_ref
import pvq_ref.cuda
"""


@pytest.mark.parametrize("missing", ["numba_cuda", "cuda.bindings"])
def test_missing_libraries_are_named_with_what_installs_them(missing):
    got = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT.format(missing=missing)],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "0"},
        capture_output=True,
        text=True,
    )
    assert got.returncode == 1
    last = got.stderr.splitlines()[-1]
    assert last.startswith(
        f"pvq_ref.errors.{MissingExtraError.__name__}: pvq_ref.cuda must have numba-cuda: "
        "pip install 'pvq-ref[cuda]' ("
    )


def test_a_missing_device_is_named():
    cuda = pytest.importorskip(
        "pvq_ref.cuda", reason="needs the extra `cuda`", exc_type=ImportError
    )
    try:
        cuda.DeviceArray.of(np.zeros(1))
    except DeviceError as error:
        assert str(error).startswith("a CUDA device must be there, got none (")
    else:
        pytest.skip("there is a device, or its simulator")
