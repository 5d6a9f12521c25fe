"""What the wrong ports share: the oracle's answers, but for what takes it long."""

import sys

from pvq_ref.cases.answers import answer as right
from pvq_ref.port import serve

__all__ = ["right", "run"]


def run(answer):
    """Serve answers; levels, which take the oracle seconds, are unsupported."""

    def quick(op, args):
        return {"unsupported": True} if op == "levels" else answer(op, args)

    serve(quick, sys.stdin, sys.stdout)
