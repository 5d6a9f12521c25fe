"""Which tensors are compressed, by the names that models of today have, and what is refused."""

from math import prod

import pytest

from pvq_ref.container import BITS, Entry, Header
from pvq_ref.errors import DomainError, ModelError
from pvq_ref.selection import choose, reason_to_leave, refuse_quantized

PLAIN = "not a floating matrix"

# Tensor, shape, and what is to happen to it: - is compressed, 1 is left for having one dimension.
ARCHITECTURES = {
    "llama": """
        model.embed_tokens.weight                              32000x4096    embedding
        model.layers.0.self_attn.q_proj.weight                 4096x4096     -
        model.layers.0.self_attn.k_proj.weight                 1024x4096     -
        model.layers.0.self_attn.v_proj.weight                 1024x4096     -
        model.layers.0.self_attn.o_proj.weight                 4096x4096     -
        model.layers.0.self_attn.rotary_emb.inv_freq           64            1
        model.layers.0.mlp.gate_proj.weight                    11008x4096    -
        model.layers.0.mlp.up_proj.weight                      11008x4096    -
        model.layers.0.mlp.down_proj.weight                    4096x11008    -
        model.layers.0.input_layernorm.weight                  4096          1
        model.layers.0.post_attention_layernorm.weight         4096          1
        model.norm.weight                                      4096          1
        lm_head.weight                                         32000x4096    head
    """,
    "llama as its authors release it": """
        tok_embeddings.weight                                  32000x4096    embedding
        layers.0.attention.wq.weight                           4096x4096     -
        layers.0.attention.wo.weight                           4096x4096     -
        layers.0.feed_forward.w1.weight                        11008x4096    -
        layers.0.attention_norm.weight                         4096          1
        output.weight                                          32000x4096    head
    """,
    "llama 4": """
        model.layers.0.feed_forward.router.weight              16x5120       router
        model.layers.0.feed_forward.experts.gate_up_proj       16x5120x16384 -
        model.layers.0.feed_forward.experts.down_proj          16x8192x5120  -
        model.layers.0.feed_forward.shared_expert.gate_proj.weight 8192x5120     -
        vision_model.class_embedding                           1408          1
        vision_model.positional_embedding_vlm                  577x1408      embedding
        vision_model.patch_embedding.linear.weight             1408x588      -
        multi_modal_projector.linear_1.weight                  5120x4096     -
        lm_head.weight                                         202048x5120   head
    """,
    "mixtral": """
        model.layers.0.block_sparse_moe.gate.weight            8x4096        router
        model.layers.0.block_sparse_moe.experts.7.w1.weight    14336x4096    -
        model.layers.0.block_sparse_moe.experts.7.w2.weight    4096x14336    -
        model.layers.0.block_sparse_moe.experts.7.w3.weight    14336x4096    -
        lm_head.weight                                         32000x4096    head
    """,
    "qwen2": """
        model.layers.0.self_attn.q_proj.weight                 896x896       -
        model.layers.0.self_attn.q_proj.bias                   896           1
    """,
    "qwen2-moe and qwen3-next": """
        model.layers.0.mlp.gate.weight                         60x2048       router
        model.layers.0.mlp.shared_expert.gate_proj.weight      5632x2048     -
        model.layers.0.mlp.shared_expert_gate.weight           1x2048        router
    """,
    "qwen3-moe": """
        model.layers.0.mlp.gate.weight                         128x2048      router
        model.layers.0.mlp.experts.127.gate_proj.weight        768x2048      -
        model.layers.0.mlp.experts.127.down_proj.weight        2048x768      -
        model.layers.0.self_attn.q_norm.weight                 128           1
        model.layers.0.self_attn.k_norm.weight                 128           1
    """,
    "deepseek": """
        model.layers.0.self_attn.q_a_proj.weight               1536x7168     -
        model.layers.0.self_attn.q_a_layernorm.weight          1536          1
        model.layers.0.self_attn.q_b_proj.weight               24576x1536    -
        model.layers.0.self_attn.kv_a_proj_with_mqa.weight     576x7168      -
        model.layers.0.self_attn.kv_b_proj.weight              32768x512     -
        model.layers.3.mlp.gate.weight                         256x7168      router
        model.layers.3.mlp.gate.e_score_correction_bias        256           1
        model.layers.3.mlp.experts.255.down_proj.weight        7168x2048     -
        model.layers.3.mlp.shared_experts.gate_proj.weight     2048x7168     -
        model.layers.61.embed_tokens.weight                    129280x7168   embedding
        model.layers.61.eh_proj.weight                         7168x14336    -
        model.layers.61.shared_head.norm.weight                7168          1
        model.layers.61.shared_head.head.weight                129280x7168   head
    """,
    "gpt2": """
        wte.weight                                             50257x768     embedding
        wpe.weight                                             1024x768      embedding
        transformer.wte.weight                                 50257x768     embedding
        h.0.ln_1.weight                                        768           1
        h.0.ln_1.bias                                          768           1
        h.0.attn.bias                                          1x1x1024x1024 4
        h.0.attn.c_attn.weight                                 768x2304      -
        h.0.attn.c_attn.bias                                   2304          1
        h.0.mlp.c_fc.weight                                    768x3072      -
        h.0.mlp.c_proj.weight                                  3072x768      -
        ln_f.weight                                            768           1
        lm_head.weight                                         50257x768     head
    """,
    "gpt-neox": """
        gpt_neox.embed_in.weight                               50304x512     embedding
        gpt_neox.layers.0.attention.query_key_value.weight     1536x512      -
        gpt_neox.layers.0.attention.masked_bias                              1
        gpt_neox.layers.0.mlp.dense_4h_to_h.weight             512x2048      -
        embed_out.weight                                       50304x512     embedding
    """,
    "gpt-oss": """
        model.layers.0.self_attn.sinks                         64            1
        model.layers.0.self_attn.q_proj.weight                 4096x2880     -
        model.layers.0.mlp.router.weight                       32x2880       router
        model.layers.0.mlp.router.bias                         32            1
        model.layers.0.mlp.experts.gate_up_proj                32x2880x5760  -
        model.layers.0.mlp.experts.gate_up_proj_bias           32x5760       bias
        model.layers.0.mlp.experts.down_proj                   32x2880x2880  -
        model.layers.0.mlp.experts.down_proj_bias              32x2880       bias
    """,
    "granite-moe and dbrx": """
        model.layers.0.block_sparse_moe.router.layer.weight    32x1024       router
        model.layers.0.block_sparse_moe.input_linear.weight    32x1024x1024  -
        transformer.blocks.0.ffn.router.layer.weight           16x6144       router
        transformer.blocks.0.ffn.experts.mlp.w1                172032x6144   -
        transformer.blocks.0.norm_attn_norm.attn.Wqkv.weight   8192x6144     -
        transformer.blocks.0.norm_attn_norm.norm_1.weight      6144          1
    """,
    "bert and minilm": """
        embeddings.word_embeddings.weight                      30522x384     embedding
        embeddings.position_embeddings.weight                  512x384       embedding
        embeddings.token_type_embeddings.weight                2x384         embedding
        embeddings.LayerNorm.weight                            384           1
        encoder.layer.0.attention.self.query.weight            384x384       -
        encoder.layer.0.attention.output.dense.weight          384x384       -
        encoder.layer.0.attention.output.LayerNorm.weight      384           1
        encoder.layer.0.intermediate.dense.weight              1536x384      -
        encoder.layer.0.output.dense.weight                    384x1536      -
        pooler.dense.weight                                    384x384       -
        cls.predictions.transform.dense.weight                 384x384       -
        cls.predictions.decoder.weight                         30522x384     head
        classifier.weight                                      2x384         head
        vocab_projector.weight                                 30522x768     head
    """,
    "t5": """
        shared.weight                                          32128x512     embedding
        encoder.embed_tokens.weight                            32128x512     embedding
        encoder.block.0.layer.0.SelfAttention.q.weight         512x512       -
        encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight 32x64 bias
        encoder.block.0.layer.0.layer_norm.weight              512           1
        encoder.block.0.layer.1.DenseReluDense.wi_0.weight     1024x512      -
        decoder.block.0.layer.1.EncDecAttention.k.weight       512x512       -
        decoder.final_layer_norm.weight                        512           1
        lm_head.weight                                         32128x512     head
    """,
    "switch transformers": """
        encoder.block.1.layer.1.mlp.router.classifier.weight   8x768         router
        encoder.block.1.layer.1.mlp.experts.expert_0.wi.weight 3072x768      -
    """,
    "phi": """
        model.layers.0.self_attn.dense.weight                  2560x2560     -
        model.layers.0.self_attn.qkv_proj.weight               9216x3072     -
        model.layers.0.mlp.fc1.weight                          10240x2560    -
        model.layers.0.mlp.gate_up_proj.weight                 16384x3072    -
        model.final_layernorm.weight                           2560          1
        lm_head.weight                                         51200x2560    head
        lm_head.bias                                           51200         1
    """,
    "gemma": """
        model.embed_tokens.weight                              256000x2048   embedding
        model.embed_tokens_per_layer.weight                    262144x7680   embedding
        model.layers.0.per_layer_input_gate.weight             256x2048      -
        model.layers.0.altup.modality_router.weight            4x2048        router
        model.layers.0.pre_feedforward_layernorm.weight        2048          1
        multi_modal_projector.mm_input_projection_weight       1152x2560     -
        vision_tower.vision_model.embeddings.patch_embedding.weight    1152x3x14x14 4
        vision_tower.vision_model.embeddings.position_embedding.weight 4096x1152 embedding
    """,
    "falcon": """
        transformer.word_embeddings.weight                     65024x4544    embedding
        transformer.h.0.ln_attn.weight                         4544          1
        transformer.h.0.self_attention.query_key_value.weight  4672x4544     -
        transformer.h.0.self_attention.dense.weight            4544x4544     -
        transformer.h.0.mlp.dense_h_to_4h.weight               18176x4544    -
        transformer.ln_f.weight                                4544          1
        lm_head.weight                                         65024x4544    head
    """,
    "bloom": """
        word_embeddings.weight                                 250880x1024   embedding
        word_embeddings_layernorm.weight                       1024          1
        h.0.self_attention.query_key_value.weight              3072x1024     -
    """,
    "opt and whisper": """
        model.decoder.embed_tokens.weight                      50272x512     embedding
        model.decoder.embed_positions.weight                   2050x1024     embedding
        model.decoder.project_in.weight                        1024x512      -
        model.decoder.layers.0.fc1.weight                      4096x1024     -
        model.decoder.layers.0.self_attn.out_proj.weight       1024x1024     -
    """,
    "command-r": """
        model.layers.0.self_attn.q_norm.weight                 64x128        norm
        model.layers.0.self_attn.k_norm.weight                 8x128         norm
    """,
    "hunyuan": """
        model.layers.0.mlp.gate.wg.weight                      16x6400       router
        model.layers.0.mlp.shared_mlp.gate_proj.weight         18304x6400    -
    """,
    "chatglm and internlm": """
        transformer.embedding.word_embeddings.weight           65024x4096    embedding
        transformer.encoder.layers.0.self_attention.query_key_value.weight 4608x4096 -
        transformer.output_layer.weight                        65024x4096    head
        model.tok_embeddings.weight                            92544x2048    embedding
        model.layers.0.attention.wqkv.weight                   4096x2048     -
        output.weight                                          92544x2048    head
    """,
}  # fmt: skip


