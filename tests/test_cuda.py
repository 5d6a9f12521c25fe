"""Products with compressed weights on a device, or in Numba's simulator (`make test-cuda`).

What the CPU decodes is the reference: integers are equal, products within derived bounds.
"""

import sys
import warnings
from dataclasses import replace
from functools import cache
from importlib import import_module
from math import log2
from threading import Barrier, Event
from types import ModuleType

import ml_dtypes
import numpy as np
import pytest

from pvq_ref import dequantize as cpu_dequantize
from pvq_ref import hadamard, quantize
from pvq_ref.decoding import decode_groups
from pvq_ref.errors import DeviceError, DomainError, DTypeError, ShapeError
from pvq_ref.groups import parts
from tests.tensors import encoded

cuda = pytest.importorskip("pvq_ref.cuda", reason="needs the extra `cuda`", exc_type=ImportError)
try:
    cuda.DeviceArray.of(np.zeros(1))
except DeviceError:
    reason = "there is no CUDA device: `make test-cuda` runs these in Numba's simulator"
    pytest.skip(reason, allow_module_level=True)

Placed = import_module("tests.cuda_arrays").Placed
SIMULATED = import_module("pvq_ref.cuda.intrinsics").SIMULATED
Kernel = import_module("pvq_ref.cuda.launching").Kernel
product_kernels = import_module("pvq_ref.cuda.product_kernels")
products = import_module("pvq_ref.cuda.products")
signed_sums = import_module("pvq_ref.cuda.signed_sums")

U = 2.0**-24

# name: (rows, cols), n, k, k of the tails, gain bits, order, rotated, spikes
CASES = {
    "16": ((3, 64), 16, 20, 0, 1, "blocked", True, False),
    "16, one group": ((2, 16), 16, 12, 0, 0, "fischer", True, False),
    "16, few pulses": ((3, 48), 16, 3, 0, 0, "opus", True, False),
    "16, tail, base of 36": ((2, 36), 16, 24, 5, 2, "fischer", True, False),
    "16, many pulses": ((2, 64), 16, 40, 0, 2, "opus", True, False),
    "16, spikes": ((3, 64), 16, 30, 0, 1, "blocked", False, True),
    "32": ((3, 64), 32, 40, 0, 2, "blocked", True, False),
    "32, tail, base of 60": ((2, 60), 32, 32, 20, 1, "opus", True, False),
    "32, tail, base of 100": ((2, 100), 32, 50, 3, 3, "fischer", True, False),
    "32, columns of no base": ((1, 577), 32, 32, 1, 1, "blocked", True, False),
    "32, spikes, tail": ((3, 72), 32, 60, 9, 2, "blocked", False, True),
    "5, tail": ((3, 23), 5, 6, 2, 1, "fischer", False, False),
    "7": ((2, 28), 7, 9, 0, 0, "opus", True, False),
    "8": ((3, 32), 8, 12, 0, 1, "blocked", True, False),
    "64": ((2, 128), 64, 60, 0, 1, "blocked", True, False),
    "64, large spikes": ((2, 64), 64, 150, 0, 1, "fischer", False, True),
    "16, more than a tree holds": ((2, 64), 16, 90, 0, 1, "blocked", False, False),
    "16, twice as many": ((2, 64), 16, 130, 0, 3, "blocked", True, False),
    "64, spikes, tail": ((2, 152), 64, 100, 3, 2, "opus", False, True),
    "one column": ((4, 1), 1, 3, 0, 2, "fischer", False, False),
}

FIXED = [name for name, case in CASES.items() if case[1] in (16, 32, 64)]
FORMS = [*((name, "tree") for name in CASES), *((name, "fixed") for name in FIXED)]


def normal(*shape):
    return np.random.default_rng(shape).standard_normal(shape)


def weights(rows, cols, n, spikes):
    """Return normal weights; with spikes, every other group has one huge coordinate."""
    w = normal(rows, cols)
    if spikes:
        w[:, ::n] *= np.where(np.arange(len(w[0, ::n])) % 2, 1.0, 1e4)
    return w


def uploaded(t, form="tree"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cuda.SlowPathWarning)
        return cuda.upload(t, form=form, threads=1)


@cache
def case(name, form="tree"):
    shape, n, k, tail_k, gain_bits, order, rotate, spikes = CASES[name]
    t = encoded(weights(*shape, n, spikes), n, k, tail_k, gain_bits, order, rotate)
    return t, uploaded(t, form)


