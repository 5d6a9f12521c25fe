"""The tree code of pvq_ref.cuda: laws of its intervals, and a decoder in plain Python.

The decoder follows the docstring of pvq_ref/cuda/tree.py, and the oracle's order of blocks. This
runs where pvq_ref.cuda can be imported, with or without a device, and in `make test-cuda`.
"""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvq_ref import oracle

pytest.importorskip("pvq_ref.cuda", reason="needs the extra `cuda`", exc_type=ImportError)

from pvq_ref.cuda.coding import TreeLayout, encode, image, planes
from pvq_ref.cuda.tree import LEAF, Tree
from pvq_ref.cuda.uploading import MOST_PULSES

PULSES = {16: 60, 32: 110}  # up to which every pyramid is looked at
BITS = {4: 32, 8: 32, 16: 64, 32: 120}  # of the longest code of a node
# (n, k, most): ends of what fits, blocks of few and many pulses, and some between.
SOME = [
    *[(16, 1, 1), (16, 2, 2), (16, 7, 7), (16, 16, 12), (16, 23, 15), (16, 30, 10), (16, 48, 15)],
    *[(32, 13, 13), (32, 24, 15), (32, 40, 10), (32, 40, 15), (32, 64, 12), (32, 76, 15)],
]


@cache
def fitting(n, most):
    """Return the trees of all pyramids whose groups fit in their words, without a gain."""
    trees = [Tree(n, k, min(most, k)) for k in range(1, PULSES[n] + 1)]
    return [t for t in trees if t.width(n, t.k) is not None and TreeLayout(t, 0).fits]


def nodes(n, most):
    """Yield (m, j, width, splits, tree) of all nodes with a code that groups can have.

    Which nodes of 16 have one depends on k, but those that do are the same for all trees with the
    same `most`: they come once.
    """
    seen = set()
    for tree in fitting(n, most):
        for m in (8, 16, 32):
            for j in range(tree.k + 1) if m < n else [tree.k]:
                if m > n or (tree.most, m, j) in seen:
                    continue
                if (width := tree.width(m, j)) is not None:
                    seen.add((tree.most, m, j))
                    yield m, j, width, tree.splits(m, j), tree


def everywhere(test):
    return pytest.mark.parametrize("most", MOST_PULSES)(pytest.mark.parametrize("n", PULSES)(test))


@everywhere
def test_which_pyramids_fit(n, most):
    least, last = {16: (1, 40), 32: (2, 78)}[n]
    assert {t.k for t in fitting(n, most)} >= set(range(least, last + 1))


@everywhere
def test_intervals_are_apart_aligned_and_within_the_width(n, most):
    for _, _, width, splits, _ in nodes(n, most):
        end = 0
        for s in splits:
            assert s.start >= end and s.start % (1 << s.size) == 0
            end = s.start + (1 << s.size)
        assert splits and end <= 1 << width


@everywhere
def test_the_first_bits_tell_the_interval(n, most):
    for _, _, width, splits, tree in nodes(n, most):
        step = 1 << max(0, width - tree.guess)
        assert all(s.start % step == 0 and (1 << s.size) % step == 0 for s in splits)


