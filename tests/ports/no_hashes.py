"""A port whose reader checks no hash."""

from pvq_ref.oracle import container
from tests.ports.wrapped import right, run


class Anything(str):
    """A hash that differs from none."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False


if __name__ == "__main__":
    container._sha256 = lambda data: Anything("0" * 64)
    run(right)