def integers(t):
    """Return the integers of all groups (rows, cols) as the CPU decodes them."""
    rows = t.grid.rows
    found = [decode_groups(t, part, 0, rows)[0].reshape(rows, -1) for part in parts(t.allotment)]
    return np.concatenate(found, axis=1)


def rotated_rows(t):
    """Return W' (rows, cols) float64."""
    plain = replace(t, coding=replace(t.coding, rotation=None))
    return cpu_dequantize(plain).reshape(t.grid.rows, t.grid.cols)


def steps(t):
    """Return log2(order) + base of the largest block of the rotation."""
    blocks = t.rotation.blocks if t.rotation else ()
    return max((log2(b.order) + b.base.order for b in blocks), default=0.0)


def turned(t, x):
    """Return R x for x (cols, batch)."""
    out = np.array(x.T, np.float64, order="C")
    if t.rotation:
        t.rotation.forward(out)
    return out.T


def product_bound(t, x):
    """Return the bound of matmul's docstring, (rows, batch) for x (cols, batch)."""
    w = rotated_rows(t)
    largest, size = np.abs(turned(t, x)).max(axis=0, initial=0), np.linalg.norm(x, axis=0)
    rows, ones = np.linalg.norm(w, axis=1)[:, None], np.abs(w).sum(axis=1)[:, None]
    m, g = steps(t) + 3, max(t.grid.groups, t.grid.cols / 16)
    bound = ones * (largest / 65278 + (m + 1) * U * size) + (g + 12) * U * rows * size
    if x.shape[1] > 16:  # may go through binary16
        bound = bound + 2.0**-10 * rows * size
    return 1.001 * bound  # the docstring's is of first order


def check_product(t, got, x, rounding=0.0):
    """Check a product (…, rows) or (…, rows, batch); rounding is that of its type."""
    x = np.asarray(x, np.float64)
    wide = x.reshape(t.grid.cols, -1)
    ref = cpu_dequantize(t).reshape(t.grid.rows, -1) @ wide
    assert got.shape == t.shape[:-1] + x.shape[1:]
    difference = np.abs(np.asarray(got, np.float64).reshape(ref.shape) - ref)
    assert np.all(difference <= product_bound(t, wide) + rounding * np.abs(ref))


# ---------------------------------------------------------------- integers


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_integers_are_those_of_the_file(name, form):
    t, on_device = case(name, form)
    got = cuda.unrank(on_device)
    assert got.shape == (t.grid.rows, t.grid.cols) and got.dtype == np.int32
    assert np.array_equal(got.copy_to_host(), integers(t))


