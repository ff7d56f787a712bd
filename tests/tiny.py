"""A causal LM of two small layers with random weights, and a tokenizer of single letters, for tests."""

import string

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
LETTERS = tuple(string.ascii_lowercase[:12])
VOCABULARY = (*SPECIAL_TOKENS, *LETTERS)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Words between spaces: four special tokens (ids 0 to 3), then the letters a to l; adds nothing by itself."""
    core = Tokenizer(WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def tiny_lm(seed: int = 0) -> LlamaForCausalLM:
    """A float32 Llama in evaluation mode for that tokenizer, whose distributions are far from uniform."""
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()
