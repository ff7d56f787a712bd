"""Tiny random checkpoints of the families of causal LMs, each with a byte-pair tokenizer, for tests."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
GEMMA_LIKE = {**LLAMA_LIKE, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}
SHAPES: dict[str, dict[str, object]] = {
    "llama": {**LLAMA_LIKE, "tie_word_embeddings": False},
    "mistral": {**LLAMA_LIKE, "sliding_window": 8},
    "qwen2": {**LLAMA_LIKE, "tie_word_embeddings": True},
    "qwen3": {**LLAMA_LIKE, "head_dim": 8},
    "gemma2": {**GEMMA_LIKE, "final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0},
    "gemma3_text": {**GEMMA_LIKE, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.2},
    "gpt_neox": {key: value for key, value in LLAMA_LIKE.items() if key != "num_key_value_heads"},
    "cohere": {**LLAMA_LIKE, "logit_scale": 0.5},
    "granite": {**LLAMA_LIKE, "logits_scaling": 4.0},
}
"""What tells each family from the others, at the size of a test; two that scale their logits among them."""

FAMILIES = tuple(SHAPES)


def byte_tokenizer(pad: str | None = "<pad>") -> PreTrainedTokenizerFast:
    """Byte-level, so that it reads any text: 256 bytes, a few merges, and special tokens at the end; EOS is the pad
    where there is no other."""
    core = Tokenizer(BPE())
    core.pre_tokenizer = ByteLevel(add_prefix_space=False)
    core.decoder = ByteLevelDecoder()
    specials = ["<|endoftext|>"] if pad is None else ["<|endoftext|>", pad]
    trainer = BpeTrainer(
        vocab_size=280, initial_alphabet=sorted(ByteLevel.alphabet()), special_tokens=specials, show_progress=False
    )
    core.train_from_iterator(["Below is an instruction that describes a task. ### Response:"] * 2, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|endoftext|>", pad_token=pad, clean_up_tokenization_spaces=False
    )


def family_config(family: str, vocab_size: int, **changes: object) -> PreTrainedConfig:
    shape = {**SHAPES[family], "vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    return AutoConfig.for_model(family, **{**shape, **changes})


def family_lm(family: str, vocab_size: int, **changes: object) -> PreTrainedModel:
    """Float32, in evaluation mode, with distributions far from uniform."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(
            family_config(family, vocab_size, **changes), dtype=torch.float32
        ).eval()


def save_family(directory: Path, family: str, spare_rows: int = 0, pad: str | None = "<pad>", **changes: object) -> str:
    """A checkpoint of `family` in `directory`, its embedding with so many rows more than the tokenizer has tokens."""
    tokenizer = byte_tokenizer(pad)
    family_lm(family, len(tokenizer) + spare_rows, **changes).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)
