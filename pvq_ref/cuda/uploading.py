"""`upload`: what becomes of a compressed tensor on the device (docs/gpu.md)."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pvq_ref.counting import count
from pvq_ref.cuda import fixed
from pvq_ref.cuda.base_kernels import TOGETHER, is_moderate
from pvq_ref.cuda.coding import Image, TreeLayout, encode, image, padded_levels, planes
from pvq_ref.cuda.device import DeviceArray, shared_words
from pvq_ref.cuda.layout import QUAD, Layout
from pvq_ref.cuda.tensor import DeviceRotation, DeviceTensor, FastPart, GeneralPart
from pvq_ref.cuda.tree import Tree
from pvq_ref.decoding import decode_groups
from pvq_ref.errors import DomainError
from pvq_ref.groups import Part, parts, rows_per_range
from pvq_ref.hadamard import matrix, transposed
from pvq_ref.packing import unpack_from
from pvq_ref.parallel import map_ranges
from pvq_ref.ranking import rank_unchecked
from pvq_ref.rotation import Rotation, signs
from pvq_ref.tables import tables
from pvq_ref.tensor import PVQTensor, check_fields

TUNED = (16, 32)  # group sizes of the tree code
MOST_GROUPS = 1 << 22  # in a row: the number of a run has 24 bits
MOST_ODD = 1 / 16  # part of the groups that may be without a code
MOST_APART = 1 / 128  # part of the groups that may be too wide for integers of fixed width
FEW_APART = 4  # groups that may be so in any case
MOST_INTEGER = 127  # of groups that are kept apart
FORMS = ("tree", "fixed")
RESERVED = 5120  # words of shared memory left for activations
GUESSES = (6, 7)  # bits of a look-up: fewer meet more often in one bank, more waste less of a code
MOST_PULSES = tuple(range(15, 9, -1))  # of a block of four: the table of blocks takes 2/3 a^4 words
Planes = tuple[NDArray[np.uint32], NDArray[np.uint16], NDArray[np.uint8]]


class SlowPathWarning(UserWarning):
    """A tensor goes through the general path, which is right for everything but slow."""


def _fields(t: PVQTensor, part: Part, start: int, stop: int) -> NDArray[np.uint8]:
    """Return the numbers of the levels of a part's groups in a range of rows."""
    width = t.allotment.gain_bits
    row_bits = t.grid.groups * width
    layout = (start * row_bits + part.first_gain * width, part.per_row, row_bits)
    fields = unpack_from(t.gain, width, (stop - start) * part.per_row, layout)
    return fields.reshape(-1).astype(np.uint8)


def _ranges(t: PVQTensor, part: Part, threads: int | None) -> "map[tuple[int, NDArray[np.int32]]]":
    """Return an iterator over (first row, integers) of a part."""

    def work(start: int, stop: int) -> tuple[int, NDArray[np.int32]]:
        return start, decode_groups(t, part, start, stop)[0]

    return map_ranges(work, t.grid.rows, rows_per_range(t.grid.cols), threads)  # type: ignore[return-value]


def _tree_layout(t: PVQTensor, part: Part) -> TreeLayout | None:
    """Return the layout of the tree code with the most pulses in a block that fits."""
    if part.n not in TUNED:
        return None
    for most in MOST_PULSES:
        trees = (Tree(part.n, part.k, min(most, part.k), guess) for guess in GUESSES)
        layouts = [
            TreeLayout(tree, t.allotment.gain_bits)
            for tree in trees
            if tree.width(part.n, part.k) is not None
        ]
        layouts = [one for one in layouts if one.fits]
        if layouts:
            layout = min(layouts, key=lambda one: (one.bits, one.tree.guess))
            if image(layout, t.levels[0]).size + RESERVED <= shared_words():
                return layout
    return None


