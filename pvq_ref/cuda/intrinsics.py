"""Instructions of the device that Numba has no name for, and the same in plain Python."""

from collections.abc import Callable
from typing import Any

import numpy as np

if not hasattr(np, "row_stack"):  # numba-cuda 0.30 imports it, NumPy 2.5 hasn't got it
    np.row_stack = np.vstack

from numba import config, cuda

SIMULATED = bool(config.ENABLE_CUDASIM)

if SIMULATED:

    def device(function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function: `launching` gives its module what the simulator has for `cuda`."""
        return function

    def shift_right(x: Any, by: Any) -> np.uint32:
        return np.uint32(int(x) >> (int(by) & 31))

    def shift_left(x: Any, by: Any) -> np.uint32:
        return np.uint32(int(x) << (int(by) & 31) & 0xFFFFFFFF)

    def funnel_left(low: Any, high: Any, by: Any) -> np.uint32:
        return np.uint32((int(high) << 32 | int(low)) << (int(by) & 31) >> 32 & 0xFFFFFFFF)

    def funnel_right(low: Any, high: Any, by: Any) -> np.uint32:
        return np.uint32((int(high) << 32 | int(low)) >> (int(by) & 31) & 0xFFFFFFFF)

    def dp4a(a: Any, b: Any, c: Any) -> np.int32:
        pairs = zip(np.uint32(a).tobytes(), np.uint32(b).tobytes(), strict=True)
        signed = sum((p - 2 * (p & 128)) * (q - 2 * (q & 128)) for p, q in pairs)
        return np.int32(int(c) + signed)

    def add(a: Any, b: Any) -> np.uint32:
        return np.uint32(int(a) + int(b) & 0xFFFFFFFF)

    def sub(a: Any, b: Any) -> np.uint32:
        return np.uint32(int(a) - int(b) & 0xFFFFFFFF)

    def rsqrt(x: float) -> np.float32:
        return np.float32(1 / np.sqrt(np.float32(x)))

    def two(array: Any, i: Any) -> tuple[Any, ...]:
        return tuple(array[2 * int(i) : 2 * int(i) + 2])

    def pick(a: Any, b: Any, selector: Any) -> np.uint32:
        held = np.array([a, b], np.uint32).tobytes()
        chosen = [held[int(selector) >> 4 * j & 7] for j in range(4)]
        return np.frombuffer(bytes(chosen), np.uint32)[0]

    def entry(array: Any, i: Any, first: Any) -> Any:
        return array[int(i) + int(first)]

    def four(array: Any, i: Any) -> tuple[Any, ...]:
        return tuple(array[4 * int(i) : 4 * int(i) + 4])

    def nearest(x: float) -> np.int32:
        return np.int32(np.clip(np.rint(np.nan_to_num(x, nan=0.0)), -(2**31), 2**31 - 1))

    def two_halves(a: float, b: float) -> np.uint32:
        pair = np.array([a, b], np.float32).astype(np.float16)
        return pair.view(np.uint32)[0]

    def bits_of(x: float) -> np.uint32:
        return np.float32(x).view(np.uint32)

    def float_of(bits: Any) -> np.float32:
        return np.uint32(bits).view(np.float32)

    def two_floats(array: Any, i: Any) -> tuple[Any, ...]:
        return tuple(array[int(i) : int(i) + 2])

    def put_four(array: Any, i: Any, words: tuple[Any, ...]) -> None:
        size = 16 // array.dtype.itemsize
        place = slice(size * int(i), size * (int(i) + 1))
        array[place] = np.array([np.uint32(w) for w in words]).view(array.dtype)

    def copy_four(target: Any, i: Any, source: Any, j: Any) -> None:
        target[4 * int(i) : 4 * int(i) + 4] = source[4 * int(j) : 4 * int(j) + 4]

    def wait_for_copies() -> None:
        pass

    def in_order() -> None:
        pass

    def meet_at(number: Any, threads: Any) -> None:
        raise NotImplementedError("the simulator has one barrier only")

    def tile_product(*words: Any) -> tuple[int, ...]:
        raise NotImplementedError("tensor cores aren't simulated: dp4a does the same")

    def let_next_start() -> None:
        pass

    def wait_for_last() -> None:
        pass

else:
    from llvmlite import ir
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    # Inlined functions need no device to be compiled for.
    device = cuda.jit(device=True, inline="always")

    def _asm(text: str, arguments: int) -> Any:
        """Return the code generator of one instruction on 32-bit integers."""
        i32 = ir.IntType(32)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            function = ir.FunctionType(i32, [i32] * arguments)
            inline = ir.InlineAsm(function, text, "=r" + ",r" * arguments)
            return builder.call(inline, args)

        return generate

    u32, i32_ = types.uint32, types.int32

    @intrinsic
    def shift_right(typing: Any, x: Any, by: Any) -> Any:
        return u32(u32, u32), _asm("shf.r.wrap.b32 $0, $1, 0, $2;", 2)

    @intrinsic
    def shift_left(typing: Any, x: Any, by: Any) -> Any:
        return u32(u32, u32), _asm("shf.l.wrap.b32 $0, 0, $1, $2;", 2)

    @intrinsic
    def funnel_left(typing: Any, low: Any, high: Any, by: Any) -> Any:
        return u32(u32, u32, u32), _asm("shf.l.wrap.b32 $0, $1, $2, $3;", 3)

    @intrinsic
    def funnel_right(typing: Any, low: Any, high: Any, by: Any) -> Any:
        return u32(u32, u32, u32), _asm("shf.r.wrap.b32 $0, $1, $2, $3;", 3)

    @intrinsic
    def pick(typing: Any, a: Any, b: Any, selector: Any) -> Any:
        """Return four bytes: byte j is that of a (0 to 3) or b (4 to 7) which hex digit j names."""
        return u32(u32, u32, u32), _asm("prmt.b32 $0, $1, $2, $3;", 3)

    @intrinsic
    def entry(typing: Any, array: Any, i: Any, first: Any) -> Any:
        """Return array[first + i]; a constant `first` costs no instruction."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data, place, begin = args
            if isinstance(signature.args[0], types.Array):
                data = context.make_array(signature.args[0])(context, builder, data).data
            wide = ir.IntType(64)
            near = builder.gep(data, [builder.zext(place, wide)])
            return builder.load(builder.gep(near, [builder.zext(begin, wide)]))

        return array.dtype(array, u32, u32), generate

    @intrinsic
    def dp4a(typing: Any, a: Any, b: Any, c: Any) -> Any:
        return i32_(u32, u32, i32_), _asm("dp4a.s32.s32 $0, $1, $2, $3;", 3)

    @intrinsic
    def tile_product(
        typing: Any, a0: Any, a1: Any, a2: Any, a3: Any, b0: Any, b1: Any,
        c0: Any, c1: Any, c2: Any, c3: Any,
    ) -> Any:  # fmt: skip
        """Return A B + C of a warp, int8 and int32: A is 16 by 32, B 32 by 8.

        Of lane 4 r + q: a0 and a2 have the columns 4 q … and 16 + 4 q … of row r of A, a1 and a3
        those of row r + 8; b0 and b1 the rows 4 q … and 16 + 4 q … of column r of B; c0 and c1 the
        columns 2 q and 2 q + 1 of row r of C, c2 and c3 those of row r + 8.
        """

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            word = ir.IntType(32)
            several = ir.LiteralStructType([word] * 4)
            text = (
                "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};"
            )
            constraints = ",".join(["=r"] * 4 + ["r"] * 10)
            function = ir.FunctionType(several, [word] * 10)
            inline = ir.InlineAsm(function, text, constraints, side_effect=True)
            got = builder.call(inline, args)
            parts = [builder.extract_value(got, i) for i in range(4)]
            return context.make_tuple(builder, signature.return_type, parts)

        return types.UniTuple(i32_, 4)(*6 * [u32], *4 * [i32_]), generate

    @intrinsic
    def add(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.add(*args)

        return u32(u32, u32), generate

    @intrinsic
    def sub(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.sub(*args)

        return u32(u32, u32), generate

    @intrinsic
    def rsqrt(typing: Any, x: Any) -> Any:
        f32 = ir.FloatType()

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            function = ir.FunctionType(f32, [f32])
            return builder.call(
                ir.InlineAsm(function, "rsqrt.approx.ftz.f32 $0, $1;", "=f,f"), args
            )

        return types.float32(types.float32), generate

    @intrinsic
    def two_halves(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            f32 = ir.FloatType()
            function = ir.FunctionType(ir.IntType(32), [f32, f32])
            inline = ir.InlineAsm(function, "cvt.rn.f16x2.f32 $0, $2, $1;", "=r,f,f")
            return builder.call(inline, args)

        return u32(types.float32, types.float32), generate

    @intrinsic
    def bits_of(typing: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], ir.IntType(32))

        return u32(types.float32), generate

    @intrinsic
    def float_of(typing: Any, bits: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], ir.FloatType())

        return types.float32(u32), generate

    @intrinsic
    def put_four(typing: Any, array: Any, i: Any, words: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            word = ir.IntType(32)
            data, place, values = args
            if isinstance(signature.args[0], types.Array):
                data = context.make_array(signature.args[0])(context, builder, data).data
            vector = ir.VectorType(word, 4)
            pointer = builder.bitcast(data, ir.PointerType(vector, data.type.addrspace))
            held = ir.Constant(vector, ir.Undefined)
            for j in range(4):
                held = builder.insert_element(held, builder.extract_value(values, j), word(j))
            builder.store(held, builder.gep(pointer, [place]), align=16)
            return context.get_dummy_value()

        index = types.uint32 if isinstance(array, types.Array) else types.uint64
        return types.void(array, index, types.UniTuple(u32, 4)), generate

    def _order(text: str) -> Any:
        """Return the code generator of an instruction that memory accesses aren't moved across."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            function = ir.FunctionType(ir.VoidType(), [])
            builder.call(ir.InlineAsm(function, text, "~{memory}", side_effect=True), [])
            return context.get_dummy_value()

        return generate

    @intrinsic
    def copy_four(typing: Any, target: Any, i: Any, source: Any, j: Any) -> Any:
        """Start to copy four words to shared memory; see `wait_for_copies`."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data, place, other, other_place = args
            data = context.make_array(signature.args[0])(context, builder, data).data
            vector, wide = ir.VectorType(ir.IntType(32), 4), ir.IntType(64)
            addresses = []
            for pointer, index in ((data, place), (other, other_place)):
                typed = builder.bitcast(pointer, ir.PointerType(vector, pointer.type.addrspace))
                at = builder.gep(typed, [builder.zext(index, wide)])
                if at.type.addrspace:
                    at = builder.addrspacecast(at, ir.PointerType(vector))
                addresses.append(builder.ptrtoint(at, wide))
            text = (
                "{ .reg .u64 near; .reg .u32 place; cvta.to.shared.u64 near, $0; "
                "cvt.u32.u64 place, near; cp.async.cg.shared.global [place], [$1], 16; }"
            )
            function = ir.FunctionType(ir.VoidType(), [wide, wide])
            inline = ir.InlineAsm(function, text, "l,l,~{memory}", side_effect=True)
            builder.call(inline, addresses)
            return context.get_dummy_value()

        return types.void(target, u32, source, u32), generate

    @intrinsic
    def wait_for_copies(typing: Any) -> Any:
        """Wait for all copies that this thread has started."""
        return types.void(), _order("cp.async.wait_all;")

    @intrinsic
    def in_order(typing: Any) -> Any:
        """Keep memory accesses of a warp before this before those after it."""
        return types.void(), _order("bar.warp.sync 0xffffffff;")

    @intrinsic
    def meet_at(typing: Any, number: Any, threads: Any) -> Any:
        """Wait until so many threads have come to the barrier of this number, 1 to 15."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            i32 = ir.IntType(32)
            function = ir.FunctionType(ir.VoidType(), [i32, i32])
            inline = ir.InlineAsm(function, "bar.sync $0, $1;", "r,r,~{memory}", side_effect=True)
            builder.call(inline, args)
            return context.get_dummy_value()

        return types.void(u32, u32), generate

    @intrinsic
    def let_next_start(typing: Any) -> Any:
        return types.void(), _order("griddepcontrol.launch_dependents;")

    @intrinsic
    def wait_for_last(typing: Any) -> Any:
        return types.void(), _order("griddepcontrol.wait;")

    @intrinsic
    def nearest(typing: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            function = ir.FunctionType(ir.IntType(32), [ir.FloatType()])
            return builder.call(ir.InlineAsm(function, "cvt.rni.s32.f32 $0, $1;", "=r,f"), args)

        return i32_(types.float32), generate

    def _vector(size: int) -> Any:
        """Return the intrinsic that loads so many words at once."""

        def load(typing: Any, array: Any, i: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                word = ir.IntType(32)
                data, place = args
                if isinstance(signature.args[0], types.Array):
                    data = context.make_array(signature.args[0])(context, builder, data).data
                vector = ir.VectorType(word, size)
                pointer = builder.bitcast(data, ir.PointerType(vector, data.type.addrspace))
                index = builder.zext(place, ir.IntType(64))
                loaded = builder.load(builder.gep(pointer, [index]), align=4 * size)
                parts = [builder.extract_element(loaded, word(j)) for j in range(size)]
                return context.make_tuple(builder, signature.return_type, parts)

            return types.UniTuple(u32, size)(array, u32), generate

        return intrinsic(load)

    two, four = _vector(2), _vector(4)

    @intrinsic
    def two_floats(typing: Any, array: Any, i: Any) -> Any:
        """Load array[i] and the next, of any type, at once; they are aligned together."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data, place = args
            width = {"float16": 2, "float32": 4, "float64": 8}[signature.args[0].dtype.name]
            vector = ir.VectorType(data.type.pointee, 2)
            pointer = builder.bitcast(builder.gep(data, [place]), ir.PointerType(vector))
            loaded = builder.load(pointer, align=2 * width)
            found = []
            for j in range(2):
                value = builder.extract_element(loaded, ir.IntType(32)(j))
                if width == 2:
                    function = ir.FunctionType(ir.FloatType(), [ir.IntType(16)])
                    convert = ir.InlineAsm(function, "cvt.f32.f16 $0, $1;", "=f,h")
                    value = builder.call(convert, [builder.bitcast(value, ir.IntType(16))])
                elif width == 8:
                    value = builder.fptrunc(value, ir.FloatType())
                found.append(value)
            return context.make_tuple(builder, signature.return_type, found)

        return types.UniTuple(types.float32, 2)(array, types.uint64), generate