def tensor(name, shape=(64, 64), dtype="BF16"):
    return Entry(name, dtype, tuple(shape), 0, prod(shape) * BITS[dtype] // 8)


def lines():
    for architecture, text in ARCHITECTURES.items():
        for line in text.strip().splitlines():
            name, *shape, fate = line.split()
            sizes = tuple(map(int, shape[0].split("x"))) if shape else ()
            reason = {"-": None, "1": PLAIN, "4": PLAIN}.get(fate, fate)
            yield pytest.param(tensor(name, sizes), reason, id=f"{architecture}: {name}")


@pytest.mark.parametrize(("entry", "reason"), list(lines()))
def test_tensors_of_real_models_are_compressed_or_left_for_a_reason(entry, reason):
    assert reason_to_leave(entry) == reason


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_prefix_changes_nothing(name):
    """Wrappers put their own name before the model's."""
    for line in ARCHITECTURES[name].strip().splitlines():
        tensor_name = line.split()[0]
        ref = reason_to_leave(tensor(tensor_name))
        assert reason_to_leave(tensor(f"base_model.model.{tensor_name}")) == ref


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64"])
@pytest.mark.parametrize("shape", [(8, 8), (2, 8, 8)])
def test_floating_matrices_and_stacks_are_compressed(dtype, shape):
    assert reason_to_leave(tensor("a.weight", shape, dtype)) is None


@pytest.mark.parametrize("dtype", sorted(BITS.keys() - {"F16", "BF16", "F32", "F64"}))
def test_other_types_are_left(dtype):
    assert reason_to_leave(tensor("a.weight", (8, 8), dtype)) == PLAIN


@pytest.mark.parametrize("shape", [(), (8,), (2, 2, 8, 8), (1, 1, 1, 8, 8)])
def test_other_dimensions_are_left(shape):
    assert reason_to_leave(tensor("a.weight", shape)) == PLAIN


# Patterns

NAMES = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.layers.1.self_attn.q_proj.weight",
    "model.layers.10.mlp.up_proj.weight",
    "model.layers.1.mlp.experts.gate_up_proj",
    "model.norm.weight",
    "lm_head.weight",
]
ENTRIES = [tensor(name, (64,) if "norm" in name else (64, 64)) for name in NAMES]
DEFAULT = {name for name in NAMES if "layers" in name}


