"""Tiny language models with tokenizers, made from configs. Needs torch and transformers."""

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

torch.set_num_threads(1)  # for models this small, more only wait for each other

BOS, EOS = "<s>", "</s>"
LONGEST = 64
TEXT = "".join(
    f"{a} {b} {c} by the river.\n"
    for a in ("One", "The old", "A small")
    for b in ("cat", "house", "boat", "lantern")
    for c in ("sleeps", "stands", "was seen")
)


def make_tokenizer(folder, *, bos=False, swap=False):
    """A tokenizer of single bytes; with `bos`, each text begins with that token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=swap)
    vocab = {token: i for i, token in enumerate([BOS, EOS, *alphabet])}
    one = Tokenizer(BPE(vocab, []))
    one.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    one.decoder = decoders.ByteLevel()
    if bos:
        one.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", special_tokens=[(BOS, 0)]
        )
    PreTrainedTokenizerFast(
        tokenizer_object=one, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    ).save_pretrained(folder)


def make_llama(folder, *, seed=0, tied=True, dtype="float16", shards=False, bos=False, swap=False):
    """A random Llama of two layers, large enough that its choices aren't all alike."""
    config = LlamaConfig(
        vocab_size=258, hidden_size=40, intermediate_size=56, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied, dtype=dtype,
        max_position_embeddings=LONGEST, bos_token_id=0, eos_token_id=1, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder, **({"max_shard_size": "40KB"} if shards else {}))
    make_tokenizer(folder, bos=bos, swap=swap)
    return folder
