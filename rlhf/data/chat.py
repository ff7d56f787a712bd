"""Conversations as tokens, by the tokenizer's own chat template.

Control tokens stand only where the template puts them: one that a message spells out stays text.
"""

import logging
import re
from collections.abc import Sequence
from functools import lru_cache

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rlhf.data.source import Message
from rlhf.errors import ConfigError, DataError

PRIVATE_USE = range(0xE000, 0xF900)
"""Code points that mean nothing by themselves; those that a text doesn't hold can stand for something in it."""

logger = logging.getLogger(__name__)


def encode_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """A conversation up to where the assistant's next turn begins; raises ConfigError without a chat template."""
    check_template(tokenizer)
    contents = "".join(content for _, content in messages)
    spelt = [token for token in control_tokens(tokenizer) if token in contents]
    free = (chr(code) for code in PRIVATE_USE if chr(code) not in contents)
    masks = dict(zip(spelt, free, strict=False))
    text = render(tokenizer, [Message(role, mask(content, masks)) for role, content in messages])
    tokens = {mark: token for token, mark in masks.items()}
    pieces = re.split(f"([{''.join(tokens)}])", text) if tokens else [text]
    return [token_id for piece in pieces for token_id in _encode(tokenizer, piece, tokens.get(piece))]


def _encode(tokenizer: PreTrainedTokenizerBase, piece: str, spelt: str | None) -> list[int]:
    """Tokens of a piece of the rendered text, or of the control token that a message has `spelt` there."""
    if spelt is None:
        return tokenizer(piece, add_special_tokens=False)["input_ids"]  # pyright: ignore[reportReturnType]
    return tokenizer(spelt, add_special_tokens=False, split_special_tokens=True)["input_ids"]  # pyright: ignore[reportReturnType]


def mask(content: str, masks: dict[str, str]) -> str:
    """The text with each control token that it spells replaced by its mask, the longer ones first."""
    if not masks:
        return content
    longest_first = sorted(masks, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), lambda found: masks[found[0]], content)


@lru_cache(maxsize=8)
def control_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """All tokens that mean something to the model beside the text: BOS, EOS, beginnings and ends of turns."""
    return tuple(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], asks: bool = True) -> str:
    """The conversation as text and, if it `asks`, with the beginning of the assistant's turn."""
    turns = [message._asdict() for message in messages]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks)
    except TemplateError as error:
        raise DataError(
            f"data.template=chat: the tokenizer's chat template refuses a conversation ({error}): "
            f"{[role for role, _ in messages]}, beginning {messages[0].content[:60]!r}"
        ) from error
    assert isinstance(text, str)
    return text


@lru_cache(maxsize=8)
def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ConfigError without a chat template; warns, once, where EOS is not what ends the assistant's turns."""
    if tokenizer.chat_template is None:
        raise ConfigError(
            "data.template=chat is not allowed: the tokenizer of this model has no chat template; "
            "use data.template=alpaca or plain, or model.path of a model made for chats"
        )
    ending = end_of_turn(tokenizer)
    if ending != tokenizer.eos_token:
        logger.warning(
            "data.template=chat: the chat template ends the assistant's turns with %s, and responses end with the "
            "tokenizer's EOS, %s: a model that has only learnt the former may not stop; fine-tune it (sft.epochs), or "
            "make the former the eos_token in its tokenizer_config.json",
            ending or "no control token",
            tokenizer.eos_token,
        )


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The first control token that the template puts behind an answer."""
    mark = chr(PRIVATE_USE[0])
    text = render(tokenizer, [Message("user", "a"), Message("assistant", mark)], asks=False)
    behind = text.rpartition(mark)[2]
    found = re.search("|".join(map(re.escape, sorted(control_tokens(tokenizer), key=len, reverse=True))), behind)
    return found[0] if found else None
