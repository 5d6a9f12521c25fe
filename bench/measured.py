"""Run a command of pvq-ref that prints JSON, and add how much memory it took at most.

    python bench/measured.py COMMAND… --json

The object gets "peak_memory": "resident", what the process had in memory (with CUDA some gigabytes
of it are CUDA's libraries), and "device", what tensors took on a GPU, 0 without one. In bytes.
"""

import io
import json
import resource
import sys
from contextlib import redirect_stdout

from pvq_ref.cli import main


def peak_memory() -> dict[str, int]:
    """Return the peaks of this process so far."""
    torch = sys.modules.get("torch")
    used = torch.cuda.max_memory_allocated() if torch and torch.cuda.is_initialized() else 0
    unit = 1 if sys.platform == "darwin" else 1024
    return {"resident": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "device": used}


if __name__ == "__main__":
    printed = io.StringIO()
    with redirect_stdout(printed):
        code = main(sys.argv[1:])
    if code == 0:
        print(json.dumps(json.loads(printed.getvalue()) | {"peak_memory": peak_memory()}))
    sys.exit(code)
