"""What --json prints obeys the schemas of docs/schemas."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from safetensors.numpy import save_file

from pvq_ref.cli import main

SCHEMAS = Path(__file__).parent.parent / "docs" / "schemas"


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "model.layers.0.mlp.up_proj.weight": rng.standard_normal((24, 40)).astype(np.float32),
        "model.embed_tokens.weight": rng.standard_normal((64, 40)).astype(np.float32),
        "model.norm.weight": np.ones(40, np.float32),
    }
    save_file(tensors, tmp_path / "in.safetensors")
    return tmp_path


def check(capsys, schema, *arguments):
    assert main([str(argument) for argument in arguments] + ["--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    jsonschema.validate(value, json.loads((SCHEMAS / f"{schema}.json").read_text()))
    return value


def test_every_json_object_obeys_its_schema(source, capsys):
    before, packed, after = (source / f"{name}.safetensors" for name in ("in", "packed", "out"))
    plan = check(capsys, "plan", "compress", before, packed, "--dry-run")
    done = check(capsys, "compress", "compress", before, packed)
    assert {key: done[key] for key in plan} == plan
    assert done["file_bytes"] == packed.stat().st_size
    seen = check(capsys, "inspect", "inspect", packed)
    assert seen["bits_per_weight"] == plan["bits_per_weight"]
    assert check(capsys, "inspect", "inspect", packed, "--entropy")["entropy"]["index_width"] > 2
    assert check(capsys, "verify", "verify", packed)["mean_db"] is None
    assert check(capsys, "verify", "verify", packed, "--against", before)["mean_db"] > 10
    assert check(capsys, "decompress", "decompress", packed, after)["tensors"] == 1
    assert check(capsys, "warmup", "warmup")["directory"]


def test_json_of_shards_obeys_its_schemas(source, capsys):
    before, packed = source / "in.safetensors", source / "packed.safetensors"
    for number in (1, 2):
        done = check(capsys, "shard", "compress", before, packed, "--shard", f"{number}/2")
        assert (done["shard"], done["shards"]) == (number, 2)
    assert check(capsys, "compress", "merge", before, packed)["weights"] == 24 * 40


@pytest.mark.parametrize("path", sorted(SCHEMAS.glob("*.json")), ids=lambda path: path.stem)
def test_schemas_are_schemas_and_strict(path):
    schema = json.loads(path.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({}, schema)
