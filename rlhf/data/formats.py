"""What the rows of a table mean: demonstrations, preferences or prompts, in the forms that data sets have them.

The columns of a table's first row mark its form; docs/data.md shows each. A row of the wrong form is a
DataError that names it. A row of the right form with nothing in it to learn from is left out, and counted.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

from rlhf.data.files import Row, is_unicode
from rlhf.data.source import Demonstration, Message, Prompt
from rlhf.data.tables import Table
from rlhf.data.templates import SPEAKERS, conversation_prompt, instruction_prompt, parse_transcript
from rlhf.errors import DataError

TIES = (0, 1.5)
ANSWERS = ("completion", "response")
SHAREGPT = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
"""Who speaks in a turn of ShareGPT's."""

Item = TypeVar("Item")
Reader = Callable[[Row, str], Item]
"""Reads a row, its prompt in the template of that name."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preference:
    """Two outputs to one prompt; `better` is the index in `outputs` of the one that the annotator chose."""

    prompt: Prompt
    outputs: tuple[str, str]
    better: int


class UnusableRow(Exception):  # noqa: N818  # no error of the user's
    """A well-formed row with nothing to learn from; says of several such rows what they are."""


def read_all(table: Table, key: str, formats: Mapping[str, Reader[Item]], template: str) -> list[Item]:
    """What the rows of `data.KEY` hold, in order; those left out are logged with their count and the reason."""
    reader = recognise(table, key, formats)
    items, reasons = [], dict[str, list[str]]()
    for row in table.rows:
        try:
            items.append(reader(row, template))
        except UnusableRow as reason:
            reasons.setdefault(str(reason), []).append(row.place)
    for reason, places in reasons.items():
        log_left_out(table, len(places), reason, places[0])
    return items


def recognise(table: Table, key: str, formats: Mapping[str, Reader[Item]]) -> Reader[Item]:
    """The reader of the first column of `formats` that the table has; raises DataError where it has none."""
    columns = table.rows[0].values
    for column, reader in formats.items():
        if column in columns:
            return reader
    raise DataError(
        f"data.{key}: the columns of {table.name} are {', '.join(columns)}: "
        f"one of them must be {', '.join(formats)} (docs/data.md)"
    )


def log_left_out(table: Table, count: int, reason: str, first: str = "") -> None:
    if count:
        logger.info("%s: left out %d rows that %s%s", table.name, count, reason, first and f", the first at {first}")


# ---- Prompts and answers, by the columns that hold them. ------------------------------------------------------------


def text_prompt(row: Row, column: str, template: str, context: str = "") -> Prompt:
    """The prompt that `column` holds as a text, with its input in `context`."""
    if not row.text(column).strip():
        raise UnusableRow("have an empty prompt")
    return placed(instruction_prompt(row.text(column), context, row.optional_text("dataset"), template), row, column)


def placed(prompt: Prompt, row: Row, column: str) -> Prompt:
    """The prompt with the file, row and field that it stands in."""
    return replace(prompt, place=f"{row.path}, {row.place}, field '{column}'")


def instruction_of(row: Row, template: str) -> Prompt:
    return text_prompt(row, "instruction", template, row.optional_text("input"))


def prompt_of(row: Row, template: str) -> Prompt:
    """Column `prompt`: a text, or messages that a user's turn ends; or these as ShareGPT's `conversations`."""
    if "prompt" not in row.values and "conversations" in row.values:
        return asked(row, messages_of(row, "conversations"), template, "conversations")
    if isinstance(row.values.get("prompt"), list):
        return asked(row, messages_of(row, "prompt"), template, "prompt")
    return text_prompt(row, "prompt", template)


def answered(row: Row, column: str, template: str) -> tuple[Prompt, str]:
    """A prompt and the answer in `column`, which may hold the whole conversation, or only what answers `prompt`."""
    value = row.values.get(column)
    if isinstance(value, list | dict):
        turns = messages_of(row, column)
        if len(turns) > 1:
            return split_answer(row, turns, template, column)
        prompt, answer = prompt_of(row, template), without_answer(turns)[1]
    elif row.values.get("prompt") is not None:
        if not isinstance(value, str):
            raise row.error(column, "a string, or a list of messages")
        prompt, answer = prompt_of(row, template), row.text(column)
    else:
        turns = parse_transcript(row.text(column))
        if not turns:
            raise row.error(column, 'a transcript that begins with "Human:", or there must be a column prompt')
        if turns[-1].role != "assistant" and "Assistant:" in turns[-1].content:
            raise UnusableRow('hold an "Assistant:" without a blank line before it')
        return split_answer(row, merged(turns), template, column)
    return prompt, answer if isinstance(row.values.get("prompt"), str) else spoken(answer, template)


def messages_of(row: Row, column: str) -> list[Message]:
    """A conversation; turns of one speaker that follow one another become one.

    A turn is {role, content}, or as ShareGPT has it {from, value}; one alone need not be in a list.
    """
    value = row.values.get(column)
    value = [value] if isinstance(value, dict) else value
    roles = ", ".join(SPEAKERS)
    needed = (
        f"a list of messages, each with a role ({roles}) and a text as its content, or from ({', '.join(SHAREGPT)})"
    )
    if not isinstance(value, list) or not value:
        raise row.error(column, f"{needed} and value")
    turns = []
    for turn in value:
        role, content = said_by(turn) if isinstance(turn, dict) else (None, None)
        if role not in SPEAKERS or not isinstance(content, str) or not is_unicode(content):
            raise row.error(column, f"{needed} and value")
        turns.append(Message(role, content))
    return merged(turns)


def said_by(turn: dict[str, Any]) -> tuple[Any, Any]:
    """A turn's role and text, whichever its names for them; None where it lacks them."""
    if "from" in turn and "role" not in turn:
        return SHAREGPT.get(str(turn["from"])), turn.get("value")
    return turn.get("role"), turn.get("content")