@pytest.mark.skipif(not SIMULATED, reason="is about the simulator")
def test_a_function_of_another_module_runs_on_while_threads_return_from_it(monkeypatch):
    module = ModuleType("pvq_ref.cuda.probe")
    module.inside, module.left = Barrier(2, timeout=60), Event()
    code = """
import numba
from numba import cuda
from pvq_ref.cuda.intrinsics import device

@device
def place():
    first = cuda.threadIdx.x == 0
    inside.wait()
    assert first or left.wait(60)
    place = cuda.local.array(1, numba.uint32)
    place[0] = cuda.threadIdx.x
    return place[0]
"""
    exec(code, vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def kernel(out):
        i = module.place()
        out[i] = i + 1
        module.left.set()

    out = cuda.DeviceArray.of(np.zeros(2, np.uint32))
    Kernel("probe", kernel, ("uint32",), 2).bind((out,), 1)()
    assert out.copy_to_host().tolist() == [1, 2]


def test_cases_cover_both_paths_and_groups_without_a_code():
    assert case("16")[1].fast.odd.nbytes == 0
    assert case("16, spikes")[1].fast.odd_starts[-1] >= 6
    assert case("32, spikes, tail")[1].fast.odd_starts[-1] >= 3
    assert len(case("32, spikes, tail")[1].general) == 1
    assert case("64, spikes, tail")[1].fast.odd_starts[-1] >= 4
    assert case("64, large spikes")[1].fast is None
    widths = {"16": 4, "32": 4, "64": 4, "16, more than a tree holds": 5, "16, twice as many": 6}
    for name, width in widths.items():
        assert case(name, "fixed")[1].fast.layout.width == width
    assert np.abs(integers(case("64, large spikes")[0])).max() > 127


@pytest.mark.parametrize("gain_bits", range(9))
def test_integers_and_levels_for_all_gain_bits(gain_bits):
    t = encoded(normal(2, 32), 16, 9, gain_bits=gain_bits, rotate=False)
    on_device = uploaded(t)
    assert (on_device.fast is None) == (gain_bits == 8)
    assert np.array_equal(cuda.unrank(on_device).copy_to_host(), integers(t))
    check_dequantized(t, cuda.dequantize(on_device, np.float32))


@pytest.mark.parametrize(("n", "tail_k"), [(16, 0), (32, 5), (5, 2)])
def test_rows_of_zeros(n, tail_k):
    w = normal(4, 48)
    w[[0, 2]] = 0
    w[3, 16:32] = 0  # and a group
    t = encoded(w, n, 14, tail_k)
    on_device = uploaded(t)
    assert np.array_equal(cuda.unrank(on_device).copy_to_host(), integers(t))
    y = cuda.matmul(on_device, Placed(normal(48))).copy_to_host()
    assert np.all(y[[0, 2]] == 0) and np.all(y[[1, 3]] != 0)
    assert np.all(cuda.dequantize(on_device).copy_to_host()[[0, 2]] == 0)


def test_a_tensor_of_three_dimensions():
    t = replace(encoded(normal(6, 32), 16, 14), shape=(2, 3, 32))
    on_device = uploaded(t)
    assert np.array_equal(cuda.unrank(on_device).copy_to_host(), integers(t))
    check_dequantized(t, cuda.dequantize(on_device))
    x = normal(32, 2)
    check_product(t, cuda.matmul(on_device, Placed(x[:, 0])).copy_to_host(), x[:, 0])
    for shape in ((2, 3, 2), (6, 2)):
        out = Placed(np.zeros(shape))
        assert cuda.matmul(on_device, Placed(x), out) is out
        check_product(t, np.asarray(out).reshape(2, 3, 2), x)


# ---------------------------------------------------------------- products


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_products_are_within_the_bound(name, form):
    t, on_device = case(name, form)
    x = normal(t.grid.cols, 2)
    got = cuda.matmul(on_device, Placed(x))
    assert isinstance(got, cuda.DeviceArray) and got.dtype == np.float32
    check_product(t, got.copy_to_host(), x)


@cache
def small():
    t = encoded(normal(3, 16), 16, 12)
    return t, uploaded(t)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 8, 9])
def test_up_to_sixteen_columns(batch):
    t, on_device = small()
    x = normal(16, 17)[:, :batch]
    check_product(t, cuda.matmul(on_device, Placed(x)).copy_to_host(), x)


@pytest.mark.parametrize(("n", "cols", "batch"), [
    (16, 512, 1), (32, 512, 7), (16, 512, 8), (32, 512, 13), (16, 512, 16),
    *(pytest.param(16, cols, 6, marks=pytest.mark.slow) for cols in (1024, 2048, 4096, 8192)),
])  # fmt: skip
def test_activations_rotated_in_registers(n, cols, batch):
    """One or two columns a block, of which the last one may not be there."""
    t = encoded(normal(1, cols), n, n, 0, 1, "blocked", True)
    on_device = uploaded(t)
    assert on_device.rotation.single in products.RUNS
    x = normal(cols, batch)
    if batch > 1:
        x[:, 1] = 0
        x[:, -1] *= 1e20
    got = cuda.matmul(on_device, Placed(x)).copy_to_host()
    check_product(t, got, x)
    assert np.array_equal(got, cuda.matmul(on_device, Placed(x)).copy_to_host())
    x[3, 0] = np.nan
    got = cuda.matmul(on_device, Placed(x)).copy_to_host()
    assert np.all(np.isnan(got[:, 0])) and np.all(np.isfinite(got[:, 1:]))


@pytest.mark.parametrize(("paley", "q"), [(1, 3), (1, 11), (1, 19), (2, 13), (2, 17), (2, 73)])
def test_sums_with_signs_in_the_code(paley, q):
    """As many additions as the docstring says, or fewer where some of the 8 sums aren't used."""
    matrix = hadamard.matrix(hadamard.Construction(paley, q))
    done = []

    class Builder:
        def fadd(self, a, b):
            done.append(1)
            return a + b

        def fsub(self, a, b):
            done.append(1)
            return a - b

    order = len(matrix)
    x = np.random.default_rng(q).integers(-(2**20), 2**20, order).tolist()
    got = signed_sums._with_signs(Builder(), x, matrix.astype(int).tolist(), [0] * order)
    assert got == (matrix @ x).tolist()
    assert len(done) <= order * order // 4 + 3 * order


