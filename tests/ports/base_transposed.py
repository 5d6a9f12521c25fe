"""A port that transposes the base of a rotation on the wrong way."""

from pvq_ref.oracle import rotation
from tests.ports.wrapped import right, run

BASE = rotation.base


def transposed(paley, q):
    return tuple(zip(*BASE(paley, q), strict=True))


def answer(op, args):
    rotation.base = transposed if op in ("forward", "inverse") else BASE
    return right(op, args)


if __name__ == "__main__":
    run(answer)
