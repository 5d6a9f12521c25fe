"""Compressed folders in transformers: the same weights and logits as of the decompressed folder."""

import json
import os
import shutil
from pathlib import Path

import pytest

import pvq_ref
from pvq_ref.container import read_header
from pvq_ref.errors import IntegrityError, MissingExtraError

EXTRA = "needs pip install 'pvq-ref[calibrate]'"
torch = pytest.importorskip("torch", reason=EXTRA)
transformers = pytest.importorskip("transformers", reason=EXTRA)
import pvq_ref.transformers  # noqa: E402
from tests.language_models import make_llama  # noqa: E402
from tests.models import files_of  # noqa: E402

Auto = transformers.AutoModelForCausalLM
REAL = Path(os.environ.get("PVQ_SMOLLM2", Path(__file__).parent.parent / "demo" / "model"))


def compress(source, **options):
    """The folder compressed, and decompressed again."""
    packed, plain = source.with_name("packed"), source.with_name("plain")
    pvq_ref.compress(source, packed, **options)
    pvq_ref.decompress(packed, plain)
    return packed, plain


def assert_same(got, ref, vocabulary=258):
    states = got.state_dict(), ref.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[1].items():
        assert states[0][name].dtype == tensor.dtype, name
        assert torch.equal(states[0][name], tensor), name
    ids = torch.arange(60).reshape(2, 30) * 4 % vocabulary
    with torch.inference_mode():
        logits = [model(input_ids=ids).logits for model in (got, ref)]
    assert torch.equal(*logits)
    assert torch.isfinite(logits[0]).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_weights_and_logits_are_those_of_the_decompressed_folder(tmp_path, dtype, shards, tied):
    source = make_llama(tmp_path / "m", tied=tied, dtype=dtype, shards=shards)
    packed, plain = compress(source, bits=3, embed_bits=5 if tied else None)
    assert len(list(packed.glob("*.safetensors"))) > 1 if shards else True
    ref = Auto.from_pretrained(plain)
    assert_same(Auto.from_pretrained(packed), ref)
    original = Auto.from_pretrained(source).state_dict()
    assert not all(torch.equal(ref.state_dict()[name], original[name]) for name in original)


@pytest.mark.parametrize("options", [
    {"dtype": torch.float32}, {"torch_dtype": torch.float32}, {"dtype": "bfloat16"},
    {"dtype": "auto"}, {"device_map": {"": "cpu"}}, {"device_map": "cpu"},
])  # fmt: skip
def test_options_of_from_pretrained(tmp_path, options):
    packed, plain = compress(make_llama(tmp_path / "m"))
    assert_same(Auto.from_pretrained(packed, **options), Auto.from_pretrained(plain, **options))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_loading_to_a_gpu(tmp_path):
    packed, plain = compress(make_llama(tmp_path / "m"))
    got = Auto.from_pretrained(packed, device_map={"": "cuda"})
    assert got.device.type == "cuda"
    assert_same(got.cpu(), Auto.from_pretrained(plain))


def test_experts_that_transformers_merges(tmp_path):
    config = transformers.MixtralConfig(
        vocab_size=258, hidden_size=32, intermediate_size=40, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, num_local_experts=3, dtype="float16",
        num_experts_per_tok=2,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.MixtralForCausalLM(config).half().save_pretrained(tmp_path / "m")
    packed, plain = compress(tmp_path / "m")
    names = pvq_ref.load(packed)
    experts = [name for name in names if "experts.2" in name]
    assert experts and all(isinstance(names[name], pvq_ref.PVQTensor) for name in experts)
    options = {"dtype": torch.float32, "experts_implementation": "eager"}
    assert_same(Auto.from_pretrained(packed, **options), Auto.from_pretrained(plain, **options))


def test_what_was_loaded_is_a_plain_model(tmp_path):
    packed, plain = compress(make_llama(tmp_path / "m"))
    before = files_of(packed)
    model = Auto.from_pretrained(packed)
    assert not model.is_quantized and not hasattr(model.config, "quantization_config")
    model.save_pretrained(tmp_path / "saved")
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    assert_same(Auto.from_pretrained(tmp_path / "saved"), Auto.from_pretrained(plain))
    assert files_of(packed) == before
    model.float()(input_ids=torch.arange(9)[None]).logits.sum().backward()  # it can be trained


def test_a_plain_folder_loads_as_before(tmp_path):
    source = make_llama(tmp_path / "m", tied=False)
    state = Auto.from_pretrained(source).state_dict()
    stored = {}
    from safetensors.torch import load_file

    for file in source.glob("*.safetensors"):
        stored |= load_file(file)
    assert state.keys() == stored.keys()
    assert all(torch.equal(state[name], stored[name]) for name in stored)


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_flipped_bit_is_found(tmp_path, place):
    packed, _ = compress(make_llama(tmp_path / "m"))
    path = packed / "model.safetensors"
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start if place == "first" else -1] ^= 1  # levels come first, indices and gains last
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="must have SHA-256"):
        Auto.from_pretrained(packed)


def test_a_flipped_bit_of_an_untouched_tensor_is_found(tmp_path):
    packed, _ = compress(make_llama(tmp_path / "m"))
    entry = read_header(packed / "model.safetensors").entries["model.norm.weight"]
    path = packed / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[8 + int.from_bytes(content[:8], "little") + entry.start] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"entry 'model\.norm\.weight' must have SHA-256"):
        Auto.from_pretrained(packed)


def test_what_cannot_be_done_is_refused(tmp_path):
    source = make_llama(tmp_path / "m")
    packed, _ = compress(source)
    with pytest.raises(ValueError, match="device_map must not offload to disk"):
        Auto.from_pretrained(packed, device_map={"model": "cpu", "lm_head": "disk"})
    config = pvq_ref.transformers.PVQConfig(bits=3.25)
    with pytest.raises(ValueError, match="must be compressed already"):
        Auto.from_pretrained(source, quantization_config=config)


def test_an_old_release_is_refused():
    with pytest.raises(MissingExtraError, match=r"transformers must be 5\.0 or later, got 4\.57"):
        pvq_ref.transformers.check_release("4.57.6")


@pytest.mark.model
def test_a_real_model(tmp_path):
    if not REAL.is_dir():
        pytest.skip(f"{REAL} isn't there")
    shutil.copytree(REAL, tmp_path / "m")
    packed, plain = compress(tmp_path / "m")
    options = {"dtype": torch.float32}
    assert_same(Auto.from_pretrained(packed, **options), Auto.from_pretrained(plain, **options))
