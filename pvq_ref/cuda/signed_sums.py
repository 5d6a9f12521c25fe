"""Products with a matrix of +1 and -1 whose entries are part of the code.

Of four elements there are 8 sums, but for their sign. They are made once, and a row adds one of
them for each four elements: a fourth of the additions that it has entries, and no multiplication.
"""

from itertools import product
from typing import Any

import numpy as np

from pvq_ref.cuda.intrinsics import SIMULATED

if not SIMULATED:
    from llvmlite import ir
    from numba.cuda import types
    from numba.cuda.extending import intrinsic


def _with_signs(builder: Any, elements: Any, rows: Any, totals: Any) -> list[Any]:
    """Return totals plus the sums of elements, a multiple of four, with the signs of the rows."""
    made = {(j, (1,)): element for j, element in enumerate(elements)}

    def make(at: int, signs: tuple[int, ...]) -> Any:
        """Return the sum of the elements from `at` on, the first of which has the sign +1."""
        if (at, signs) not in made:
            middle = len(signs) // 2
            second = signs[middle]
            other = make(at + middle, tuple(sign * second for sign in signs[middle:]))
            operate = builder.fadd if second > 0 else builder.fsub
            made[at, signs] = operate(make(at, signs[:middle]), other)
        return made[at, signs]

    totals = list(totals)
    for at in range(0, len(elements), 4):
        for line, row in enumerate(rows):
            four = make(at, tuple(sign * row[at] for sign in row[at : at + 4]))
            totals[line] = (builder.fadd if row[at] > 0 else builder.fsub)(totals[line], four)
    return totals


def signed_sums(matrix: Any, shares: int, together: int) -> Any:
    """Return a function of the device that multiplies by a matrix, piece by piece.

    sums(v, piece, share, out): v holds the elements from piece · together on, so many or what is
    left; out gets the sums of a share of the rows, 1 / shares of them, added to what it has unless
    the piece is the first one. Both are local arrays; shares is a power of two, and a piece a
    multiple of four.
    """
    rows = [[int(sign) for sign in row] for row in matrix]
    lines = len(rows) // shares

    if SIMULATED:

        def simulated(v: Any, piece: Any, share: Any, out: Any) -> None:
            part = np.float32(rows)[lines * int(share) :][:lines, together * int(piece) :]
            count = min(together, part.shape[1])
            out[:] = part[:, :count] @ v[:count] + (out if piece else 0)

        return simulated

    @intrinsic
    def sums(typing: Any, v: Any, piece: Any, share: Any, out: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            word = ir.IntType(32)

            def places(argument: int, count: int) -> list[Any]:
                make_array = context.make_array(signature.args[argument])
                data = make_array(context, builder, args[argument]).data
                return [builder.gep(data, [word(j)]) for j in range(count)]

            elements, totals = places(0, min(together, len(rows))), places(3, lines)
            # The compiler sees that no share is larger, and leaves out what can't be.
            within = builder.and_(args[2], word(shares - 1))
            case = builder.add(builder.mul(args[1], word(shares)), within)
            end = builder.append_basic_block("end")
            switch = builder.switch(case, end)
            for first, number in product(range(0, len(rows), together), range(shares)):
                block = builder.append_basic_block("case")
                switch.add_case(word(first // together * shares + number), block)
                builder.position_at_end(block)
                part = [row[first : first + together] for row in rows[lines * number :][:lines]]
                held = [builder.load(place) for place in elements[: len(part[0])]]
                nothing = ir.Constant(ir.FloatType(), -0.0)  # adding it changes nothing
                old = [builder.load(place) if first else nothing for place in totals]
                for total, place in zip(_with_signs(builder, held, part, old), totals, strict=True):
                    builder.store(total, place)
                builder.branch(end)
            builder.position_at_end(end)
            return context.get_dummy_value()

        return types.void(v, types.uint32, types.uint32, out), generate

    return sums
