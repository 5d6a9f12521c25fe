"""bench/gpu.py: its data, its comparison and its page; a device is needed only to run all of it."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from pvq_ref import dequantize

reason = "needs the extra `cuda`"
pytest.importorskip("pvq_ref.cuda", reason=reason, exc_type=ImportError)
import gpu_figure  # noqa: E402
import gpu_page  # noqa: E402
from gpu_data import Reference, file_rate, normal_tensor, repeated  # noqa: E402

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def t():
    return normal_tensor(16, 96, 3.25, 32)


def test_repeated_rows_are_the_same_rows(t):
    got = dequantize(repeated(t, 3))
    assert np.array_equal(got, np.tile(dequantize(t), (3, 1)))


@pytest.mark.parametrize("n", [16, 32])
@pytest.mark.parametrize("rate", [2.25, 3.25, 4.25])
def test_coded_rates_are_exact_for_the_shapes_of_the_bench(rate, n):
    from pvq_ref.rates import allot

    for cols in (4096, 8192, 28672):
        found = allot(2048, cols, file_rate(2048, cols, rate, n), n)
        assert found.coded_rate == rate


def test_a_wrong_product_is_beyond_its_bound(t):
    reference = Reference(t)
    x = np.random.default_rng(0).standard_normal((96, 2))
    right = np.tile(reference.weights @ x, (2, 1))
    assert reference.worst(right, x) == 0
    wrong = right.copy()
    wrong[20, 1] += 2 * reference.bound(x)[4, 1]
    assert 1.9 < reference.worst(wrong, x) < 2.1
    wrong[3, 0] = np.nan
    assert reference.worst(wrong, x) == np.inf


def test_the_page_shows_ratios_failures_and_what_was_left_out():
    row = {"rows": 64, "cols": 32, "rate": 3.25, "n": 16, "form": "tree", "batch": 1}
    times = {"pvq": 2.0, "half, W x": 6.0, "half, x Wᵀ": 5.0, "copy": 1000.0}
    done = row | {
        "k": 28, "gain_bits": 3, "coded": 3.25, "file": 3.3, "device": 3.5, "nbytes": 2 << 19,
        "path": "tree", "copies": 2, "us": times, "methods": dict.fromkeys(times, "queue"),
    }  # fmt: skip
    found = {
        "command": "python bench/gpu.py", "machine": {"device": "a device"}, "checks": [],
        "rows": [done, row | {"batch": 2, "failure": "failed"}], "calls": [], "notes": [],
        "left_out": ["the rest"], "failures": ["this"], "seconds": 1.0,
    }  # fmt: skip
    got = gpu_page.page(found, None)
    # 64 · 32 weights in 2 µs; 5 µs over 2; 2^20 of 2^29 bytes moved in 1000 µs, over 2.
    assert "| 3.25 n = 16 | 1 | 2.0* |  | 0.00 | 5.0 | 2.50 |  |  | 0.98 |" in got
    assert "| 3.25 n = 16 | 2 | failed |" in got
    assert "- the rest" in got and "- this" in got


def test_the_figure_is_up_to_date():
    text = gpu_figure.figure()
    ElementTree.fromstring(text)
    path = ROOT / "docs" / "figures" / "gpu.svg"
    assert path.read_text("utf-8") == text, "python bench/gpu_figure.py"
