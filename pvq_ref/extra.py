"""The libraries of the extra `calibrate`, for modules that can't do without them.

Importing this raises MissingExtraError where one of them isn't there.
"""

from pvq_ref.errors import MissingExtraError

try:
    import accelerate
    import torch
    import transformers
except ImportError as error:
    raise MissingExtraError("calibration", error) from None

__all__ = ["accelerate", "torch", "transformers"]