def compressed(include=(), exclude=()):
    chosen = choose(ENTRIES, include, exclude)
    assert list(chosen) == NAMES
    return {name for name, reason in chosen.items() if reason is None}


def test_without_patterns_the_rules_decide():
    assert compressed() == DEFAULT


@pytest.mark.parametrize(
    ("pattern", "places"),
    [
        ("model.layers.0.self_attn.q_proj.weight", [1]),
        ("model.layers.0.self_attn.q_proj", [1]),
        ("model.layers.1.mlp.experts.gate_up_proj", [5]),
        ("*.q_proj.weight", [1, 3]),
        ("model.layers.1.*", [3, 5]),
        ("model.layers.[0-9].mlp.up_proj.weight", [2]),
        ("model.layers.?.self_attn.*", [1, 3]),
        ("re:q_proj", [1, 3]),
        (r"re:^model\.layers\.1\.", [3, 5]),
        (r"re:layers\.\d+\.mlp\.up_proj\.weight$", [2, 4]),
        ("re:(?i)Q_PROJ", [1, 3]),
        ("lm_head", [7]),
        ("*embed*", [0]),
        ("*_proj*", [1, 2, 3, 4, 5]),
    ],
)
def test_include_compresses_exactly_what_a_pattern_matches(pattern, places):
    assert compressed(include=[pattern]) == {NAMES[place] for place in places}


