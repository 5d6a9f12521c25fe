"""The cases of the test vectors: what is asked, and why (docs/conform.md).

A case names an operation and its arguments; the oracle gives the answer, and nothing here imports
the fast code. One module stands for one file of `pvq_ref/vectors`:

    python -m pvq_ref.cases --check    compare the files with what the oracle says
    python -m pvq_ref.cases --write    make them again

The law of r (levels) needs mpmath, which comes with the extra `test`.
"""
