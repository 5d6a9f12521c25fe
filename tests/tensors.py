"""Tensors that are encoded without a choice of pulses, whose sample takes long uncompiled."""

from pvq_ref.encoding import encode
from pvq_ref.groups import Coding
from pvq_ref.rates import Allotment, Grid
from pvq_ref.rotation import Rotation


def encoded(w, n, k, tail_k=0, gain_bits=1, order="blocked", rotate=True):
    """Return w (rows, cols) as a tensor with levels that are fitted to it."""
    rows, cols = w.shape
    block = 4 if order == "blocked" else 0
    rotation = Rotation.of(cols, 0) if rotate else None
    coding = Coding(Allotment(Grid(rows, cols, n), k, tail_k, gain_bits), order, block, rotation)
    return encode(lambda start, stop: w[start:stop], w.shape, "F32", coding, "fitted", 1)
