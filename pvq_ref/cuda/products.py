"""matmul: activations times a compressed tensor, which is never held as a dense matrix.

Up to 16 columns go through one kernel that decodes and multiplies; more go through tiles of rows in
half precision and cuBLAS.
"""

from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np

from pvq_ref.cuda import dense
from pvq_ref.cuda.activation_kernels import EACH, make_activations, run_words
from pvq_ref.cuda.base_kernels import block_threads, make_base_activations, row_words
from pvq_ref.cuda.coding import Image
from pvq_ref.cuda.device import (
    DeviceArray,
    View,
    processors,
    shared_words,
    stream_number,
    use,
)
from pvq_ref.cuda.finish_kernels import finish
from pvq_ref.cuda.general_kernels import make_general
from pvq_ref.cuda.intrinsics import SIMULATED
from pvq_ref.cuda.launching import Kernel, Launch, can_overlap, has_tensor_cores
from pvq_ref.cuda.layout import Layout
from pvq_ref.cuda.multiply_kernels import ZEROS
from pvq_ref.cuda.product_kernels import edge_words, make_product
from pvq_ref.cuda.rotation_kernels import THREADS, make_rotation
from pvq_ref.cuda.tensor import DeviceTensor, FastPart, GeneralPart
from pvq_ref.errors import ShapeError
from pvq_ref.hadamard import Construction

PRODUCT_THREADS = 64 if SIMULATED else 512
SIZES = (1, 2, 4, 8, 16)  # columns of the kernels
ROTATING = 4  # blocks of one column each: about as many multiprocessors have no block of a product
# Rotations of one run that its own kernel takes, in blocks of 32 to 512 threads.
RUNS = tuple((1 << s, 1 << s, 1) for s in range(9, 14))
_U, _F, _WORDS = "u", "float32", "uint32"
_PRODUCT = (*4 * (_WORDS,), _F, _WORDS, _WORDS, _F, _WORDS, _F, _F, *12 * _U)


@lru_cache(64)
def rotation_kernel(
    forward: bool,
    words: int,
    types: tuple[str, str],
    single: tuple[int, int, int] | None,
    keep: bool = True,
) -> Kernel:
    """Return the kernel that rotates rows of a type into another; words are a padded row's."""
    in_shared = words <= shared_words() - 1024
    arguments = (
        types[0], _U, _U, _F, _WORDS, _F, "int8", _F, types[1], _U, _F, _U, _U, _WORDS, *3 * _U
    )  # fmt: skip
    function = make_rotation(forward, in_shared, single, forward and can_overlap(), keep)
    name = f"rotation {forward} {in_shared} {single} {can_overlap()} {keep}"
    return Kernel(name, function, arguments, THREADS, shared_words() - 256 if in_shared else 0)


