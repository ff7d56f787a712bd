"""Prompts and responses as tokens: where they begin and end, and that a special token spelt out in them stays text."""

import logging
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache, lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf.data.source import Message, Prompt
from rlhf.errors import ConfigError, DataError

PRIVATE_USE = range(0xE000, 0xF900)
"""Code points that mean nothing by themselves; those that a text doesn't hold can stand for something in it."""

MARK = ":"
"""A text that another one follows, as in "Assistant:"."""

SPACES = ("\u2581", "\u0120")
"""How tokens spell a space: as SentencePiece does, and as byte-level BPE does."""

CLOCK = datetime(2024, 7, 26)
"""The date that chat templates are told, so that a run is the same tomorrow; Llama 3's own where it is told none."""

CLOCK_READ = re.compile(r"strftime_now\s*\(\s*(['\"])(.*?)\1\s*\)")
"""How a template reads the clock."""

CHANCE = re.compile(r"\|\s*random\b|\blipsum\b")
"""What of Jinja gives another text each time."""

logger = logging.getLogger(__name__)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """A prompt's tokens, never ending in EOS: its messages in the chat template, or its text by the tokenizer's rule.

    That rule adds BOS where the tokenizer does. A special token that either spells out stays text.
    """
    if prompt.messages:
        return encode_chat(tokenizer, prompt.messages, place=prompt.place)
    token_ids = tokenizer(prompt.text, split_special_tokens=True)["input_ids"]
    assert isinstance(token_ids, list)
    if token_ids and token_ids[-1] == tokenizer.eos_token_id and len(token_ids) > 1:
        token_ids = token_ids[:-1]
    return token_ids


def encode_response(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A whole response's tokens, EOS at the end; a special token that the text spells out stays text.

    A tokenizer that puts a space before every text (LLaMA's) puts none here: prompt and response are the tokens of both
    together.
    """
    eos_id = special_ids(tokenizer)[1]
    if adds_space(tokenizer):
        if text.startswith(" ") and text != " ":  # which it puts there itself
            return [*encode_text(tokenizer, text[1:], as_text=True), eos_id]
        before, together = (encode_text(tokenizer, each, as_text=True) for each in (MARK, MARK + text))
        if together[: len(before)] == before:  # else the text's first letters are one token with the mark, as in ":)"
            return [*together[len(before) :], eos_id]
    return [*encode_text(tokenizer, text, as_text=True), eos_id]


def decode_response(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The text of a response's tokens, EOS apart: what `encode_response` makes into them."""
    before = encode_text(tokenizer, MARK, as_text=True) if adds_space(tokenizer) else []
    text = tokenizer.decode([*before, *token_ids], skip_special_tokens=False)
    assert isinstance(text, str)
    return text.removeprefix(MARK) if before else text


@lru_cache(maxsize=8)
def adds_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts a space before a text, which behind another text is one too many."""
    first = tokenizer.convert_ids_to_tokens(encode_text(tokenizer, MARK, as_text=True))[:1]
    return bool(first) and str(first[0]).startswith(SPACES)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, as_text: bool | None = None) -> list[int]:
    """Tokens of a text with nothing added; special tokens in it are read `as_text`, or as the tokenizer's rule is."""
    token_ids = tokenizer(text, add_special_tokens=False, split_special_tokens=as_text)["input_ids"]
    assert isinstance(token_ids, list)
    return token_ids


def special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The ids of the pad and the EOS token; loading a model has seen to it that there are both."""
    pad_id, eos_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    assert isinstance(pad_id, int)
    assert isinstance(eos_id, int)
    return pad_id, eos_id


# ---- Conversations, by the tokenizer's own chat template. -----------------------------------------------------------


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    key: str = "data.template=chat",
    asks: bool = True,
    place: str = "",
) -> list[int]:
    """A conversation up to where the assistant's next turn begins or, unless it `asks`, as it is.

    Control tokens stand only where the template puts them: those that messages spell out are masked while it renders.
    Raises ConfigError without a chat template, and DataError, naming `key` and `place`, where that refuses.
    """
    if asks:
        check_template(tokenizer)
    contents = "".join(content for _, content in messages)
    spelt = [token for token in control_tokens(tokenizer) if token in contents]
    free = (chr(code) for code in PRIVATE_USE if chr(code) not in contents)
    masks = dict(zip(spelt, free, strict=False))
    text = render(tokenizer, [Message(role, mask(content, masks)) for role, content in messages], key, asks, place)
    spelt_by_mask = {mark: token for token, mark in masks.items()}
    pieces = re.split(f"([{''.join(spelt_by_mask)}])", text) if spelt_by_mask else [text]
    encoded = [
        encode_text(tokenizer, spelt_by_mask.get(piece, piece), as_text=piece in spelt_by_mask or None)
        for piece in pieces
    ]
    return [token_id for token_ids in encoded for token_id in token_ids]


def mask(content: str, masks: dict[str, str]) -> str:
    """The text with each control token that it spells replaced by its mask."""
    return re.sub(any_of(masks), lambda found: masks[found[0]], content) if masks else content


def any_of(tokens: Sequence[str] | dict[str, str]) -> str:
    """A regular expression of any of the tokens, the longer ones first."""
    return "|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))


@lru_cache(maxsize=8)
def control_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """All tokens that mean something to the model beside the text: BOS, EOS, beginnings and ends of turns."""
    return tuple(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    key: str = "data.template=chat",
    asks: bool = True,
    place: str = "",
) -> str:
    """The conversation as text and, if it `asks`, with the beginning of the assistant's turn."""
    turns = [message._asdict() for message in messages]
    try:
        template = CLOCK_READ.sub(told_date, tokenizer.get_chat_template())
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks, chat_template=template)
        assert isinstance(text, str)
    except Exception as error:  # templates raise what they will: adding a number to a text, say, is Python's TypeError
        where = f"{place}: " if place else ""
        raise DataError(
            f"{where}{key}: the tokenizer's chat template refuses a conversation ({one_line(error)}): "
            f"{[role for role, _ in messages]}, beginning {messages[0].content[:60]!r}"
        ) from error
    return text


def told_date(call: re.Match[str]) -> str:
    """What a template is told in the place of its call of the clock: the same date in all runs, as a literal."""
    return repr(CLOCK.strftime(call[2]))


def one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def tell_template(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any] | None) -> None:
    """Fix variables of the chat template, as `enable_thinking`; raises ConfigError where it does not read one of them.

    They become part of the template, and so of what a run saves.
    """
    if not options:
        return
    template = tokenizer.chat_template
    if not isinstance(template, str):
        raise ConfigError(
            "data.template_options is not allowed: this model's tokenizer has no, or no single, chat template"
        )
    for name in options:
        if not re.search(rf"\b{re.escape(name)}\b", template):
            raise ConfigError(f"data.template_options.{name} is not allowed: the chat template does not read it")
    told = "".join(f"{{% set {name} = {jinja(value)} %}}" for name, value in options.items())
    tokenizer.chat_template = told + template.removeprefix(told)