def merged(turns: Sequence[Message]) -> list[Message]:
    groups = groupby(turns, key=lambda turn: turn.role)
    return [Message(role, "\n\n".join(turn.content for turn in said)) for role, said in groups]


def without_answer(turns: list[Message]) -> tuple[list[Message], str]:
    if turns[-1].role != "assistant":
        raise UnusableRow("end without an answer")
    return turns[:-1], turns[-1].content


def split_answer(row: Row, turns: list[Message], template: str, column: str) -> tuple[Prompt, str]:
    before, answer = without_answer(turns)
    return asked(row, before, template, column), spoken(answer, template)


def spoken(answer: str, template: str) -> str:
    """An answer as a conversation goes on with it: in a transcript a space follows the speaker's name."""
    return f" {answer}" if template == "plain" else answer


def asked(row: Row, turns: Sequence[Message], template: str, column: str) -> Prompt:
    if not turns or turns[-1].role != "user" or not turns[-1].content.strip():
        raise UnusableRow("have an empty prompt")
    if template == "alpaca" and len(turns) > 1:
        allowed = "a conversation of several turns, or with a system message, needs data.template=chat or plain"
        raise DataError(f"{row.path}, {row.place}: data.template=alpaca is not allowed: {allowed}")
    return placed(conversation_prompt(turns, row.optional_text("dataset"), template), row, column)


# ---- The forms. -----------------------------------------------------------------------------------------------------


def demonstrate(prompt: Prompt, answer: str) -> Demonstration:
    if not answer.strip():
        raise UnusableRow("have an empty answer")
    return Demonstration(prompt, answer)


def alpaca_demonstration(row: Row, template: str) -> Demonstration:
    return demonstrate(instruction_of(row, template), row.text("output"))


def chat_demonstration(row: Row, template: str, column: str = "messages") -> Demonstration:
    return demonstrate(*split_answer(row, messages_of(row, column), template, column))


def completion(row: Row, template: str) -> Demonstration:
    column = next((name for name in ANSWERS if name in row.values), ANSWERS[0])
    return demonstrate(*answered(row, column, template))


def chosen_demonstration(row: Row, template: str) -> Demonstration:
    return demonstrate(*answered(row, "chosen", template))


def prefer(prompt: Prompt, outputs: tuple[str, str], better: int) -> Preference:
    if outputs[0] == outputs[1]:
        raise UnusableRow("prefer one of two identical outputs")
    return Preference(prompt, outputs, better)


def alpaca_preference(row: Row, template: str) -> Preference:
    prompt, outputs = instruction_of(row, template), (row.text("output_1"), row.text("output_2"))
    number = row.values.get("preference")
    # JSON's true would pass for 1.
    if isinstance(number, bool) or number not in (1, 2, *TIES):
        raise row.error("preference", "1 or 2, the number of the better output, or 0 or 1.5 for a tie")
    if number in TIES:
        raise UnusableRow("are ties")
    return prefer(prompt, outputs, int(number) - 1)


def chosen_preference(row: Row, template: str) -> Preference:
    (prompt, better), (other, worse) = answered(row, "chosen", template), answered(row, "rejected", template)
    if prompt != other:
        raise UnusableRow("answer two different prompts")
    return prefer(prompt, (better, worse), 0)


def chat_prompt(row: Row, template: str, column: str = "messages") -> Prompt:
    turns = messages_of(row, column)
    return asked(row, turns[:-1] if turns[-1].role == "assistant" else turns, template, column)


def chosen_prompt(row: Row, template: str) -> Prompt:
    return answered(row, "chosen", template)[0]


DEMONSTRATIONS: dict[str, Reader[Demonstration]] = {
    "messages": chat_demonstration,
    "conversations": partial(chat_demonstration, column="conversations"),
    "instruction": alpaca_demonstration,
    "chosen": chosen_demonstration,
    "prompt": completion,
}
PREFERENCES: dict[str, Reader[Preference]] = {"chosen": chosen_preference, "instruction": alpaca_preference}
PROMPTS: dict[str, Reader[Prompt]] = {
    "messages": chat_prompt,
    "conversations": partial(chat_prompt, column="conversations"),
    "instruction": instruction_of,
    "chosen": chosen_prompt,
    "prompt": prompt_of,
}
"""Readers by the column that marks a form, the more specific first: a table of pairs may have `prompt` too."""

WITHOUT_ANSWERS: dict[str, Reader[Demonstration]] = {
    column: lambda row, template, read=read: Demonstration(read(row, template), "") for column, read in PROMPTS.items()
}
"""Instructions of which none is imitated: their answers need not be there."""
