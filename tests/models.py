"""Small models, and files that are taken apart and put together again by hand (spec section 9).

Helpers of the tests of files, models and the command line. Nothing here uses the code under test.
"""

import hashlib
import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import deserialize
from safetensors.numpy import save_file

DTYPES = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32, "F64": np.float64}
ELEMENT_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2,
    "BF16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
NO_HASH = "0" * 64
PARTS = ("index", "gain", "row_norm", "levels")
INDEX = "model.safetensors.index.json"

# Shapes of a small model of today's form: odd sizes, so that rows have tails and rotations have
# several blocks.
MATRICES = {
    "model.layers.0.self_attn.q_proj.weight": (24, 40),
    "model.layers.0.self_attn.k_proj.weight": (16, 40),
    "model.layers.0.self_attn.v_proj.weight": (17, 40),
    "model.layers.0.self_attn.o_proj.weight": (40, 24),
    "model.layers.0.mlp.gate_proj.weight": (33, 40),
    "model.layers.0.mlp.up_proj.weight": (33, 40),
    "model.layers.0.mlp.down_proj.weight": (40, 33),
    "model.layers.1.mlp.experts.gate_up_proj": (3, 20, 40),
}
OTHERS = {
    "model.embed_tokens.weight": (64, 40),
    "model.layers.0.input_layernorm.weight": (40,),
    "model.layers.0.self_attn.q_proj.bias": (24,),
    "model.layers.1.mlp.gate.weight": (4, 40),
    "model.norm.weight": (40,),
    "lm_head.weight": (64, 40),
}
POSITIONS = "model.position_ids"
FIRST = next(iter(MATRICES))
CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_size": 40, "rms_norm_eps": 1e-06}
SIDE_FILES = {
    "tokenizer.json": b'{"model": {"vocab": {"\xc3\xa9": 0}}}\n',
    "generation_config.json": b'{\n  "eos_token_id": 2\n}\n',
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
    "merges.txt": b"",
}
LEFT_OUT = {"pytorch_model.bin": b"weights", "old/model.gguf": b"GGUF", "tf_model.h5": b"weights"}


def make_hessians(path, names):
    """Write a file of Hessians (spec section 7.6) of the named matrices."""
    rng = np.random.default_rng(0)
    hessians = {}
    for name in names:
        cols = MATRICES[name][-1]
        x = rng.standard_normal((2 * cols, cols))
        hessian = (x.T @ x / len(x)).astype(np.float32)
        hessians[f"{name.removesuffix('.weight')}.hessian"] = hessian
    save_file(hessians, path)


def tensors_of_model(dtype="F16", tied=False, seed=0):
    """The tensors of a small model by name."""
    rng = np.random.default_rng(seed)
    tensors = {
        name: rng.standard_normal(shape).astype(DTYPES[dtype])
        for name, shape in {**OTHERS, **MATRICES}.items()
    }
    tensors[POSITIONS] = np.arange(8, dtype=np.int64)[None]
    if tied:
        del tensors["lm_head.weight"]
    return tensors


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def make_folder(folder, dtype="F16", shards=1, tied=False, seed=0, config=CONFIG):
    """Make a model folder with side files, some of them weights in other forms."""
    folder.mkdir()
    tensors = tensors_of_model(dtype, tied, seed)
    for name, content in {**SIDE_FILES, **LEFT_OUT}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    write_json(folder / "config.json", config)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in list(tensors)[shard::shards]}
        save_file(part, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    write_json(folder / INDEX, index)
    return folder


def make_file(path, dtype="F32", seed=0, metadata=None):
    """Make a file with two matrices, one of them with a tail, and two other tensors."""
    rng = np.random.default_rng(seed)
    tensors = {
        "a.weight": rng.standard_normal((24, 40)).astype(DTYPES[dtype]),
        "b.weight": rng.standard_normal((40, 32)).astype(DTYPES[dtype]),
        "norm.weight": rng.standard_normal(7).astype(DTYPES[dtype]),
        "step": np.array(3, np.int64),
    }
    save_file(tensors, path, metadata)
    return path


def raw(path):
    """{name: (type, shape, bytes)} of a file or folder, by the safetensors package."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    return {
        name: (one["dtype"], tuple(one["shape"]), bytes(one["data"]))
        for file in files
        for name, one in deserialize(file.read_bytes())
    }


def files_of(folder):
    """{relative name: bytes} of all files of a folder."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def stamps(folder):
    """All that would change if a folder were written to: bytes and times."""
    paths = [folder, *sorted(folder.rglob("*"))]
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in paths
    }


def names_in(folder):
    """The names in a folder, hidden ones too: what a failed run must not add to."""
    return sorted(path.name for path in folder.iterdir())


def flip(path, place, bit=0):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


# Files by hand


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def frame(header, data=b"", pad=8):
    """The bytes of a file: a header, as an object or as bytes, and data."""
    text = header if isinstance(header, bytes) else canonical(header).encode()
    text += b" " * (-len(text) % pad)
    return struct.pack("<Q", len(text)) + text + data


def split(content):
    """(header object, data) of a file's bytes."""
    (length,) = struct.unpack_from("<Q", content)
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def header_length(content):
    return 8 + struct.unpack_from("<Q", content)[0]


def pvq_of(path):
    """The object `pvq` of a compressed file."""
    return json.loads(split(path.read_bytes())[0]["__metadata__"]["pvq"])


def entries_of(path):
    """{entry: [type, shape, bytes]} of a file."""
    header, data = split(path.read_bytes())
    return {
        name: [one["dtype"], one["shape"], data[slice(*one["data_offsets"])]]
        for name, one in header.items()
        if name != "__metadata__"
    }


def with_right_hash(header, data):
    """The bytes of a file, its header's own hash put in (spec section 9.4)."""
    empty = frame(header)
    digest = hashlib.sha256(empty).hexdigest()
    field = '\\"header_sha256\\":\\"{}\\"'
    return empty.replace(field.format(NO_HASH).encode(), field.format(digest).encode(), 1) + data


def forge(source, target, pvq=None, entries=None, outer=None):
    """Write a compressed file with changes, all hashes made right again.

    `entries`, `pvq` and `outer` change {entry: [type, shape, bytes]}, the object `pvq` and the
    strings of the metadata in place; hashes of the entries are made before `pvq` is called, so that
    it can break them, and the header's own hash last.
    """
    found, object_ = entries_of(source), pvq_of(source)
    if entries:
        entries(found)
    object_["sha256"] = {name: hashlib.sha256(one[2]).hexdigest() for name, one in found.items()}
    object_["header_sha256"] = NO_HASH
    if pvq:
        pvq(object_)
    header, data = {}, b""
    for name in sorted(found, key=lambda name: (-ELEMENT_BYTES[found[name][0]], name)):
        dtype, shape, content = found[name]
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        data += content
    header["__metadata__"] = {"format": "pt", "pvq": canonical(object_)}
    if outer:
        outer(header["__metadata__"])
    Path(target).write_bytes(with_right_hash(header, data))
    return target