@pytest.mark.filterwarnings("ignore:invalid value")  # of the simulator's NumPy
@pytest.mark.parametrize(("n", "cols", "batch"), [
    (16, 384, 3), (32, 640, 1), (16, 896, 1), (32, 1152, 3), (16, 768, 1), (16, 1792, 1),
    *(pytest.param(32, cols, 3, marks=pytest.mark.slow)
      for cols in (1920, 3584, 4736, 15360, 24576, 28672)),
])  # fmt: skip
def test_activations_rotated_with_a_base(n, cols, batch):
    """Bases of 12, 20, 28, 36, 60 and 148, one to four threads that share their sums."""
    t = encoded(normal(1, cols), n, n, 0, 1, "blocked", True)
    on_device = uploaded(t)
    assert on_device.rotation.base == t.rotation.blocks[0].base
    x = normal(cols, batch)
    x[:, -1] *= 1e20
    got = cuda.matmul(on_device, Placed(x)).copy_to_host()
    check_product(t, got, x)
    assert np.array_equal(got, cuda.matmul(on_device, Placed(x)).copy_to_host())
    x[cols // 2, 0] = np.inf
    got = cuda.matmul(on_device, Placed(x)).copy_to_host()
    assert np.all(np.isnan(got[:, 0])) and np.all(np.isfinite(got[:, 1:]))


def test_more_than_sixteen_columns_into_a_result_with_columns_first():
    t, on_device = small()
    x, held = normal(16, 17), Placed(np.zeros((17, 3), np.float32).T)
    cuda.matmul(on_device, Placed(x), held)
    check_product(t, np.asarray(held), x)


@pytest.mark.parametrize(("n", "cols", "room"), [(16, 336, 2), (16, 336, 5), (32, 608, 3)])
def test_activations_in_tiles_and_little_room(monkeypatch, n, cols, room):
    """Of 6 or 5 quads there is room for so many, and for groups without a code or not."""
    w = normal(5, cols)
    w[:, n : 5 * n : n] *= 1e4
    t = encoded(w, n, 2 * n, gain_bits=1, rotate=False)
    on_device = uploaded(t)
    assert on_device.fast.odd_starts[-1] >= 17
    edges = product_kernels.edge_words(on_device.fast.layout.rows)
    words = 256 + on_device.fast.image.size + 32 + edges + 8 * n * room
    monkeypatch.setattr(products, "shared_words", lambda: words)
    # Kernels that are kept take as much shared memory as the device has.
    monkeypatch.setattr(products, "_product_kernel", products._product_kernel.__wrapped__)
    x = normal(cols, 3)
    got = cuda.matmul(on_device, Placed(x)).copy_to_host()
    check_product(t, got, x)
    assert np.array_equal(got, cuda.matmul(on_device, Placed(x)).copy_to_host())


@pytest.mark.parametrize("n", [16, 32])
@pytest.mark.parametrize("size", products.SIZES)
def test_what_a_block_keeps_fits_a_small_shared_memory(monkeypatch, n, size):
    on_device = uploaded(encoded(normal(400, 2 * n), n, 6 if n == 16 else 24, rotate=False))
    shared = 256 + on_device.fast.image.size + 5120
    monkeypatch.setattr(products, "shared_words", lambda: shared)
    monkeypatch.setattr(products, "PRODUCT_THREADS", 512)
    plan = products.Plan(on_device, size, "float32", "float32", 0)
    assert 0 < plan._launches[0]._shared <= 4 * (shared - 256)


@pytest.mark.parametrize(("n", "rows"), [(16, 33), (32, 17)])
def test_rows_that_do_not_fill_blocks(n, rows):
    t = encoded(normal(rows, 32), n, 20, gain_bits=1, rotate=False)
    on_device = uploaded(t)
    assert np.array_equal(cuda.unrank(on_device).copy_to_host(), integers(t))
    check_dequantized(t, cuda.dequantize(on_device))
    x = normal(32, 2)
    check_product(t, cuda.matmul(on_device, Placed(x)).copy_to_host(), x)


def test_no_columns():
    assert cuda.matmul(small()[1], Placed(np.zeros((16, 0)))).copy_to_host().shape == (3, 0)


def test_the_place_of_a_column_and_a_second_run_change_no_bit():
    _, on_device = small()
    x = normal(16, 3)
    once = cuda.matmul(on_device, Placed(x)).copy_to_host()
    assert np.array_equal(once, cuda.matmul(on_device, Placed(x)).copy_to_host())
    order = [2, 0, 1]
    beside_zeros = np.concatenate([x[:, order], np.zeros((16, 1))], axis=1)
    got = cuda.matmul(on_device, Placed(beside_zeros)).copy_to_host()
    assert np.array_equal(got[:, :3], once[:, order]) and not got[:, 3].any()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_types_of_activations(dtype):
    t, on_device = small()
    x = normal(16, 2).astype(dtype)
    check_product(t, cuda.matmul(on_device, Placed(x)).copy_to_host(), x)


def test_strides_of_activations():
    _, on_device = small()
    x = normal(16, 2).astype(np.float32)
    ref = cuda.matmul(on_device, Placed(x)).copy_to_host()
    spread = np.zeros((32, 6), np.float32)
    spread[::2, 1::3] = x
    shared = np.ndarray((16, 2), np.float32, x, 0, (x.strides[0], 0))
    for view, want in (
        (np.ascontiguousarray(x.T).T, ref),
        (spread[::2, 1::3], ref),
        (shared, ref[:, [0, 0]]),
    ):
        assert np.array_equal(cuda.matmul(on_device, Placed(view)).copy_to_host(), want)


def test_a_vector_is_a_matrix_of_one_column():
    t, on_device = small()
    x = normal(32)[::2]
    got = cuda.matmul(on_device, Placed(x)).copy_to_host()
    check_product(t, got, x)
    one = cuda.matmul(on_device, Placed(np.ascontiguousarray(x[:, None]))).copy_to_host()
    assert one.shape == (3, 1) and np.array_equal(one[:, 0], got)


@pytest.mark.parametrize(
    ("name", "dtype", "rounding"),
    [("16", np.float16, 2.0**-11), ("16", np.float64, 0.0), ("5, tail", np.float32, 0.0)],
)
def test_a_given_result(name, dtype, rounding):
    t, on_device = case(name)
    x = normal(t.grid.cols, 2)
    room = np.full((7, 6), -1, dtype)
    held = Placed(room[1 : 2 * t.grid.rows + 1 : 2, 1:5:3])
    assert cuda.matmul(on_device, Placed(x), held) is held
    got = np.asarray(held)
    check_product(t, got, x, rounding)
    new = cuda.matmul(on_device, Placed(x)).copy_to_host()
    assert np.array_equal(got, new.astype(dtype))
    assert np.count_nonzero(held.memory == -1) == room.size - got.size  # nothing else is written
    row = Placed(np.zeros(2 * t.grid.rows, dtype)[::2])
    cuda.matmul(on_device, Placed(x[:, 0]), row)
    check_product(t, np.asarray(row), x[:, 0], rounding)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1e12, 1e30])
