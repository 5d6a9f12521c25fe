"""The kernels of bench/orders.py: one thread decodes a group.

Indices stand in planes: word w of group g at w · groups + g. *store* writes the integers of a group
as one row of int8; *fold* writes one number, the dot product with n activations of int8, by dp4a.
The tables are one buffer, which each block copies into shared memory, or reads where it is.
"""

import os
import warnings
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from orders_decoding import decoder
from orders_splitting import ONE, U32, U64, _32
from orders_tables import Plan

if not hasattr(np, "row_stack"):  # numba-cuda 0.30 imports it, NumPy 2.5 hasn't got it
    np.row_stack = np.vstack

from numba import cuda

MODES = ("store", "fold")
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"


# ---------------------------------------------------------------- instructions

if SIMULATED:
    warnings.simplefilter("ignore", RuntimeWarning)  # numbers wrap

    def high_product(a: np.uint64, b: np.uint64) -> np.uint64:
        """Return the upper half of a product of 64 bits."""
        return U64(int(a) * int(b) >> 64)

    def dot_4(a: np.uint32, b: np.uint32, total: np.int32) -> np.int32:
        """Return total and the dot product of four int8 in a word each."""
        pair = np.array([a, b], np.uint32).view(np.int8).reshape(2, 4).astype(np.int32)
        return np.int32(total + pair[0] @ pair[1])

    high_product, dot_4 = (cuda.jit(device=True)(each) for each in (high_product, dot_4))
else:
    from llvmlite import ir
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    def _assembly(text: str, constraints: str, width: int) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            number = ir.IntType(width)
            kind = ir.FunctionType(number, [number] * len(arguments))
            return builder.call(ir.InlineAsm(kind, text, constraints), arguments)

        return generate

    @intrinsic
    def high_product(typing_context, a, b):
        """Return the upper half of a product of 64 bits."""
        signature = types.uint64(types.uint64, types.uint64)
        return signature, _assembly("mul.hi.u64 $0, $1, $2;", "=l,l,l", 64)

    @intrinsic
    def dot_4(typing_context, a, b, total):
        """Return total and the dot product of four int8 in a word each."""
        signature = types.int32(types.uint32, types.uint32, types.int32)
        return signature, _assembly("dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", 32)


def device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that kernels call."""
    compiled: Callable[..., Any] = cuda.jit(device=True)(function)
    return compiled


# ---------------------------------------------------------------- kernels


def _emitters(n: int) -> dict[str, Callable[..., Any]]:
    """Return functions that write the words of group g, by mode."""
    half = U32(n // 8)

    @device
    def store_16(out, g, w, x):
        place = U32(g * half)
        out[place] = U64(w[0]) | (U64(w[1]) << _32)
        out[place + ONE] = U64(w[2]) | (U64(w[3]) << _32)

    @device
    def store_32(out, g, w, x):
        place = U32(g * half)
        out[place] = U64(w[0]) | (U64(w[1]) << _32)
        out[place + ONE] = U64(w[2]) | (U64(w[3]) << _32)
        out[place + U32(2)] = U64(w[4]) | (U64(w[5]) << _32)
        out[place + U32(3)] = U64(w[6]) | (U64(w[7]) << _32)

    @device
    def fold_16(out, g, w, x):
        total = dot_4(w[1], x[1], dot_4(w[0], x[0], np.int32(0)))
        out[g] = dot_4(w[3], x[3], dot_4(w[2], x[2], total))

    @device
    def fold_32(out, g, w, x):
        total = dot_4(w[1], x[1], dot_4(w[0], x[0], np.int32(0)))
        total = dot_4(w[3], x[3], dot_4(w[2], x[2], total))
        total = dot_4(w[5], x[5], dot_4(w[4], x[4], total))
        out[g] = dot_4(w[7], x[7], dot_4(w[6], x[6], total))

    return {"store": store_16, "fold": fold_16} if n == 16 else {"store": store_32, "fold": fold_32}


def kernel_of(plan: Plan, mode: str, is_shared: bool) -> Callable[..., Any]:
    """Return a kernel, not compiled, of t8, t32, t64, leaves, indices, activations and output."""
    decode, emit = decoder(device, high_product, plan), _emitters(plan.n)[mode]

    if plan.words == 2:

        @device
        def load(index, groups, g):
            return U64(0), U64(index[g]) | (U64(index[groups + g]) << _32)
    else:

        @device
        def load(index, groups, g):
            lo = U64(index[g]) | (U64(index[groups + g]) << _32)
            third, fourth = index[U32(2) * groups + g], index[U32(3) * groups + g]
            return U64(third) | (U64(fourth) << _32), lo

    if plan.n == 16:

        @device
        def activations(x):
            return x[0], x[1], x[2], x[3]
    else:

        @device
        def activations(x):
            return x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]

    words = U32(plan.words)

    @device
    def all_groups(t8, t32, t64, leaves, index, x, out):
        groups = U32(U32(index.size) // words)
        x_words = activations(x)
        g = U32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
        step = U32(cuda.gridDim.x * cuda.blockDim.x)
        while g < groups:
            hi, lo = load(index, groups, g)
            emit(out, g, decode(t8, t32, t64, leaves, hi, lo), x_words)
            g = U32(g + step)

    if not is_shared:

        def with_tables(t8, t32, t64, leaves, index, x, out):
            all_groups(t8, t32, t64, leaves, index, x, out)

        return with_tables

    def with_shared_tables(t8, t32, t64, leaves, index, x, out):
        s8 = cuda.shared.array(0, numba.uint8)
        s32 = cuda.shared.array(0, numba.uint32)
        s64 = cuda.shared.array(0, numba.uint64)
        i = U32(cuda.threadIdx.x)
        while i < U32(t32.size):
            s32[i] = t32[i]
            i = U32(i + U32(cuda.blockDim.x))
        cuda.syncthreads()
        all_groups(s8, s32, s64, leaves, index, x, out)

    return with_shared_tables