def jinja(value: Any) -> str:
    """A value as a literal of a template."""
    return (
        {True: "true", False: "false", None: "none"}[value] if value is None or isinstance(value, bool) else repr(value)
    )


@lru_cache(maxsize=8)
def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ConfigError without a chat template; warns, once, where EOS is not what ends the assistant's turns."""
    if tokenizer.chat_template is None:
        raise ConfigError(
            "data.template=chat is not allowed: the tokenizer of this model has no chat template; "
            "use data.template=alpaca or plain, or model.path of a model made for chats"
        )
    check_deterministic(tokenizer, "data.template=chat")
    ending = end_of_turn(tokenizer)
    if ending != tokenizer.eos_token:
        told = f"{ending or 'no control token'}, and responses end with the tokenizer's EOS, {tokenizer.eos_token}"
        tell(
            logging.WARNING,
            f"data.template=chat: the chat template ends the assistant's turns with {told}: a model that has only "
            "learnt the former may not stop; fine-tune it (sft.epochs), or make the former the eos_token in its "
            "tokenizer_config.json",
        )


@cache
def tell(level: int, message: str) -> None:
    """Log it once: each stage loads a tokenizer of its own."""
    logger.log(level, message)


def check_deterministic(tokenizer: PreTrainedTokenizerBase, key: str) -> None:
    """Raises ConfigError where the chat template draws at random; says so where it reads the clock."""
    templates = str(tokenizer.chat_template)
    if CHANCE.search(templates):
        raise ConfigError(f"{key} is not allowed: the tokenizer's chat template draws at random, so no run has a like")
    if re.search(r"strftime_now\s*\(", CLOCK_READ.sub("", templates)):
        raise ConfigError(f"{key} is not allowed: the tokenizer's chat template reads the clock in a form not known")
    if CLOCK_READ.search(templates):
        tell(logging.INFO, f"{key}: the chat template reads the clock, and is told the date {CLOCK.date()} in all runs")


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The first control token that the template puts behind an answer."""
    mark = chr(PRIVATE_USE[0])
    text = render(tokenizer, [Message("user", "a"), Message("assistant", mark)], asks=False)
    found = re.search(any_of(control_tokens(tokenizer)), text.rpartition(mark)[2])
    return found[0] if found else None