@pytest.mark.parametrize(
    ("pattern", "places"),
    [
        ("model.layers.0.self_attn.q_proj.weight", [1]),
        ("model.layers.0.self_attn.q_proj", [1]),
        ("*.q_proj.weight", [1, 3]),
        ("re:layers.1[^0]", [3, 5]),
        ("*", [1, 2, 3, 4, 5]),
        ("model.norm", []),
    ],
)
def test_exclude_leaves_exactly_what_a_pattern_matches(pattern, places):
    assert compressed(exclude=[pattern]) == DEFAULT - {NAMES[place] for place in places}


def test_several_patterns_add_up():
    assert compressed(include=["*.0.*", "re:experts"]) == {NAMES[1], NAMES[2], NAMES[5]}
    assert compressed(exclude=["*.0.*", "re:experts"]) == {NAMES[3], NAMES[4]}


def test_exclude_is_stronger_than_include():
    assert compressed(include=["*.q_proj.*"], exclude=["*.0.*"]) == {NAMES[3]}


def test_include_takes_no_tensor_that_cannot_be_compressed():
    assert compressed(include=["*"]) == set(NAMES) - {"model.norm.weight"}


def test_names_are_not_matched_in_part_nor_in_another_case():
    for pattern in ("q_proj", "model.layers.0", "MODEL.NORM", "weight", ""):
        with pytest.raises(DomainError, match="must match a tensor"):
            compressed(include=[pattern])


def test_the_reasons_tell_who_decided():
    chosen = choose(ENTRIES, ["*.0.*"], ["*up_proj*"])
    assert chosen["model.layers.0.mlp.up_proj.weight"] == "excluded"
    assert chosen["model.layers.1.self_attn.q_proj.weight"] == "not included"
    assert chosen["model.norm.weight"] == PLAIN
    assert choose(ENTRIES, [], [])["model.embed_tokens.weight"] == "embedding"
    assert choose(ENTRIES, [], [])["lm_head.weight"] == "head"


@pytest.mark.parametrize("option", ["include", "exclude"])
@pytest.mark.parametrize("pattern", ["nothing", "re:nothing", "*.nothing.*", "Re:q_proj"])
def test_a_pattern_without_a_match_is_named(option, pattern):
    with pytest.raises(DomainError) as raised:
        compressed(**{option: ["*.q_proj.*", pattern]})
    assert str(raised.value) == f"{option} must match a tensor, got {pattern!r}"


@pytest.mark.parametrize("option", ["include", "exclude"])
@pytest.mark.parametrize("pattern", ["re:(", "re:[", "re:*", "re:(?<x>a)", f"re:a{{{10**20}}}"])
def test_a_broken_expression_is_named(option, pattern):
    with pytest.raises(DomainError, match=f"^{option} must be a regular expression") as raised:
        compressed(**{option: [pattern]})
    assert repr(pattern) in str(raised.value)


# Models that are quantized already


def refuse(config, entries, metadata=None):
    """Look at a model of one file."""
    header = Header({entry.name: entry for entry in entries}, metadata or {}, b"")
    refuse_quantized(config, [header])