def _in_blocks(
    plane: NDArray[Any], blank: NDArray[Any], rows: int, runs: int, layout: Layout
) -> NDArray[Any]:
    """Return a plane (…, rows · runs) as `Layout` says, filled up with a blank run (…, 1).

    Words of 16 and 8 bits are joined to what a lane reads at once.
    """
    if plane.shape[-1] == 0:
        return plane.astype(np.uint32)
    lead, blocks, quads = plane.shape[:-1], -(-rows // layout.rows), -(-runs // QUAD)
    filled = np.empty((*lead, blocks * layout.rows, quads * QUAD), plane.dtype)
    filled[...] = blank[..., None]
    filled[..., :rows, :runs] = plane.reshape(*lead, rows, runs)
    held = filled.reshape(*lead, blocks, layout.together, -1, quads, QUAD)
    lanes = np.ascontiguousarray(np.moveaxis(held, (-2, -4), (-4, -1)))
    return lanes.reshape(-1).view(np.dtype(f"u{min(4, layout.together * plane.itemsize)}"))


def _fast_part(
    t: PVQTensor,
    part: Part,
    layout: Layout,
    made: Image,
    full: Planes,
    blank: Planes,
    apart: NDArray[np.int64],
    y: NDArray[np.int8],
) -> FastPart:
    """Return whole groups as kernels have them.

    Parameters: full, their planes, and blank, those of a run that counts for nothing; apart, the
    numbers of groups that the layout can't hold, ascending, and y (…, n), their coordinates.
    """
    rows, runs = t.grid.rows, part.per_row * layout.sharing
    whole, halves, bytes_ = (_in_blocks(full[i], blank[i], rows, runs, layout) for i in range(3))
    numbers = (apart[:, None] * layout.sharing + np.arange(layout.sharing)).reshape(-1)
    entries = np.zeros((len(numbers), 2 + layout.n // 4), np.uint32)
    field = np.repeat(_fields(t, part, 0, rows)[apart], layout.sharing)
    entries[:, 0] = (numbers % runs) | field.astype(np.uint32) << np.uint32(24)
    entries[:, 1] = np.repeat(np.sum(y.astype(np.int64) ** 2, axis=1), layout.sharing)
    entries[:, 2:] = np.ascontiguousarray(y).reshape(-1, layout.n).view(np.uint32)
    odd_rows = (numbers // runs).astype(np.uint32)
    starts = np.searchsorted(odd_rows, np.arange(rows + 1)).astype(np.uint32)
    levels = np.zeros(256, np.float32)
    levels[: t.levels.shape[1]] = t.levels[0]
    return FastPart(
        layout, made, runs, DeviceArray.of(made.words), DeviceArray.of(whole),
        DeviceArray.of(halves), DeviceArray.of(bytes_), DeviceArray.of(starts),
        DeviceArray.of(entries), DeviceArray.of(odd_rows), starts, DeviceArray.of(levels),
    )  # fmt: skip


def _tree_part(t: PVQTensor, part: Part, threads: int | None) -> FastPart | None:
    """Return a part in the tree code, or None if it doesn't fit or many groups have no code."""
    layout = _tree_layout(t, part)
    if layout is None:
        return None
    rows, groups = t.grid.rows, part.per_row
    codes = np.empty((rows * groups, 2), np.uint64)
    coded = np.empty(rows * groups, np.bool_)
    odd: list[NDArray[np.int8]] = []
    left = MOST_ODD * rows * groups + 64
    for start, y in _ranges(t, part, threads):
        span = slice(start * groups, start * groups + len(y))
        codes[span], coded[span] = encode(y, layout.tree)
        without = y[~coded[span]]
        left -= len(without)
        if left < 0 or (without.size and np.abs(without).max() > MOST_INTEGER):
            return None
        odd.append(without.astype(np.int8))
    fields = _fields(t, part, 0, rows)
    blank = planes(codes[:1] * np.uint64(0), np.zeros(1, np.bool_), fields[:1] * 0, layout)
    full = planes(codes, coded, fields, layout)
    made = image(layout, t.levels[0])
    apart = np.flatnonzero(~coded)
    return _fast_part(t, part, layout, made, full, blank, apart, np.concatenate(odd))


def _fixed_part(t: PVQTensor, part: Part, threads: int | None) -> FastPart | None:
    """Return a part as integers of fixed width, or None if many groups don't fit."""
    if part.n not in fixed.GROUPS or t.allotment.gain_bits >= 8:
        return None
    groups = part.per_row
    y = np.empty((t.grid.rows * groups, part.n), np.int8)
    for start, some in _ranges(t, part, threads):
        if np.abs(some).max(initial=0) > MOST_INTEGER:
            return None
        y[start * groups : start * groups + len(some)] = some
    reach = fixed.reach(y)
    fitting = (
        width
        for width in fixed.WIDTHS
        if np.count_nonzero(reach > 1 << (width - 1)) <= MOST_APART * len(y) + FEW_APART
    )
    width = next(fitting, None)
    if width is None:
        return None
    layout = fixed.FixedLayout(width, part.n, t.allotment.gain_bits)
    is_apart = reach > 1 << (width - 1)
    apart, fields = np.flatnonzero(is_apart), _fields(t, part, 0, t.grid.rows)
    odd = y[apart]
    y[apart] = 1
    none = np.uint8(1 << layout.gain_bits)  # a level that is zero
    full = fixed.planes(y, np.where(is_apart, fields | none, fields), layout)
    blank = fixed.planes(np.ones((1, part.n), np.int8), np.full(1, none), layout)
    blank = blank[0][:, :1], blank[1][:1], blank[2][:1]
    made = Image(padded_levels(layout, t.levels[0]), 0, 0, 0, 0)
    return _fast_part(t, part, layout, made, full, blank, apart, odd)


def _general_part(t: PVQTensor, part: Part, threads: int | None) -> GeneralPart:
    """Return a part for the general path."""
    rows, groups = t.grid.rows, part.per_row
    table = tables(part.n, part.k, "fischer", 0)
    length = max(1, -(-(count(part.n, part.k) - 1).bit_length() // 32))
    held = np.empty((length, rows * groups), np.uint32)
    for start, y in _ranges(t, part, threads):
        index = rank_unchecked(y, table, "fischer")
        span = slice(start * groups, start * groups + len(y))
        for w in range(length):
            held[w, span] = (index[:, w // 2] >> np.uint64(32 * (w % 2))).astype(np.uint32)
    counts = np.zeros((part.n, part.k + 1, length), np.uint32)
    for left in range(part.n):
        for pulses in range(part.k + 1):
            # What is left of a group is below 2^(32 words), and so is any count that it is held to.
            value = count(left, pulses) if left or not pulses else 0
            for w in range(length):
                counts[left, pulses, w] = value >> 32 * w & 0xFFFFFFFF
    level = t.levels[part.level_row].astype(np.float32)
    return GeneralPart(
        part.n, part.k, length, groups, part.first_column, DeviceArray.of(held),
        DeviceArray.of(_fields(t, part, 0, rows)), DeviceArray.of(level), DeviceArray.of(counts),
    )  # fmt: skip


def _flips(sign: NDArray[np.float64], order: int) -> NDArray[np.uint32]:
    """Return the words of `DeviceRotation.flips` (pieces, run)."""
    bits = (sign.reshape(order, -1) < 0).astype(np.uint32)
    bits <<= (np.arange(order, dtype=np.uint32) % TOGETHER)[:, None]
    return np.bitwise_or.reduceat(bits, np.arange(0, order, TOGETHER), axis=0)


def _rotation(rotation: Rotation | None, cols: int) -> DeviceRotation:
    """Return a rotation's tables; without a rotation, those of none."""
    if rotation is None:
        ones = np.ones(cols, np.float32)
        whole = np.array([[0, cols, 1, 1, 0]], np.uint32)
        nothing = DeviceArray.of(np.zeros(1, np.int8))
        return DeviceRotation(
            DeviceArray.of(ones), DeviceArray.of(whole), DeviceArray.of(np.ones(1, np.float32)),
            nothing, nothing, 1, (cols, 1, 1),
        )  # fmt: skip
    segments: list[tuple[int, int, int, int, int]] = []
    factors: list[float] = []
    bases: list[NDArray[np.int8]] = []
    back: list[NDArray[np.int8]] = []
    first = begin = 0
    for block in rotation.blocks:
        size, order = block.count * block.order, block.base.order
        segments.append((first, size, block.order // order, order, begin))
        factors.append(1 / np.sqrt(block.order))
        bases.append(matrix(block.base).astype(np.int8).reshape(-1))
        back.append(transposed(block.base).astype(np.int8).reshape(-1))
        first, begin = first + size, begin + order * order
    sign = signs(rotation.seed, cols)
    single = segments[0][1:4] if len(segments) == 1 else None
    base, flips = None, None
    if single is not None and is_moderate(*single):
        base = rotation.blocks[0].base
        flips = DeviceArray.of(_flips(sign, base.order))
    return DeviceRotation(
        DeviceArray.of(sign.astype(np.float32)),
        DeviceArray.of(np.array(segments, np.uint32)),
        DeviceArray.of(np.array(factors, np.float32)),
        DeviceArray.of(np.concatenate(bases)),
        DeviceArray.of(np.concatenate(back)),
        len(segments), single, base, flips,
    )  # fmt: skip


def upload(t: PVQTensor, *, form: str = "tree", threads: int | None = None) -> DeviceTensor:
    """Copy a compressed tensor to the current device, in the form that its kernels decode.

    Parameters: form, what whole groups become if it can hold them, or else the other one:

    - "tree": the tree code (docs/gpu.md), 0.1 to 0.3 bits a weight more than the file. Groups of 16
      and 32, up to about 3.25 bits a weight.
    - "fixed": integers of 4, 5 or 6 bits, and half a bit a weight for gains. Faster, and for groups
      of 16, 32 and 64, up to about 5 bits a weight.

    Tails, and groups that neither holds, take the general path, at ranks in the order fischer. Work
    is done on the CPU, on `threads` threads, all by default. Raises DeviceError without a device,
    DomainError if a row norm is out of binary32's range or for an unknown form, PayloadError and
    MetadataError as `dequantize`; warns with SlowPathWarning if whole groups take the general path.
    """
    if form not in FORMS:
        raise DomainError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    check_fields(t)
    norms = np.ldexp(t.row_norm.astype(np.float64), t.norm_exponent)
    nonzero = norms[norms > 0]
    if nonzero.size and not (nonzero.min() > 1e-30 and nonzero.max() < 1e30):
        raise DomainError(
            f"row norms must be between 1e-30 and 1e30, got {nonzero.min()} to {nonzero.max()}"
        )
    pieces = list(parts(t.allotment))
    fast = None
    if pieces[0].per_row < MOST_GROUPS:
        first, second = (_tree_part, _fixed_part) if form == "tree" else (_fixed_part, _tree_part)
        fast = first(t, pieces[0], threads) or second(t, pieces[0], threads)
    if fast is None:
        warnings.warn(
            f"groups of n = {pieces[0].n}, k = {pieces[0].k} take the general path, which is slow: "
            f"fast ones are for n = 16, 32 and 64 up to about 5 bits per weight",
            SlowPathWarning,
            stacklevel=2,
        )
    rest = pieces if fast is None else pieces[1:]
    return DeviceTensor(
        t.shape, t.grid.rows, t.grid.cols, fast,
        tuple(_general_part(t, part, threads) for part in rest),
        _rotation(t.rotation, t.grid.cols), t.rotation is not None,
        DeviceArray.of(norms.astype(np.float32)),
    )  # fmt: skip
