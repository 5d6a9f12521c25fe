"""A port whose fischer order takes 0, -1, +1, -2, +2, …"""

from tests.ports.wrapped import right, run


def answer(op, args):
    if args.get("order") != "fischer":
        return right(op, args)
    if op == "rank":
        args = args | {"y": [-value for value in args["y"]]}
    got = right(op, args)
    if op == "unrank" and "result" in got:
        got["result"] = [-value for value in got["result"]]
    return got


if __name__ == "__main__":
    run(answer)
