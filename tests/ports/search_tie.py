"""A port whose search gives ties to the last coordinates."""

from tests.ports.wrapped import right, run


def answer(op, args):
    if op != "search":
        return right(op, args)
    got = right(op, args | {"x": args["x"][::-1]})
    if "result" in got:
        got["result"].reverse()
    return got


if __name__ == "__main__":
    run(answer)
