from rlhf.data.templates import alpaca_prompt, shown_instruction


def test_prompt_with_input() -> None:
    assert alpaca_prompt("Translate to German.", "Good {day}") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nTranslate to German.\n\n### Input:\nGood {day}\n\n### Response:"
    )


def test_prompt_without_input() -> None:
    assert alpaca_prompt("Fill in {input}.", "") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nFill in {input}.\n\n### Response:"
    )


def test_shown_instruction() -> None:
    assert shown_instruction("Sort.", "3 1") == "Sort.\n\n3 1"
    assert shown_instruction("Sort.", "") == "Sort."
