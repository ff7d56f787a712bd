"""Each form of rows, read by hand: what a person sees, what the model reads, what is imitated or preferred."""

import logging
from typing import Any

import pytest

from rlhf.data.files import Row
from rlhf.data.formats import DEMONSTRATIONS, PREFERENCES, PROMPTS, Preference, read_all
from rlhf.data.source import Demonstration, Message, Prompt
from rlhf.data.tables import Table
from rlhf.data.templates import alpaca_prompt
from rlhf.errors import DataError

FORMATS: dict[str, Any] = {"instructions": DEMONSTRATIONS, "preferences": PREFERENCES, "evaluation": PROMPTS}


def read(part: str, template: str, *rows: dict[str, Any]) -> list[Any]:
    table = Table("t", [Row(row, "t", f"row {number}") for number, row in enumerate(rows)])
    return read_all(table, part, FORMATS[part], template)


def said(*contents: str, first: str = "user") -> list[dict[str, str]]:
    """Messages in turn, of a user and an assistant, from that role on."""
    roles = {"system": ["system"], "user": [], "assistant": []}[first] + ["user", "assistant"] * 9
    start = roles.index(first)
    return [{"role": role, "content": content} for role, content in zip(roles[start:], contents, strict=False)]


ADD = {"instruction": "Add.", "input": "1 2", "dataset": "maths"}


@pytest.mark.parametrize(
    ("template", "text"), [("alpaca", alpaca_prompt("Add.", "1 2")), ("plain", "Add.\n\n1 2"), ("chat", "Add.\n\n1 2")]
)
def test_alpaca_rows(template: str, text: str) -> None:
    messages = (Message("user", "Add.\n\n1 2"),) if template == "chat" else ()
    prompt = Prompt("Add.\n\n1 2", text, "maths", messages=messages)
    assert read("evaluation", template, ADD) == [prompt]
    assert read("instructions", template, ADD | {"output": "3"}) == [Demonstration(prompt, "3")]
    row = ADD | {"output_1": "4", "output_2": "3", "preference": 2}
    assert read("preferences", template, row) == [Preference(prompt, ("4", "3"), better=1)]


QA = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


@pytest.mark.parametrize(
    ("template", "prompt", "answer"),
    [
        ("chat", Prompt("Q", "\n\nHuman: Q\n\nAssistant:", "", messages=(Message("user", "Q"),)), "A"),
        ("plain", Prompt("Q", "\n\nHuman: Q\n\nAssistant:", ""), " A"),
        ("alpaca", Prompt("Q", alpaca_prompt("Q", ""), ""), "A"),
    ],
)
def test_messages(template: str, prompt: Prompt, answer: str) -> None:
    assert read("instructions", template, {"messages": QA}) == [Demonstration(prompt, answer)]
    assert read("evaluation", template, {"messages": QA}, {"messages": QA[:1]}) == [prompt, prompt]


def test_a_conversation_of_several_turns_is_shown_as_a_transcript() -> None:
    row = {"messages": said("Be kind.", "Hi", "Hello!", "Bye", "See you.", first="system")}
    [chat] = read("instructions", "chat", row)
    assert chat.prompt.instruction == "Human: Hi\n\nAssistant: Hello!\n\nHuman: Bye"
    assert [message.role for message in chat.prompt.messages] == ["system", "user", "assistant", "user"]
    assert chat.text == "See you."
    [plain] = read("instructions", "plain", row)
    assert plain.prompt.text == ("\n\nSystem: Be kind.\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Bye\n\nAssistant:")
    assert plain.prompt.messages == ()


def test_a_system_message_is_for_the_model_alone() -> None:
    [prompt] = read("evaluation", "chat", {"messages": said("Be kind.", "Hi", first="system")})
    assert prompt.instruction == "Hi"
    assert prompt.messages == (Message("system", "Be kind."), Message("user", "Hi"))


def test_turns_of_one_speaker_in_a_row_are_one() -> None:
    row = {"messages": [*said("Hi"), *said("Are you there?", "Yes.")]}
    [demonstration] = read("instructions", "chat", row)
    assert demonstration.prompt.messages == (Message("user", "Hi\n\nAre you there?"),)