@lru_cache(64)
def _activation_kernel(steps: int, columns: int, sixteens: int, source: str) -> Kernel:
    words = columns * run_words(steps)
    arguments = (source, _U, _U, _F, _F, _F, _WORDS, *3 * _U)
    function = make_activations(steps, columns, sixteens, can_overlap())
    name = f"activations {steps} {columns} {sixteens} {can_overlap()}"
    return Kernel(name, function, arguments, (1 << steps) // EACH, words)


@lru_cache(64)
def _base_kernel(base: Construction, run: int, sixteens: int, source: str) -> Kernel:
    arguments = (source, _U, _U, _WORDS, _F, _F, _WORDS, _U)
    function = make_base_activations(base, run.bit_length() - 1, sixteens, can_overlap())
    name = f"base activations {base} {run} {sixteens} {can_overlap()}"
    threads = block_threads(run, base.order)[1]
    return Kernel(name, function, arguments, threads, row_words(run * base.order))


def rotation_shared(words: int) -> int:
    """Return the shared memory of the rotation's launch, for padded rows of so many words."""
    return words if words <= shared_words() - 1024 else 0


def padded(cols: int) -> int:
    """Return the words of a row in the rotation's kernel, at least one for each thread."""
    return max(cols + cols // 32 + 1, THREADS)


def packing(t: DeviceTensor) -> tuple[int, int, int]:
    """Return the words of a packed column, those to pack, and the sixteens of a run."""
    if t.fast is None:
        return 0, 0, 1
    n = t.fast.layout.n
    return t.fast.activation_words, t.fast.runs * n // 4, n // 16


@lru_cache(256)
def _product_kernel(
    layout: Layout, places: tuple[int, ...], size: int, batch: int, direct: bool, target: str
) -> Kernel:
    image = Image(np.zeros(size, np.uint32), *places)
    device = can_overlap(), has_tensor_cores()
    function = make_product(layout, image, batch, direct, *device)
    arguments = (*_PRODUCT[:2], layout.bytes_type, *_PRODUCT[3:10], target, *_PRODUCT[11:])
    name = f"product {layout} {places} {size} {batch} {direct} {device}"
    return Kernel(name, function, arguments, PRODUCT_THREADS, shared_words() - 256)


@lru_cache(64)
def _general_kernel(n: int, k: int, words: int, batch: int) -> Kernel:
    arguments = (_WORDS, "uint8", _F, _WORDS, _F, _F, _F, *4 * _U)
    threads = 32 if SIMULATED else 128
    name = f"general {n} {k} {words} {batch}"
    return Kernel(name, make_general(n, k, words, batch), arguments, threads)


@lru_cache(4)
def _finish_kernel(target: str) -> Kernel:
    arguments = (_F, _F, _F, target, *6 * _U)
    return Kernel("finish", finish, arguments, 32 if SIMULATED else 256)


class Plan:
    """The launches of one product, with memory of their own; only x and out change."""

    def __init__(self, t: DeviceTensor, batch: int, source: str, target: str, stream: int) -> None:
        size = next(size for size in SIZES if size >= batch)
        self.largest = DeviceArray(size, np.float32, stream)
        self.packed = DeviceArray((size, max(1, packing(t)[0])), np.uint32, stream)
        self.packed.clear(stream)
        self.largest.clear(stream)
        self._pair = 0  # bytes of an element of two columns that one block rotates
        self._rotate = self._rotation(t, batch, source, stream)
        slots = int(t.fast is not None) + len(t.general)
        direct = t.fast is not None and slots == 1
        self._parts = DeviceArray((0 if direct else slots, size, t.rows), np.float32, stream)
        self._launches: list[Launch] = []
        self._direct = direct
        if t.fast:
            self._launches.append(self._fast(t, t.fast, batch, size, target))
        for i, part in enumerate(t.general):
            self._launches.append(self._general(t, part, size, int(t.fast is not None) + i))
        if not direct:
            blocks = max(1, min(8 * processors(), -(-t.rows * batch // 256)))
            self._launches.append(
                _finish_kernel(target).bind(
                    (self._parts, t.norms, self.largest, 0, 0, 0, slots, t.rows, size, batch),
                    blocks,
                )
            )
        self._out = (10, 11, 12) if direct else (3, 4, 5)
        self._lock = Lock()  # arguments are set before a launch reads them

    def _is_side_by_side(self, x: Any, x_steps: tuple[int, int]) -> bool:
        """Return whether a block of the rotation can load an element of both columns at once."""
        is_aligned = SIMULATED or x % self._pair == 0
        return bool(x_steps[1] == 1 and x_steps[0] % 2 == 0 and is_aligned)

    def _rotation(self, t: DeviceTensor, batch: int, source: str, stream: int) -> Launch:
        r, (packed_step, packed_words, sixteens) = t.rotation, packing(t)
        if t.fast is not None and not t.general and r.single in RUNS:
            columns = 1 if batch <= ROTATING else 2
            self._pair = 2 * np.dtype(source).itemsize if columns == 2 and batch % 2 == 0 else 0
            steps = t.cols.bit_length() - 1
            return _activation_kernel(steps, columns, sixteens, source).bind(
                (0, 0, 0, r.signs, r.factors, self.largest, self.packed, packed_step, batch, 0),
                -(-batch // columns), overlap=can_overlap(),
            )  # fmt: skip
        if t.fast is not None and not t.general and r.base is not None:
            return _base_kernel(r.base, t.cols // r.base.order, sixteens, source).bind(
                (0, 0, 0, r.flips, r.factors, self.largest, self.packed, packed_step),
                batch, overlap=can_overlap(),
            )  # fmt: skip
        self.x = DeviceArray((*self.largest.shape, t.cols), np.float32, stream)
        self.x.clear(stream)
        words = padded(t.cols)
        kernel = rotation_kernel(True, words, (source, _F), r.single, keep=bool(t.general))
        self._scratch = DeviceArray(
            batch * words if words > shared_words() - 1024 else 1, np.float32, stream
        )
        return kernel.bind(
            (0, 0, 0, r.signs, r.segments, r.factors, r.bases, self._scratch, self.x, t.cols,
             self.largest, r.count, words, self.packed, packed_step, packed_words, sixteens),
            batch, overlap=can_overlap(), shared=rotation_shared(words),
        )  # fmt: skip

    def _fast(self, t: DeviceTensor, fast: FastPart, batch: int, size: int, target: str) -> Launch:
        image, n, rows, threads = fast.image, fast.layout.n, fast.layout.rows, PRODUCT_THREADS
        # As many rows a block as leave no multiprocessor without work, and warps for all of them.
        # Sums of all columns take three fourths of the shared memory at most.
        shared = shared_words() - 256
        for_sums = 3 * shared // 4
        row_blocks = min(-(-t.rows // (rows * processors())), threads // 32)
        row_blocks = max(1, min(row_blocks, (for_sums // (4 * size) - 9) // rows))
        slice_words = (4 * (row_blocks * rows + 8) + 4) * size
        slices = max(1, min(threads // 32 // row_blocks, for_sums // slice_words))
        blocks = -(-t.rows // (rows * row_blocks))
        # Products of runs that are kept apart stand at the end, unless that takes a fourth of what
        # tables leave. Each slice has room for one tile of activations, or for two.
        edges = edge_words(rows * row_blocks)
        free = shared - image.size - ZEROS - edges
        firsts = np.minimum(np.arange(blocks + 1) * rows * row_blocks, t.rows)
        odd = int(np.diff(fast.odd_starts[firsts].astype(np.int64)).max(initial=0)) * size
        odd = -(-odd // 4) * 4 if odd <= free // 4 else 0
        quad_words = size * 2 * n
        left = (free - odd) // quad_words
        slices = min(slices, fast.quads, max(1, left // 2))
        part, buffers = -(-fast.quads // slices), 1
        if slices * part > left:
            tiles = -(-part // (left // (2 * slices)))
            part, buffers = -(-part // tiles), 2
        room = image.size + ZEROS + slices * part * buffers * quad_words
        room = max(room, slices * slice_words)
        places = (image.eight, image.sixteen, image.top, image.levels)
        kernel = _product_kernel(
            fast.layout, places, image.size, size, self._direct, target if self._direct else _F
        )
        out: Any = 0 if self._direct else self._parts
        arguments = (
            fast.planes, fast.halves, fast.bytes, fast.tables, fast.levels, fast.odd_first,
            fast.odd, t.norms, self.packed, self.largest, out, 0, 0, t.rows, fast.quads, part,
            slices, row_blocks, batch, fast.activation_words, room, room + edges if odd else 0,
            buffers,
        )  # fmt: skip
        return kernel.bind(arguments, blocks, overlap=can_overlap(), shared=room + edges + odd)

    def _general(self, t: DeviceTensor, part: GeneralPart, size: int, slot: int) -> Launch:
        kernel = _general_kernel(part.n, part.k, part.words, size)
        out = self._parts.at(slot * size * t.rows)
        arguments = (
            part.planes, part.fields, part.levels, part.counts, self.x, self.largest, out, t.rows,
            part.groups, part.first_column, t.cols,
        )  # fmt: skip
        return kernel.bind(arguments, max(1, min(16 * processors(), -(-t.rows // 4))))

    def __call__(
        self, x: Any, x_steps: tuple[int, int], out: Any, out_steps: tuple[int, int], stream: int
    ) -> None:
        """Multiply; x and out are arrays or addresses, steps those of (element, column)."""
        rotate, last = self._rotate, self._launches[-1]
        with self._lock:
            rotate.set(0, x)
            rotate.set(1, x_steps[1])
            rotate.set(2, x_steps[0])
            if self._pair:
                rotate.set(9, int(self._is_side_by_side(x, x_steps)))
            rotate(stream)
            for place, value in zip(self._out, (out, *out_steps), strict=True):
                last.set(place, value)
            for launch in self._launches:
                launch(stream)


def _steps(view: View, columns: bool) -> tuple[int, int]:
    """Return the steps from element to element and from column to column."""
    return view.strides[0], view.strides[1] if columns else 0


def matmul(t: DeviceTensor, x: Any, out: Any = None, stream: Any = None) -> Any:
    """Multiply a compressed tensor by activations: W x for the original W, rotation included.

    Parameters: t, of `upload`, (…, rows, cols); x (cols,) or (cols, batch), float16, float32 or
    float64, any array on the device with __cuda_array_interface__ (CuPy, PyTorch, Numba), in any
    layout; out, such an array for the result, (rows,) or (rows, batch), or None for a new one;
    stream, an address, an object that has one (`cuda_stream`, `ptr`, `handle`), or None for the
    default stream. Returns out: (…, rows) or (…, rows, batch); a new one is a float32
    `DeviceArray`, which other libraries take (`torch.as_tensor(y, device="cuda")`). Raises
    ShapeError, DTypeError, DeviceError.

    Up to 16 columns, x is rotated in binary32 and rounded to 16-bit fixed point with one scale a
    column; sums within a group are exact, those over groups binary32. With u = 2^-24, a column's
    error is at most, to first order in u,

        ||w||_1 (max |R x| / 65278 + (m + 1) u ||x||) + (g + 12) u ||w|| ||x||

    for the row w of W', g = groups in a row, or cols / 16 if that is more, m = log2(order) + base +
    3 for the largest block of the rotation. From 17 columns on, W' and R x are also rounded to
    binary16: 2^-10 ||w|| ||x|| more. Scales of x below 1e-30 count as 1e-30, and a column with NaN
    or infinity, or one that overflows, gives NaN. The same input gives the same bits on every run
    on a device.
    """
    use()
    view = View(x, "x")
    if len(view.shape) not in (1, 2) or view.shape[0] != t.cols:
        raise ShapeError(f"x must be of shape ({t.cols},) or ({t.cols}, batch), got {view.shape}")
    columns = len(view.shape) == 2
    batch = view.shape[1] if columns else 1
    number = stream_number(stream)
    lead = t.shape[:-1] + ((batch,) if columns else ())
    flat = (t.rows, batch) if columns else (t.rows,)
    if out is None:
        out = DeviceArray(lead, np.float32, number)
        target, steps = "float32", (batch, 1)
        address: Any = out
    else:
        given = View(out, "out")
        if given.shape not in (flat, lead):
            raise ShapeError(f"out must be of shape {lead}, got {given.shape}")
        if len(given.shape) != len(flat) and not given.is_contiguous:
            raise ShapeError(f"out must be contiguous where it has more dimensions than {flat}")
        target = given.dtype.name
        steps = _steps(given, columns) if given.shape == flat else (batch, 1)
        address = given
    x_steps = _steps(view, columns)
    done = 0
    most = SIZES[-1]
    if batch > most and dense.library() is not None:
        most = batch
    while done < batch:
        count = min(most, batch - done)
        key = (count, view.dtype.name, target, number)
        plan = t.plans.get(key)
        if plan is None:
            made = Plan if count <= SIZES[-1] else dense.DensePlan
            plan = t.plans[key] = made(t, *key)
        plan(view.at(done * x_steps[1]), x_steps, address.at(done * steps[1]), steps, number)
        done += count
    return out