@everywhere
def test_intervals_hold_the_codes_of_both_halves_and_no_node_is_too_long(n, most):
    for m, j, width, splits, tree in nodes(n, most):
        assert width <= BITS[m]
        for s in splits:
            one, other = tree.width(m // 2, s.a), tree.width(m // 2, j - s.a)
            assert one + other <= s.size


@pytest.mark.parametrize("most", MOST_PULSES)
def test_nodes_leave_out_nothing_that_has_room_and_are_as_short_as_can_be(most):
    tree = Tree(16, PULSES[16], most)
    for m, j in [(8, j) for j in range(tree.k + 1)] + [(16, j) for j in range(tree.k + 1)]:
        halves = [(tree.width(m // 2, a), tree.width(m // 2, j - a)) for a in range(j + 1)]
        both = {a: sum(pair) for a, pair in enumerate(halves) if None not in pair}

        def room(width, both=both):
            """Whether intervals that the first bits tell fit in a width."""
            least = max(0, width - tree.guess)
            return sum(1 << max(size, least) for size in both.values()) <= 1 << width

        width = tree.width(m, j)
        if width is None:
            assert not both or not room(BITS[m])
        else:
            assert {s.a for s in tree.splits(m, j)} == both.keys()
            assert room(width) and not (width > max(both.values()) and room(width - 1))


@everywhere
def test_shifts_of_the_kernels_are_in_their_fields(n, most):
    """Of codes that begin at the highest bit of a word of 32, of two words, and of four."""
    for m, j, width, splits, tree in nodes(n, most):
        for s in splits:
            one, other = tree.width(m // 2, s.a), tree.width(m // 2, j - s.a)
            assert 0 <= width - one - other < 32  # where the first half's code begins
            if m == 8:  # width - other is a shift modulo 32, so it must not be 0
                assert 1 <= width - other < 32 and 1 <= other < 32
            elif m == 16:
                assert 0 <= width - other < 64 and one <= 32 and other <= 32
            else:
                assert 0 <= width - other < 96 and one <= 64 and 1 <= other < 64


@everywhere
def test_rows_of_the_tables_have_no_gap(n, most):
    for tree in fitting(n, most):
        coded = [j for j in range(tree.k + 1) if tree.width(8, j) is not None]
        assert coded == list(range(len(coded)))
        if n == 32:
            coded = [j for j in range(tree.k + 1) if tree.width(16, j) is not None]
            assert coded == list(range(coded[0], coded[-1] + 1))


@everywhere
def test_groups_take_one_to_four_words(n, most):
    for tree in fitting(n, most):
        for layout in (TreeLayout(tree, gain_bits) for gain_bits in range(9)):
            if layout.fits:
                whole, half, byte = layout.shape
                assert layout.bits == 32 * whole + 16 * half + 8 * byte
                assert whole >= 1 and layout.bits <= 4 * n
                assert tree.bits + layout.gain_bits + 1 <= layout.bits


# ---------------------------------------------------------------- the decoder


def decode(tree, m, j, code):
    """Return the m coordinates that a code stands for."""
    if m == LEAF:
        return oracle.unrank(code, LEAF, j)
    (split,) = [s for s in tree.splits(m, j) if s.start <= code < s.start + (1 << s.size)]
    other = tree.width(m // 2, j - split.a)
    one, two = divmod(code - split.start, 1 << other)
    return decode(tree, m // 2, split.a, one) + decode(tree, m // 2, j - split.a, two)


def has_code(tree, y):
    """Whether no node or block of a vector is beyond the limits."""
    m, j = len(y), sum(map(abs, y))
    if m == LEAF:
        return j <= tree.most
    one, two = y[: m // 2], y[m // 2 :]
    split = sum(map(abs, one)) in {s.a for s in tree.splits(m, j)}
    return split and has_code(tree, one) and has_code(tree, two)


def check(tree, vectors):
    codes, coded = encode(np.array(vectors, np.int32), tree)
    assert codes.dtype == np.uint64 and coded.dtype == np.bool_
    for y, (high, low), got in zip(vectors, codes.tolist(), coded.tolist(), strict=True):
        assert got == has_code(tree, y)
        if got:
            assert decode(tree, tree.n, tree.k, high << 64 | low) == tuple(y)
        else:
            assert (high, low) == (0, 0)
    return coded


@st.composite
def groups(draw):
    """Draw a tree and vectors of its pyramid, spread out or crowded in few coordinates."""
    n, k, most = draw(st.sampled_from(SOME))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vectors = []
    for crowd in draw(st.lists(st.sampled_from([0.02, 0.1, 0.3, 1.0, 10.0]), min_size=1)):
        magnitudes = rng.multinomial(k, rng.dirichlet(np.full(n, crowd)))
        vectors.append((magnitudes * rng.choice([-1, 1], n)).tolist())
    return Tree(n, k, most), vectors


@pytest.mark.uncompiled
@given(groups())
def test_codes_are_decoded(case):
    check(*case)


@pytest.mark.parametrize(("n", "k", "most"), SOME)
def test_some_vectors_have_codes_and_only_crowded_ones_have_none(n, k, most):
    rng = np.random.default_rng(k)
    even = (rng.multinomial(k, np.full(n, 1 / n), 300) * rng.choice([-1, 1], (300, n))).tolist()
    coded = check(Tree(n, k, most), even)
    assert coded.any()
    one = [[0] * i + [-k] + [0] * (n - 1 - i) for i in range(n)]
    assert not check(Tree(n, k, most), one).any() or k <= most


@pytest.mark.parametrize("k", [1, 2, 3])
def test_all_vectors_of_small_pyramids_have_codes_of_their_own(k):
    tree = Tree(16, k, k)
    vectors = [oracle.unrank(i, 16, k) for i in range(oracle.count(16, k))]
    assert check(tree, vectors).all()
    codes, _ = encode(np.array(vectors, np.int32), tree)
    assert len(np.unique(codes, axis=0)) == len(vectors)


# ---------------------------------------------------------------- words


@pytest.mark.uncompiled
@given(groups(), st.data())
def test_words_hold_the_code_from_above_and_the_level_below(case, data):
    tree, vectors = case
    fits = [g for g in range(8) if TreeLayout(tree, g).fits]
    layout = TreeLayout(tree, data.draw(st.sampled_from(fits)))
    codes, coded = encode(np.array(vectors, np.int32), tree)
    level = st.integers(0, (1 << layout.gain_bits) - 1)
    gains = data.draw(st.lists(level, min_size=len(vectors), max_size=len(vectors)))
    whole, halves, bytes_ = planes(codes, coded, np.array(gains, np.uint64), layout)
    count, has_half, has_byte = layout.shape
    assert (whole.dtype, halves.dtype, bytes_.dtype) == (np.uint32, np.uint16, np.uint8)
    assert whole.shape == (count, len(vectors))
    assert (len(halves), len(bytes_)) == (has_half * len(vectors), has_byte * len(vectors))
    for i, (high, low) in enumerate(codes.tolist()):
        got = 0
        for word in whole[:, i].tolist():
            got = got << 32 | word
        if has_half:
            got = got << 16 | int(halves[i])
        if has_byte:
            got = got << 8 | int(bytes_[i])
        field = gains[i] + (0 if coded[i] else 1 << layout.gain_bits)
        assert got == (high << 64 | low) << (layout.bits - tree.bits) | field


@pytest.mark.parametrize("gain_bits", [0, 3])
def test_levels_of_groups_without_a_code_are_zero(gain_bits):
    levels = np.arange(1, (1 << gain_bits) + 1, dtype=np.float32)
    made = image(TreeLayout(Tree(16, 20), gain_bits), levels)
    got = made.words[made.levels : made.levels + (2 << gain_bits)].view(np.float32)
    assert np.array_equal(got, np.concatenate([levels, np.zeros_like(levels)]))