@pytest.mark.parametrize("name", ["16, one group", "32, spikes, tail"])
def test_activations_of_any_size(scale, name):
    t, on_device = case(name)
    x = normal(t.grid.cols) * scale
    got = cuda.matmul(on_device, Placed(x)).copy_to_host()
    check_product(t, got, x)
    assert np.all(got == 0) if scale == 0 else np.all(got != 0)


def test_columns_have_scales_of_their_own():
    t, on_device = case("16")
    x = normal(64, 3) * [1e-20, 0, 1e20]
    check_product(t, cuda.matmul(on_device, Placed(x)).copy_to_host(), x)


@pytest.mark.filterwarnings("ignore:invalid value")  # of the simulator's NumPy
@pytest.mark.parametrize("name", ["16", "8"])
def test_columns_that_are_not_finite(name):
    t, on_device = case(name)
    x = normal(t.grid.cols, 3).astype(np.float32)
    x[3, 0], x[1, 2] = np.nan, -np.inf
    got = cuda.matmul(on_device, Placed(x)).copy_to_host()
    assert np.isnan(got[:, [0, 2]]).all()
    check_product(t, got[:, 1], x[:, 1])


def test_the_least_activations():
    _, on_device = case("16")
    x = (normal(64) * 1e-36).astype(np.float32)
    got = cuda.matmul(on_device, Placed(x)).copy_to_host()
    assert np.abs(got).max() < 1e-30


