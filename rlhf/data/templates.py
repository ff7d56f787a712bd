"""How a request becomes a prompt: in Stanford Alpaca's template, as messages for a chat template, or as it is.

`alpaca` is word for word the template that AlpacaFarm trains and evaluates with. `chat` leaves the text to the
tokenizer's own template. `plain` adds nothing to a text, and writes a conversation as Anthropic's HH does. The tokens
that open a prompt are the business of whoever encodes it.
"""

import re
from collections.abc import Sequence

from rlhf.data.source import Message, Prompt

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)

WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)

SPEAKERS = {"system": "System", "user": "Human", "assistant": "Assistant"}
"""The roles of messages, and what HH's transcripts call them."""


def alpaca_prompt(instruction: str, context: str) -> str:
    """What the model reads, ready to be continued by its response."""
    template = WITH_INPUT if context else WITHOUT_INPUT
    return template.format(instruction=instruction, input=context)


def shown_instruction(instruction: str, context: str) -> str:
    """What AlpacaEval shows to a judge: the instruction and, a blank line further, its input where there is one."""
    return f"{instruction}\n\n{context}" if context else instruction


def instruction_prompt(instruction: str, context: str, dataset: str, template: str) -> Prompt:
    """The prompt of an instruction and its input ("" for none)."""
    shown = shown_instruction(instruction, context)
    if template == "chat":
        return Prompt(shown, shown, dataset, messages=(Message("user", shown),))
    return Prompt(shown, alpaca_prompt(instruction, context) if template == "alpaca" else shown, dataset)


def conversation_prompt(messages: Sequence[Message], dataset: str, template: str) -> Prompt:
    """The prompt of a conversation that a user's turn ends; `alpaca` takes one turn alone.

    A judge is shown that turn, or the whole conversation where there are several; a system message only the model.
    """
    turns = [message for message in messages if message.role != "system"]
    shown = turns[0].content if len(turns) == 1 else transcript(turns).strip()
    if template == "alpaca":
        assert len(messages) == 1
        return instruction_prompt(shown, "", dataset, template)
    asked = f"{transcript(messages)}\n\n{SPEAKERS['assistant']}:"
    turns = tuple(messages)
    return Prompt(shown, asked, dataset, messages=turns if template == "chat" else (), turns=turns)


def transcript(messages: Sequence[Message]) -> str:
    """A conversation in the form of HH's: a blank line before each turn, which says who speaks."""
    return "".join(f"\n\n{SPEAKERS[role]}: {content}" for role, content in messages)


def parse_transcript(text: str) -> list[Message]:
    """The turns of such a text, without the white space around them; none where it doesn't begin with a human's.

    Lines may end as Windows' do.
    """
    human, assistant = SPEAKERS["user"], SPEAKERS["assistant"]
    before, *parts = re.split(rf"(?:^|\n\n)({human}|{assistant}):", text.replace("\r\n", "\n").strip())
    if before or parts[:1] != [human]:
        return []
    roles = {human: "user", assistant: "assistant"}
    return [Message(roles[name], said.strip()) for name, said in zip(parts[::2], parts[1::2], strict=True)]
