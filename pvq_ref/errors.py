"""The errors of pvq_ref (spec section 11).

    PVQError
    ├── ArgumentError (ValueError)      an argument outside what a function takes
    │   ├── DomainError                 a number outside its domain, an unknown name
    │   ├── ShapeError                  an array of the wrong shape
    │   ├── DTypeError                  an array of the wrong type
    │   ├── NonFiniteError              NaN or infinity
    │   ├── PyramidError                a vector whose l1 norm isn't k
    │   └── IndexRangeError             an index >= V(n,k)
    ├── CapacityError (RuntimeError)    a table that would not fit in memory
    ├── FormatError (ValueError)        a file that breaks the spec
    │   ├── HeaderError                 not safetensors, or broken offsets
    │   ├── MetadataError               entries and metadata disagree
    │   ├── VersionError                another format version
    │   ├── PayloadError                a field outside its range
    │   └── IntegrityError              a hash that doesn't match
    ├── ModelError (ValueError)         a model that can't be taken as it is
    ├── OutputError (RuntimeError)      an output that exists or can't be written
    ├── DeviceError (RuntimeError)      no CUDA device, or its driver fails
    └── MissingExtraError (ImportError) what an extra brings isn't there, or is too old

Messages have one grammar: *argument* must be *what*, got *value*; for arrays also the position of
the first offender.
"""


class PVQError(Exception):
    """Base of all errors of pvq_ref."""


class ArgumentError(PVQError, ValueError):
    """An argument is outside what the function takes."""


class DomainError(ArgumentError):
    """A number is outside its domain, or a name is unknown."""


class ShapeError(ArgumentError):
    """An array has the wrong shape."""


class DTypeError(ArgumentError):
    """An array has the wrong type."""


class NonFiniteError(ArgumentError):
    """Data holds NaN or infinity."""


class PyramidError(ArgumentError):
    """A vector isn't in the pyramid: the sum of its magnitudes isn't k."""


class IndexRangeError(ArgumentError):
    """An index isn't below V(n,k)."""


class CapacityError(PVQError, RuntimeError):
    """A table would not fit in memory."""


class FormatError(PVQError, ValueError):
    """A file breaks the format."""


class HeaderError(FormatError):
    """A file isn't a safetensors file, or its offsets are broken."""


class MetadataError(FormatError):
    """The metadata is broken, or disagrees with the entries of the file."""


class VersionError(FormatError):
    """A file has a format version that this program doesn't know."""


class PayloadError(FormatError):
    """A stored field is outside its range."""


class IntegrityError(FormatError):
    """A hash doesn't match."""


class ModelError(PVQError, ValueError):
    """A model can't be taken as it is."""


class OutputError(PVQError, RuntimeError):
    """An output exists already, or can't be written."""


class DeviceError(PVQError, RuntimeError):
    """There is no CUDA device, or its driver reports a failure."""


class MissingExtraError(PVQError, ImportError):
    """What a part of pvq_ref needs beyond its dependencies isn't installed."""

    def __init__(
        self,
        what: str,
        reason: object,
        packages: str = "torch and transformers",
        extra: str = "calibrate",
    ) -> None:
        super().__init__(f"{what} must have {packages}: pip install 'pvq-ref[{extra}]' ({reason})")
