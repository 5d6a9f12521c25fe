"""libopus as a peer: its index and search functions, for arrays of rows.

libopus keeps them to itself, but the static library libopus.a (Debian: libopus-dev) has them.
libopus.c is linked with it into a library that ctypes can call. The loops over rows are in C, so
that timings of it hold no calls from Python.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("libopus.c")


class MissingError(Exception):
    """Something that the peer needs isn't there; the message says what."""


def _pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


class Libopus:
    """The peer. Results may be written into arrays that are given."""

    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))
        self.has_custom_modes = bool(self._library.peer_has_custom_modes())
        self.has_sse2 = bool(self._library.peer_has_sse2())

    def encode(self, y, k, index=None, total=None):
        """Return indices and counts of y (rows, n) int32."""
        index = np.zeros(len(y), np.uint32) if index is None else index
        total = np.zeros(len(y), np.uint32) if total is None else total
        self._library.peer_encode(_pointer(y), *y.shape, k, _pointer(index), _pointer(total))
        return index, total

    def decode(self, index, n, k, y=None, total=None):
        """Return vectors and counts for index (rows,) uint32."""
        y = np.zeros((len(index), n), np.int32) if y is None else y
        total = np.zeros(len(index), np.uint32) if total is None else total
        self._library.peer_decode(_pointer(index), *y.shape, k, _pointer(y), _pointer(total))
        return y, total

    def search(self, x, k, y=None, *, sse2=False):
        """Return vectors for x (rows, n) float32, 2 <= n <= 256, the l1 norm of each row below 64.

        sse2 is what x86 runs in earnest; without it the result is that of plain C everywhere.
        """
        y = np.zeros(x.shape, np.int32) if y is None else y
        search = self._library.peer_search_sse2 if sse2 else self._library.peer_search
        search(_pointer(x), *x.shape, k, _pointer(y))
        return y


def build(folder):
    """Return the peer, built in a folder; raise MissingError if it can't be."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise MissingError("needs a C compiler: neither cc nor gcc is there")
    asked = subprocess.run(
        [compiler, "-print-file-name=libopus.a"], capture_output=True, text=True, check=True
    )
    folders = [*Path("/usr/lib").glob("*-*-*"), Path("/usr/lib"), Path("/usr/local/lib")]
    places = [Path(asked.stdout.strip()), *(folder / "libopus.a" for folder in folders)]
    archive = next((place for place in places if place.is_absolute() and place.is_file()), None)
    if archive is None:
        raise MissingError("needs libopus.a: apt-get install libopus-dev")
    library = Path(folder) / "peer.so"
    # The linker takes what the source needs out of the archive, and of those parts all they need.
    # A missing SSE2 search shows only when the library is opened, so undefined names are refused.
    command = [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-Wl,-z,defs", "-o"]
    for option in (["-DPEER_SSE2"], []):
        built = subprocess.run(
            [*command, library, *option, SOURCE, archive, "-lm"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if built.returncode == 0:
            return Libopus(library)
    raise MissingError(f"needs a libopus.a that links into a shared library: {built.stderr:.300}")