METHODS = ["gptq", "awq", "bitsandbytes", "fp8", "fbgemm_fp8", "compressed-tensors", "mxfp4", "hqq",
           "aqlm", "quip", "eetq", "torchao", "bitnet", "vptq", "exl3", "quanto"]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_quantized_models_are_refused_by_their_method(method):
    config = {"quantization_config": {"quant_method": method, "bits": 4}}
    with pytest.raises(ModelError, match=f"'{method}'; start from the original weights"):
        refuse(config, ENTRIES)


def test_compressed_models_are_told_to_decompress():
    config = {"quantization_config": {"quant_method": "pvq", "bits": 3.25}}
    with pytest.raises(ModelError, match="'pvq'; decompress it first"):
        refuse(config, ENTRIES)


def test_compressed_files_are_known_without_a_config():
    with pytest.raises(ModelError, match=r"pvq.*decompress it first"):
        refuse({}, ENTRIES, {"format": "pt", "pvq": "{}"})


@pytest.mark.parametrize("value", [{"group_size": 64, "bits": 4}, {"load_in_4bit": True}, "int4"])
@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_methods_without_a_name_are_refused(key, value):
    with pytest.raises(ModelError, match=f"must not be quantized already, got {key}"):
        refuse({key: value}, ENTRIES)


@pytest.mark.parametrize("config", [{}, {"quantization_config": None}, {"quantization_config": {}}])
def test_plain_models_are_taken(config):
    refuse(config, ENTRIES)


L = "model.layers.0.mlp.up_proj."
QUANTIZED = {
    "gptq": [(L + "qweight", "I32", (512, 4096)), (L + "qzeros", "I32", (32, 512))],
    "gptq, the order alone": [(L + "g_idx", "I32", (4096,))],
    "awq": [(L + "qweight", "I32", (4096, 512))],
    "compressed-tensors": [(L + "weight_packed", "I32", (4096, 512))],
    "compressed-tensors, scales alone": [(L + "weight_scale", "BF16", (4096, 1))],
    "fp8": [(L + "weight", "F8_E4M3", (64, 64))],
    "fp8 of the other kind": [(L + "weight", "F8_E5M2", (64, 64))],
    "fp8 scales": [(L + "weight_scale_inv", "F32", (1, 1))],
    "mxfp4": [("model.layers.0.mlp.experts.gate_up_proj_blocks", "U8", (32, 5760, 90, 16))],
    "four bits": [(L + "weight", "F4", (64, 64))],
    "six bits": [(L + "weight", "F6_E2M3", (64, 64))],
    "bitsandbytes, four bits": [(L + "weight", "U8", (2048, 1))],
    "bitsandbytes, state": [(L + "weight.quant_state.bitsandbytes__nf4", "U8", (80,))],
    "bitsandbytes, absmax": [(L + "weight.absmax", "F32", (64,))],
    "bitsandbytes, eight bits": [(L + "SCB", "F32", (4096,))],
    "integers": [(L + "weight", "I8", (64, 64))],
    "mlx": [(L + "weight", "U32", (4096, 512)), (L + "scales", "F16", (4096, 64))],
    "quip": [(L + "Qidxs", "I64", (64, 64))],
    "aqlm": [(L + "codebooks", "F16", (1, 65536, 1, 8))],
    "exl3": [(L + "trellis", "I16", (256, 256, 64))],
    "hqq": [(L + "W_q", "U8", (64, 64))],
}


@pytest.mark.parametrize("method", QUANTIZED)
def test_quantized_tensors_are_refused_by_their_name(method):
    extra = [tensor(name, shape, dtype) for name, dtype, shape in QUANTIZED[method]]
    with pytest.raises(ModelError, match="must not be quantized already") as raised:
        refuse({}, [*ENTRIES, *extra])
    assert any(repr(one.name) in str(raised.value) for one in extra)


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [("a.weight", dtype, (8, 8)) for dtype in ("F16", "BF16", "F32", "F64")]
    + [("model.position_ids", "I64", (1, 512)), ("attn.bias", "BOOL", (1, 1, 8, 8)),
       ("attn.causal_mask", "U8", (8, 8)), ("bn.num_batches_tracked", "I64", ()),
       ("transformer.blocks.0.attn.weight", "F16", (8, 8)), ("x.scale", "F32", (8,)),
       ("logit_scale", "F32", ()), ("freqs", "C64", (8, 8)), ("step", "F64", ())],
)  # fmt: skip
def test_tensors_of_plain_models_are_not_refused(name, dtype, shape):
    refuse({}, [tensor(name, shape, dtype)])
