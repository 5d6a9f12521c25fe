"""What codes a layer in quality.py: PVQ, or a scalar quantizer of baselines.py.

A method's `code` takes the layer's target weights (rows, cols) float64, the Hessian of its inputs
(cols, cols), the safetensors name of the type that a file's weights decode to, and a number of
threads. It returns the weights as that file would give them, and the bits that the file takes.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from baselines import Setting, quantize
from pvq_ref import compensated, encoding
from pvq_ref.curvature import DAMPING, curvature
from pvq_ref.decoding import dequantize
from pvq_ref.tensor import DTYPES, round_to

Floats = NDArray[np.float64]
Weights = NDArray[np.floating]


class Method(Protocol):
    """A way to code a layer."""

    def code(self, w: Floats, hessian: Floats, dtype: str, threads: int) -> tuple[Weights, int]: ...


@dataclass(frozen=True)
class Scalar:
    """A scalar quantizer, with or without error feedback."""

    setting: Setting
    feedback: bool

    def code(self, w: Floats, hessian: Floats, dtype: str, threads: int) -> tuple[Weights, int]:
        decoded, bits = quantize(w, hessian if self.feedback else None, self.setting, threads)
        return round_to(decoded, DTYPES[dtype]), bits


@dataclass(frozen=True)
class Pvq:
    """PVQ at a file rate; search None is coding without data."""

    bits: float
    group: int = 32
    search: str | None = "weighted"
    sweeps: int = compensated.SWEEPS
    paths: int = compensated.PATHS
    damping: float = DAMPING
    seed: int = 0

    def code(self, w: Floats, hessian: Floats, dtype: str, threads: int) -> tuple[Weights, int]:
        coding = encoding.coding_for(w.shape, self.bits, self.group, seed=self.seed)
        if coding is None:
            raise encoding.no_room(w.shape, self.bits)

        def read(start: int, stop: int) -> Weights:
            return w[start:stop]

        if self.search is None:
            tensor = encoding.encode(read, w.shape, dtype, coding, "auto", threads)
        else:
            how = compensated.Feedback(self.damping, self.search, self.sweeps, self.paths)
            curved = curvature(hessian, w.shape[1], coding.rotation, self.damping)
            tensor, _ = compensated.encode(
                read, w.shape, dtype, coding, "auto", curved, how, threads
            )
        return dequantize(tensor, DTYPES[dtype], threads=threads), 8 * tensor.nbytes
