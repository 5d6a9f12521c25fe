"""A port that counts the bits of a byte from the most significant."""

from tests.ports.wrapped import right, run


def mirrored(digits):
    return bytes(int(f"{byte:08b}"[::-1], 2) for byte in bytes.fromhex(digits)).hex()


def answer(op, args):
    if op == "unpack":
        args = args | {"bytes": mirrored(args["bytes"])}
    got = right(op, args)
    if op == "pack":
        got["result"] = mirrored(got["result"])
    return got


if __name__ == "__main__":
    run(answer)
