"""Compressed folders in transformers: import this, and `from_pretrained` decodes while it loads.

    import pvq_ref.transformers
    model = AutoModelForCausalLM.from_pretrained(compressed_folder)

A quantizer of method "pvq" is registered, which `quantization_config` in config.json names (spec
section 9.5). transformers gives a quantizer the tensors of a file by the names that they have
there, and no way to say that four of them are one, before it renames and merges them for the
architecture. So its loader is given the decoded tensors instead, under their own names, each made
when it is asked for: everything after that is as for the decompressed folder, and so are all
weights, bit for bit. The model that results is an ordinary one, not a quantized one.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pvq_ref import parsing
from pvq_ref.container import Reader, read_header
from pvq_ref.decoding import dequantize
from pvq_ref.errors import MissingExtraError
from pvq_ref.tensor import DTYPES, check_fields

OLDEST = 5  # major version; before it, tensors took another way through the loader

try:
    import torch
    import transformers
    from transformers import PreTrainedModel
    from transformers.quantizers import (
        HfQuantizer,
        register_quantization_config,
        register_quantizer,
    )
    from transformers.utils.quantization_config import QuantizationConfigMixin
except ImportError as error:
    raise MissingExtraError("pvq_ref.transformers", error) from None


def check_release(version: str) -> None:
    """Raise MissingExtraError for a release of transformers that is too old."""
    if int(version.split(".")[0]) < OLDEST:
        raise MissingExtraError(
            "pvq_ref.transformers", f"transformers must be {OLDEST}.0 or later, got {version}"
        )


check_release(transformers.__version__)

METHOD = "pvq"
TORCH_TYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16,
    "I16": torch.int16, "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32,
    "F64": torch.float64, "C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # fmt: skip


class LazyTensor:
    """A tensor of a compressed file, decoded when it is indexed, like a slice of safetensors."""

    def __init__(self, path: Path, name: str, meta: parsing.FileMetadata, dtype: str) -> None:
        self._path, self._name, self._meta, self._dtype = path, name, meta, dtype

    def get_dtype(self) -> str:
        """Return the safetensors name of the type."""
        return self._dtype

    def get_shape(self) -> list[int]:
        """Return the shape."""
        bare = self._meta.tensors.get(self._name)
        shape = read_header(self._path).entries[self._name].shape if bare is None else bare.shape
        return list(shape)

    def __getitem__(self, key: Any) -> torch.Tensor:
        with Reader(self._path) as reader:
            if self._name in self._meta.tensors:
                raw = self._decoded(reader)
            else:
                parsing.check_entry(reader, self._name, self._meta)
                raw = reader.read_bytes(entry := reader.header.entries[self._name], 0, entry.size)
        data = torch.from_numpy(raw.reshape(-1).view(np.uint8).copy())
        return data.view(TORCH_TYPES[self._dtype]).reshape(self.get_shape())[key]

    def _decoded(self, reader: Reader) -> np.ndarray[Any, Any]:
        bare = self._meta.tensors[self._name]
        tensor = parsing.with_fields(reader, self._name, bare, self._meta)
        check_fields(tensor)
        return dequantize(tensor, DTYPES[tensor.dtype])


def decoded_tensors(files: Sequence[str]) -> dict[str, LazyTensor]:
    """Return the tensors of compressed files by their original names, none of them decoded yet."""
    tensors: dict[str, LazyTensor] = {}
    for path in map(Path, files):
        header = read_header(path)
        meta = parsing.parse(header)
        types = {name: t.dtype for name, t in meta.tensors.items()}
        types |= {name: header.entries[name].dtype for name in meta.untouched}
        tensors |= {name: LazyTensor(path, name, meta, dtype) for name, dtype in types.items()}
    return tensors


@register_quantization_config(METHOD)
class PVQConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """What config.json of a compressed folder says; the files' metadata is authoritative."""

    dequantize = True  # what is loaded isn't quantized any more, and is saved as what it is

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields, quant_method=METHOD)


@register_quantizer(METHOD)
class PVQQuantizer(HfQuantizer):  # type: ignore[misc]
    """Marks a model as compressed; the loader below does the work."""

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Raise ValueError for what can't be done: offloading to disk, compressing on the fly."""
        if not self.pre_quantized:
            raise ValueError("the model must be compressed already; `pvq-ref compress` does it")
        places = kwargs.get("device_map")
        if isinstance(places, dict) and "disk" in places.values():
            raise ValueError("device_map must not offload to disk: the files hold no plain tensors")

    @property
    def is_trainable(self) -> bool:
        """Whether the loaded model can be trained; it is a plain one."""
        return True

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """Return whether the loaded model can be saved; it is a plain one."""
        return True


_inner = PreTrainedModel.__dict__["_load_pretrained_model"]  # a class or a static method


def _load_pretrained_model(
    cls: type, model: Any, state_dict: Any, files: Any, load_config: Any, *more: Any, **named: Any
) -> Any:
    """Load as transformers does; the tensors of a compressed model are decoded and plain ones."""
    if isinstance(load_config.hf_quantizer, PVQQuantizer):
        state_dict = decoded_tensors(files)
        load_config = replace(load_config, hf_quantizer=None)
    return _inner.__get__(None, cls)(model, state_dict, files, load_config, *more, **named)


PreTrainedModel._load_pretrained_model = classmethod(_load_pretrained_model)
