"""A slow, exact second implementation of docs/spec.md, for checking the fast one.

It is written from the text of the specification alone, in plain Python: integers, fractions and
floats (IEEE binary64), without NumPy. It shares only `pvq_ref.errors` with the rest of the package.
One module stands for one section:

    counting    sections 1 and 2     sizes of pyramids
    ranking     section 3            rank, unrank, words
    search      section 4            exact search, and the paper's search
    law         section 5.2          the law of r (needs mpmath)
    gain        section 5            gains and levels (needs mpmath)
    hadamard    sections 6.4, 6.5    finite fields, Paley's matrices
    rotation    section 6            generator, signs, plans, both directions
    feedback    section 7            targets, metrics and exhaustive searches
    packing     section 8.4          sequences of bits
    layout      sections 8.1, 9.3    the description of one tensor
    tensor      section 8            row norms, decoding, rounding
    frame       section 9.1          safetensors in a canonical form
    container   section 9            files

The function `search` hides the module of the same name as an attribute of this package:
write `from pvq_ref.oracle.search import search_project`, not `import pvq_ref.oracle.search as m`.
"""

from pvq_ref.oracle.counting import count
from pvq_ref.oracle.ranking import rank, unrank
from pvq_ref.oracle.search import search

__all__ = ["count", "rank", "search", "unrank"]
