"""Kernels at the end of a product: sums of parts, scales and types."""

import numba
from numba import cuda

from pvq_ref.cuda.intrinsics import add
from pvq_ref.cuda.rotation_kernels import LARGEST

u32, u64, f32 = numba.uint32, numba.uint64, numba.float32


def finish(parts, norms, largest, out, out_row, out_column, count, rows, padded, batch):
    """Write the sums over parts (count, padded batch, rows), in order, times norm and x's scale."""
    i = add(u32(u32(cuda.blockIdx.x) * u32(cuda.blockDim.x)), u32(cuda.threadIdx.x))
    size = u32(rows * batch)
    while i < size:
        b, row = u32(i // rows), u32(i % rows)
        value = f32(0)
        for p in range(count):
            value += parts[u64(p) * (u64(rows) * u64(padded)) + u64(i)]
        value = value * (norms[row] * (largest[b] / f32(LARGEST)))
        out[u64(row) * u64(out_row) + u64(b) * u64(out_column)] = value
        i = add(i, u32(u32(cuda.blockDim.x) * u32(cuda.gridDim.x)))


def narrow(x, factors, out, rows, cols):
    """Write rows times their factors in another type; a factor is 1 over what `factors` holds."""
    i = u64(cuda.blockIdx.x) * u64(cuda.blockDim.x) + u64(cuda.threadIdx.x)
    while i < u64(rows) * u64(cols):
        held = factors[i // u64(cols)]
        out[i] = x[i] * (f32(1) / held if held > f32(0) else f32(0))
        i += u64(cuda.blockDim.x) * u64(cuda.gridDim.x)


def place_rows(products, norms, largest, out, out_row, out_column, first_row, rows, batch):
    """Write products (batch, rows) of rows from first_row on, times norm and largest magnitude."""
    i = add(u32(u32(cuda.blockIdx.x) * u32(cuda.blockDim.x)), u32(cuda.threadIdx.x))
    while i < u32(rows * batch):
        b, row = u32(i // rows), add(first_row, u32(i % rows))
        value = products[i] * (norms[row] * largest[b])
        out[u64(row) * u64(out_row) + u64(b) * u64(out_column)] = value
        i = add(i, u32(u32(cuda.blockDim.x) * u32(cuda.gridDim.x)))