def test_one_coordinate_of_activations():
    t, on_device = case("16, spikes")
    columns = [0, 15, 16, 63]
    x = np.zeros((64, 4))
    x[columns, range(4)] = -3.0
    check_product(t, cuda.matmul(on_device, Placed(x)).copy_to_host(), x)


def test_powers_of_two_change_nothing_but_the_exponent():
    _, on_device = case("32")
    x = normal(64).astype(np.float32)
    ref = cuda.matmul(on_device, Placed(x)).copy_to_host()
    got = cuda.matmul(on_device, Placed(x * np.float32(2.0**20))).copy_to_host()
    assert np.allclose(got, ref * 2.0**20, rtol=4 * U, atol=0)


# ---------------------------------------------------------------- weights


def check_dequantized(t, got):
    ref = cpu_dequantize(t)
    assert got.shape == t.shape
    found = got.copy_to_host().astype(np.float64)
    rows = np.linalg.norm(rotated_rows(t), axis=1).reshape(*t.shape[:-1], 1)
    bound = (steps(t) + 8) * U * rows
    if got.dtype == np.float16:
        bound = bound * 1.001 + 2.0**-11 * np.abs(ref) + 2.0**-25
    assert np.all(np.abs(found - ref) <= bound)


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_weights_are_within_the_bound(name, form):
    t, on_device = case(name, form)
    got = cuda.dequantize(on_device, np.float32)
    assert got.dtype == np.float32
    check_dequantized(t, got)


@pytest.mark.parametrize("name", ["16", "16, spikes", "32, tail, base of 60", "5, tail"])
def test_weights_of_half_precision_are_the_default(name):
    t, on_device = case(name)
    got = cuda.dequantize(on_device)
    assert got.dtype == np.float16
    check_dequantized(t, got)


# ---------------------------------------------------------------- sizes and streams


def test_sizes():
    t, on_device = case("16")
    assert on_device.shape == t.shape and (on_device.rows, on_device.cols) == (3, 64)
    assert on_device.nbytes >= t.index.nbytes + t.gain.nbytes
    assert on_device.bits_per_weight == 8 * on_device.nbytes / t.grid.rows / t.grid.cols


def test_device_arrays():
    held = cuda.DeviceArray.of(np.arange(6).reshape(2, 3).T)
    assert held.shape == (3, 2) and held.nbytes == 48
    assert np.array_equal(held.copy_to_host(), [[0, 3], [1, 4], [2, 5]])
    assert held.__cuda_array_interface__["shape"] == (3, 2)
    _, on_device = small()
    x = cuda.DeviceArray.of(normal(16))
    once = cuda.matmul(on_device, x).copy_to_host()
    assert np.array_equal(once, cuda.matmul(on_device, Placed(normal(16))).copy_to_host())


def test_the_default_stream_by_any_name():
    class Stream:
        cuda_stream = 0

    _, on_device = small()
    x = Placed(normal(16))
    ref = cuda.matmul(on_device, x).copy_to_host()
    assert np.array_equal(cuda.matmul(on_device, x, stream=Stream()).copy_to_host(), ref)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("shape", [(15,), (17, 2), (16, 2, 2), (2, 16), ()])
def test_activations_of_a_wrong_shape(shape):
    with pytest.raises(ShapeError, match=r"x must be of shape \(16,\) or \(16, batch\), got \("):
        cuda.matmul(small()[1], Placed(np.zeros(shape)))


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_, np.complex64])
def test_arrays_of_a_wrong_type(dtype):
    wrong = Placed(np.zeros(16, dtype))
    with pytest.raises(DTypeError, match=r"x must be float16, float32 or float64, got \w+"):
        cuda.matmul(small()[1], wrong)
    with pytest.raises(DTypeError, match=r"out must be float16, float32 or float64, got \w+"):
        cuda.matmul(small()[1], Placed(np.zeros(16)), Placed(np.zeros(3, dtype)))


def test_bfloat16_is_refused():
    with pytest.raises(DTypeError, match="x must be"):
        cuda.matmul(small()[1], Placed(np.zeros(16, ml_dtypes.bfloat16)))


