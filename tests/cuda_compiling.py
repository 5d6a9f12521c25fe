"""Compile every kernel of pvq_ref.cuda to PTX for one kind of device, without a device.

The public functions run with a driver that only takes notes: `python -m tests.cuda_compiling`
prints one line for each kernel, its name and target, and fails if one doesn't compile or link.
"""

import re
import warnings
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
from cuda.bindings import driver, nvjitlink

from pvq_ref import cuda
from pvq_ref.cuda import dense, device, launching, products
from tests.tensors import encoded

ATTRIBUTES = {
    "MULTIPROCESSOR_COUNT": 132,
    "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": 227 << 10,
    "COMPUTE_CAPABILITY_MAJOR": 9,
    "COMPUTE_CAPABILITY_MINOR": 0,
}


class Driver:
    """A driver whose calls all succeed, and whose modules are kept as their text."""

    texts: ClassVar[list[bytes]] = []

    def __getattr__(self, name):
        real = getattr(driver, name)
        return real if isinstance(real, type) else lambda *_: (driver.CUresult.CUDA_SUCCESS, 1)

    def cuDeviceGetAttribute(self, attribute, _):
        name = attribute.name.removeprefix("CU_DEVICE_ATTRIBUTE_")
        return driver.CUresult.CUDA_SUCCESS, ATTRIBUTES[name]

    def cuModuleLoadData(self, text):
        self.texts.append(text)
        return driver.CUresult.CUDA_SUCCESS, 1


def array(shape, dtype):
    """Return an array that is nowhere."""
    return SimpleNamespace(
        __cuda_array_interface__={
            "shape": shape,
            "typestr": np.dtype(dtype).str,
            "data": (256, False),
            "strides": None,
        }
    )


def compiled(name, function, arguments, threads, capability, known=set()):  # noqa: B006
    """Compile a kernel, and not take what is kept; what it would be kept under is its own."""
    key = (name, tuple(arguments), threads)
    assert key not in known, f"two kernels are kept under {key}"
    known.add(key)
    return launching.ptx(function, arguments, threads, capability)


def link(text):
    """Assemble PTX, which finds what is wrong in instructions that the compiler doesn't know."""
    handle = nvjitlink.create(1, ["-arch=sm_90"])
    nvjitlink.add_data(handle, nvjitlink.InputType.PTX, text.rstrip(b"\0"), len(text) - 1, "kernel")
    nvjitlink.complete(handle)
    nvjitlink.destroy(handle)


def main():
    warnings.simplefilter("ignore", cuda.SlowPathWarning)
    device.driver = launching.driver = Driver()
    launching._launcher = lambda: lambda *_: 0
    launching.kept_ptx = compiled
    types = ("float16", "float32", "float64")
    # The last one's rows are too long for shared memory.
    for n, k, cols in ((16, 20, 100), (32, 40, 100), (5, 6, 23), (32, 40, 100_000)):
        w = np.random.default_rng(n).standard_normal((2, cols))
        t = cuda.upload(encoded(w, n, k, 4), threads=1)
        cuda.unrank(t)
        cuda.dequantize(t, "float16")
        for size in products.SIZES if cols == 100 else (1,):
            cuda.matmul(t, array((cols, size), "float16"))
    run = cuda.upload(encoded(w[:, :512], 16, 12), threads=1)
    for source in types:
        for size in (1, 8):
            cuda.matmul(run, array((512, size), source))
    for n, k in ((16, 20), (16, 60), (16, 150), (32, 40), (64, 80)):
        fixed = cuda.upload(encoded(w[:, :1024], n, k, gain_bits=2), form="fixed", threads=1)
        cuda.dequantize(fixed)
        for size in (1, 8, 16):
            cuda.matmul(fixed, array((1024, size), "float16"))
    # Bases of 12, 28 and 344: the last one is too large for the kernel of moderate ones.
    for source, width in zip(types, (384, 3584, 11008), strict=True):
        mixed = cuda.upload(encoded(w[:, :width], 16, 12), threads=1)
        assert (mixed.rotation.base is None) == (width == 11008)
        cuda.matmul(mixed, array((width,), source))
    for source, target in zip(types, types, strict=True):
        cuda.matmul(t, array((cols,), source), array((2,), target))
    plain = cuda.upload(encoded(w[:, :64], 16, 12, rotate=False), threads=1)
    cuda.dequantize(plain, "float32")
    cuda.matmul(plain, array((64,), "float32"))
    dense.library, dense.gemm = lambda: ((), ()), lambda *_: None
    for target in types:
        cuda.matmul(plain, array((64, 17), "float16"), array((2, 17), target))
    for text in Driver.texts:
        link(text)
        name = re.search(rb"\.entry\s+(\w+)", text)[1].decode()
        target = re.search(rb"\.target\s+(\w+)", text)[1].decode()
        print(name, target)


if __name__ == "__main__":
    main()
