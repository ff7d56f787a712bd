"""Prompts and responses as tokens: where they begin and end, and that a special token spelt out in them stays text."""

from transformers import PreTrainedTokenizerBase

from rlhf.data.chat import encode_chat
from rlhf.data.source import Prompt


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """A prompt's tokens, never ending in EOS: its messages in the chat template, or its text by the tokenizer's rule.

    That rule adds BOS where the tokenizer does. A special token that either spells out stays text.
    """
    if prompt.messages:
        return encode_chat(tokenizer, prompt.messages)
    token_ids = tokenizer(prompt.text, split_special_tokens=True)["input_ids"]
    assert isinstance(token_ids, list)
    if token_ids and token_ids[-1] == tokenizer.eos_token_id and len(token_ids) > 1:
        token_ids = token_ids[:-1]
    return token_ids


def encode_response(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A whole response's tokens, EOS at the end; a special token that the text spells out stays text."""
    token_ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert isinstance(token_ids, list)
    return [*token_ids, special_ids(tokenizer)[1]]


def special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The ids of the pad and the EOS token; loading a model has seen to it that there are both."""
    pad_id, eos_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    assert isinstance(pad_id, int)
    assert isinstance(eos_id, int)
    return pad_id, eos_id
