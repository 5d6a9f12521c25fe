"""The libraries of the extra `cuda`, or Numba's simulator, which needs none of them.

Importing this raises MissingExtraError where one of them isn't there. numba.cuda itself is no sign
of it: Numba has an older one of its own, which can't compile these kernels.
"""

from importlib import import_module

from numba import config

from pvq_ref.errors import MissingExtraError

if not config.ENABLE_CUDASIM:
    try:
        for name in ("numba_cuda", "cuda.bindings.driver"):
            import_module(name)
    except ImportError as error:
        raise MissingExtraError("pvq_ref.cuda", error, "numba-cuda", "cuda") from None