@pytest.mark.parametrize("shape", [(4,), (3, 1), (1, 3), ()])
def test_a_result_of_a_wrong_shape(shape):
    with pytest.raises(ShapeError, match=r"out must be of shape \(3,\), got \("):
        cuda.matmul(small()[1], Placed(np.zeros(16)), Placed(np.zeros(shape, np.float32)))


def test_a_result_that_is_not_contiguous_where_it_must_be():
    t = replace(encoded(normal(6, 32), 16, 14), shape=(2, 3, 32))
    with pytest.raises(ShapeError, match="out must be contiguous"):
        cuda.matmul(uploaded(t), Placed(np.zeros(32)), Placed(np.zeros((3, 2)).T))


def test_negative_strides_are_refused():
    with pytest.raises(ShapeError, match="x must have strides of whole elements, not below 0"):
        cuda.matmul(small()[1], Placed(np.zeros(16)[::-1]))


@pytest.mark.parametrize("dtype", [np.float64, np.int32])
def test_weights_of_a_wrong_type(dtype):
    with pytest.raises(DTypeError, match="dtype must be float16 or float32, got"):
        cuda.dequantize(small()[1], dtype)


def test_a_stream_of_a_wrong_type():
    with pytest.raises(DTypeError, match="stream must be an address or an object with one"):
        cuda.matmul(small()[1], Placed(np.zeros(16)), stream="first")


@pytest.mark.parametrize("exponent", [120, -120])
def test_norms_out_of_range(exponent):
    t, _ = small()
    with pytest.raises(DomainError, match="row norms must be between 1e-30 and 1e30, got"):
        cuda.upload(replace(t, norm_exponent=exponent))


def test_whole_groups_on_the_general_path_come_with_a_warning():
    with pytest.warns(cuda.SlowPathWarning, match=r"n = 8, k = 7 take the general path"):
        cuda.upload(encoded(normal(2, 16), 8, 7))
    with pytest.warns(cuda.SlowPathWarning, match=r"n = 16, k = 900"):
        cuda.upload(encoded(normal(2, 16), 16, 900))


def test_tails_on_the_general_path_come_without_one():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cuda.upload(encoded(normal(2, 40), 16, 12, 5))


@pytest.mark.parametrize(("k", "found"), [(30, "fixed"), (40, None)])
def test_many_groups_without_a_code_take_another_path(k, found):
    """Each group has a coordinate with all pulses: six bits hold 30, nothing fast 40."""
    w = weights(16, 128, 16, spikes=True)
    w[:, ::16] = 1e4
    t = encoded(w, 16, k, rotate=False)
    on_device = uploaded(t)
    assert (on_device.fast and on_device.fast.layout.name) == found
    assert np.array_equal(cuda.unrank(on_device).copy_to_host(), integers(t))


@pytest.mark.parametrize(
    ("n", "k", "form", "found"),
    [(16, 20, "tree", "tree"), (16, 20, "fixed", "fixed"), (32, 200, "tree", "fixed"),
     (64, 100, "tree", "fixed")],
)  # fmt: skip
def test_the_form_that_is_asked_for_comes_first(n, k, form, found):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        on_device = cuda.upload(encoded(normal(2, 64), n, k), form=form)
    assert on_device.fast.layout.name == found


def test_few_groups_may_be_apart_from_integers_of_fixed_width():
    """Four of any number, and one in 128; more take a bit more, all the others with them."""
    for apart, width in ((4, 4), (6, 4), (7, 5)):
        w = np.tile(normal(16), (256, 1))  # of 12 pulses nowhere more than 7
        w[:apart, 0] = 100  # all 12 pulses
        on_device = uploaded(encoded(w, 16, 12, rotate=False), "fixed")
        assert on_device.fast.layout.width == width
        assert on_device.fast.odd_starts[-1] == (apart if width == 4 else 0)


def test_an_unknown_form():
    with pytest.raises(DomainError, match="form must be one of tree, fixed, got 'dense'"):
        cuda.upload(small()[0], form="dense")


def test_what_quantize_makes_takes_the_fast_path():
    t = quantize(normal(8, 64).astype(np.float32), bits=2.5, threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        on_device = cuda.upload(t)
    assert np.array_equal(cuda.unrank(on_device).copy_to_host(), integers(t))
