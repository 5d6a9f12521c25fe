"""All kernels of pvq_ref.cuda compile, where there is a compiler; this takes no device."""

import os
import re
import subprocess
import sys

import pytest

KERNELS = {
    "product", "general", "finish", "rotate", "expand", "expand_odd", "general_expand",
    "narrow", "place_rows", "activations", "base_activations",
}  # fmt: skip


def has_compiler():
    try:
        from cuda.bindings import nvjitlink
        from numba.cuda.cudadrv.nvvm import NVVM

        NVVM()
        nvjitlink.version()
    except Exception:  # each of them has errors of its own
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="there are no libraries to compile for CUDA with")
def test_all_kernels_compile_and_link_for_compute_capability_9_0():
    # In a process of its own: compiled kernels are kept, and these belong to no device.
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "0"}
    got = subprocess.run(
        [sys.executable, "-m", "tests.cuda_compiling"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert got.returncode == 0, got.stderr
    lines = [line.split() for line in got.stdout.splitlines()]
    assert {target for _, target in lines} <= {"sm_90", "sm_90a"}
    for kernel in KERNELS:
        assert any(re.search(rf"\d{kernel}B", name) for name, _ in lines), kernel
