"""`python -m pvq_ref`: the command line."""

import sys

from pvq_ref.cli import main

if __name__ == "__main__":
    sys.exit(main())