def test_sharegpt_conversations_are_messages_by_other_names() -> None:
    names = {"user": "human", "assistant": "gpt"}

    def theirs(*contents: str) -> list[dict[str, str]]:
        return [{"from": names[turn["role"]], "value": turn["content"]} for turn in said(*contents)]

    pair = {"conversations": theirs("Hi"), "chosen": theirs("", "Hello!")[1], "rejected": theirs("", "What?")[1]}
    same = {"prompt": said("Hi"), "chosen": said("", "Hello!")[1:], "rejected": said("", "What?")[1:]}
    assert read("preferences", "chat", pair) == read("preferences", "chat", same)
    for part in ("instructions", "evaluation"):
        row, ours = {"conversations": theirs("Hi", "Hello!")}, {"messages": said("Hi", "Hello!")}
        assert read(part, "chat", row) == read(part, "chat", ours)
    with pytest.raises(DataError, match=r"field 'conversations' .* from \(system, human, user, gpt, assistant\)"):
        read("evaluation", "chat", {"conversations": [{"from": "tool", "value": "x"}]})


def test_hh_transcripts() -> None:
    opening = "\n\nHuman: Hi \n\nAssistant: Hello!\n\nHuman: A joke: please?\n\nAssistant:"
    row = {"chosen": f"{opening} A horse walks in.", "rejected": f"{opening} No.\n"}
    shown = "Human: Hi\n\nAssistant: Hello!\n\nHuman: A joke: please?"
    text = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: A joke: please?\n\nAssistant:"
    plain = Prompt(shown, text, "")
    assert read("preferences", "plain", row) == [Preference(plain, (" A horse walks in.", " No."), better=0)]
    assert read("instructions", "plain", row) == [Demonstration(plain, " A horse walks in.")]
    assert read("evaluation", "plain", row) == [plain]
    turns = (Message("user", "Hi"), Message("assistant", "Hello!"), Message("user", "A joke: please?"))
    [chat] = read("preferences", "chat", row)
    assert (chat.prompt.messages, chat.outputs) == (turns, ("A horse walks in.", "No."))


HI = Prompt("Hi", "Hi", "", messages=(Message("user", "Hi"),))
HI_SAID = Prompt("Hi", "\n\nHuman: Hi\n\nAssistant:", "", messages=(Message("user", "Hi"),))


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}, HI),
        ({"prompt": said("Hi"), "chosen": "Hello!", "rejected": "What?"}, HI_SAID),
        # only the answers as messages, behind a prompt of either kind
        (
            {"prompt": "Hi", "chosen": said("Hello!", first="assistant"), "rejected": said("What?", first="assistant")},
            HI,
        ),
        (
            {
                "prompt": said("Hi"),
                "chosen": said("Hello!", first="assistant"),
                "rejected": said("What?", first="assistant"),
            },
            HI_SAID,
        ),
        # whole conversations, with the prompt once more beside them or not
        ({"prompt": "Hi", "chosen": said("Hi", "Hello!"), "rejected": said("Hi", "What?"), "messages": QA}, HI_SAID),
        ({"chosen": said("Hi", "Hello!"), "rejected": said("Hi", "What?")}, HI_SAID),
    ],
    ids=["texts", "messages-texts", "text-messages", "messages", "whole-with-prompt", "whole"],
)
def test_chosen_and_rejected(row: dict[str, Any], prompt: Prompt) -> None:
    assert read("preferences", "chat", row) == [Preference(prompt, ("Hello!", "What?"), better=0)]


def test_a_prompt_in_words_is_put_in_the_template_or_left_alone() -> None:
    row = {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}
    assert read("preferences", "alpaca", row)[0].prompt == Prompt("Hi", alpaca_prompt("Hi", ""), "")
    assert read("preferences", "plain", row) == [Preference(Prompt("Hi", "Hi", ""), ("Hello!", "What?"), 0)]


@pytest.mark.parametrize("column", ["completion", "response"])
def test_prompt_and_completion(column: str) -> None:
    words = {"prompt": "Hi", column: "Hello!"}
    turns = {"prompt": said("Hi"), column: said("Hello!", first="assistant")}
    assert read("instructions", "chat", words) == [Demonstration(HI, "Hello!")]
    assert read("instructions", "chat", turns) == [Demonstration(HI_SAID, "Hello!")]
    assert read("evaluation", "chat", {"prompt": "Hi"}) == [HI]


def test_the_more_telling_column_wins() -> None:
    both = {"prompt": "P", "messages": QA, "instruction": "I", "output": "O", "chosen": "C", "rejected": "R"}
    assert read("instructions", "alpaca", both)[0].prompt.instruction == "Q"
    assert read("evaluation", "alpaca", both)[0].instruction == "Q"
    assert read("preferences", "alpaca", both)[0].prompt.instruction == "P"


START = "\n\nHuman: Hi\n\nAssistant:"


