"""The prompt templates of Stanford Alpaca, word for word, which AlpacaFarm also trains and evaluates with.

Plain text only: the tokens that open a prompt are the business of whoever encodes it.
"""

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


def alpaca_prompt(instruction: str, context: str) -> str:
    """What the model reads, ready to be continued by its response."""
    template = WITH_INPUT if context else WITHOUT_INPUT
    return template.format(instruction=instruction, input=context)


def shown_instruction(instruction: str, context: str) -> str:
    """What AlpacaEval shows to a judge: the instruction and, a blank line further, its input where there is one."""
    return f"{instruction}\n\n{context}" if context else instruction