@pytest.mark.parametrize(
    ("part", "template", "rows", "left", "reasons"),
    [
        (
            "instructions",
            "alpaca",
            [
                {"instruction": ask, "output": answer}
                for ask, answer in (("x", "y"), (" ", "y"), ("x", "\n"), ("x", ""))
            ],
            1,
            ["1 rows that have an empty prompt", "2 rows that have an empty answer"],
        ),
        (
            "instructions",
            "chat",
            [
                {"messages": turns}
                for turns in (said("Hi", "Hello!"), said("Hi"), said(" ", "Hello!"), said("Hello!", first="assistant"))
            ],
            1,
            ["1 rows that end without an answer", "2 rows that have an empty prompt"],
        ),
        (
            "preferences",
            "chat",
            [
                {"chosen": f"{START} a", "rejected": f"{START} b"},
                {"chosen": f"{START} a", "rejected": "\n\nHuman: Bye\n\nAssistant: b"},
                {"chosen": f"{START} a", "rejected": f"{START} a"},
                {"chosen": f"{START} a", "rejected": START},  # to say nothing can be the worse answer
            ],
            2,
            ["1 rows that answer two different prompts", "1 rows that prefer one of two identical outputs"],
        ),
        (
            "preferences",
            "alpaca",
            [{"instruction": "x", "output_1": "a", "output_2": "b", "preference": number} for number in (0, 1.5, 2)],
            1,
            ["2 rows that are ties"],
        ),
    ],
    ids=["instructions", "messages", "chosen", "preference"],
)
def test_rows_with_nothing_to_learn_from_are_left_out_and_counted(
    part: str,
    template: str,
    rows: list[dict[str, Any]],
    left: int,
    reasons: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    assert len(read(part, template, *rows)) == left
    told = [message.split(", the first at")[0] for message in caplog.messages]
    assert told == [f"t: left out {reason}" for reason in reasons]


GOOD = ADD | {"output": "3", "output_1": "4", "output_2": "3", "preference": 2}


@pytest.mark.parametrize(
    ("part", "row", "complaint"),
    [
        (
            "preferences",
            {"question": "x", "answer": "y"},
            r"data\.preferences: .* question, answer: .* chosen, instruction",
        ),
        ("instructions", {"messages": "Q"}, "'messages' is \"Q\""),
        ("evaluation", {"messages": []}, r"'messages' is \[\]"),
        (
            "evaluation",
            {"messages": [{"role": "tool", "content": "Q"}]},
            r"'messages' is .*\(system, user, assistant\)",
        ),
        ("evaluation", {"messages": [{"role": "user", "content": None}]}, "'messages' is"),
        ("evaluation", {"messages": ["Q"]}, "'messages' is"),
        ("instructions", {"prompt": "x"}, "'completion' is missing"),
        ("instructions", {"prompt": "x", "response": 1}, "'response' is 1"),
        ("preferences", {"chosen": said("Q", "A")}, "'rejected' is missing"),
        (
            "preferences",
            {"chosen": said("A", first="assistant"), "rejected": said("B", first="assistant")},
            "'prompt' is missing",
        ),
        (
            "preferences",
            {"chosen": "A", "rejected": "B"},
            '\'chosen\' is "A": .*begins with "Human:", or .* column prompt',
        ),
        ("instructions", GOOD | {"instruction": 0}, "'instruction' is 0"),
        ("instructions", ADD, "'output' is missing"),
        ("preferences", GOOD | {"output_1": 5}, "'output_1' is 5"),
        ("evaluation", GOOD | {"dataset": 1}, "'dataset' is 1"),
        ("preferences", GOOD | {"preference": 3}, "'preference' is 3"),
        ("preferences", GOOD | {"preference": "1"}, "'preference' is \"1\""),
        ("preferences", GOOD | {"preference": None}, "'preference' is null"),
        ("preferences", GOOD | {"preference": True}, "'preference' is true"),
        ("preferences", GOOD | {"preference": 1.2}, "'preference' is 1.2"),
    ],
)
def test_a_wrong_row_is_named(part: str, row: dict[str, Any], complaint: str) -> None:
    place = "" if complaint.startswith("data") else "t, row 0, field "
    with pytest.raises(DataError, match=f"^{place}{complaint}"):
        read(part, "chat", row)


def test_rows_are_read_in_the_form_of_the_first() -> None:
    with pytest.raises(DataError, match=r"^t, row 1, field 'messages' is missing"):
        read("instructions", "chat", {"messages": QA}, GOOD)


def test_alpacas_template_has_one_turn_only() -> None:
    rows = [{"messages": QA}, {"messages": said("Be kind.", "Hi", "Hello!", first="system")}]
    with pytest.raises(DataError, match=r"^t, row 1: data\.template=alpaca"):
        read("instructions", "alpaca", *rows)
