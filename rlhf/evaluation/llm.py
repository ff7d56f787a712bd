"""judge=llm: a language model that compares responses, asked once per pair or in both orders.

A template is text with {instruction}, {output_1} and {output_2}, and where it wants them {label_1} and {label_2}, the
names of the two. It may be divided into messages in ChatML's way: <|im_start|>ROLE, the text, <|im_end|>.
"""

import logging
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf.config.evaluation import LlmJudgeConfig
from rlhf.data.files import read_text
from rlhf.endpoints.answers import Answer
from rlhf.endpoints.endpoint import Endpoint, Messages, enclosed
from rlhf.errors import DataError
from rlhf.evaluation.judges import JUDGES, Pair, Reading, Resources, TextJudge, Verdict

log = logging.getLogger(__name__)

TOP_LOGPROBS = 5

NEEDED = ("instruction", "output_1", "output_2")

SHOWN = """\
<|im_start|>system
You compare two responses to one request, as a careful reader who has no stake in either.<|im_end|>
<|im_start|>user
<request>
{instruction}
</request>

<response name="{label_1}">
{output_1}
</response>

<response name="{label_2}">
{output_2}
</response>

"""

WEIGHED = """\
Would most people rather have been given {label_1} or {label_2}? What counts is whether a response does what the \
request asks, whether it is correct, and whether it is clear. Being shown first counts for nothing, and neither does \
mere length.

"""

TEMPLATES = {
    "preference": SHOWN + WEIGHED + "Reply with the name alone: {label_1} or {label_2}.<|im_end|>",
    "ranking": SHOWN
    + WEIGHED
    + "Reply with nothing but a JSON list of both, rank 1 for the better, in this form:\n"
    + '[{"model": "{label_1}", "rank": ...}, {"model": "{label_2}", "rank": ...}]<|im_end|>',
}
"""The built-in templates, by `judge.style`."""


class LlmJudge(TextJudge):
    """Asks the model of `judge`; raises UserError where its template, key or package is missing."""

    def __init__(self, config: LlmJudgeConfig, resources: Resources) -> None:
        super().__init__(config, resources)
        self.template = load_template(config.style, config.prompt_file)
        self.endpoint = Endpoint(config, "judge")

    def compare(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """Identical outputs tie without a question; raises EndpointError where the endpoint gives no answers."""
        orders = [self._orders(pair) for pair in pairs]
        asked = [(pair, switched) for pair, switches in zip(pairs, orders, strict=True) for switched in switches]
        weighs = self.config.style == "preference"
        parameters = {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if weighs else {}
        answers = self.endpoint.ask([self._show(*each) for each in asked], "judge", self._unreadable, **parameters)
        readings = [self._read(answer, switched) for answer, (_, switched) in zip(answers, asked, strict=True)]
        if weighs and any(reading.source == "text" for reading in readings):
            log.info(f"judge: {self.config.model} gave no log-probabilities; preferences are whole, by its words")
        rows = iter(readings)
        return [Verdict([next(rows) for _ in switches] or [Reading(1.5, "identical")]) for switches in orders]

    def usage(self) -> dict[str, Any]:
        """Questions, tokens and costs so far."""
        return asdict(self.endpoint.usage)

    def _orders(self, pair: Pair) -> list[bool]:
        if pair.output == pair.reference:
            return []
        return [False, True] if self.config.order == "both" else [is_switched(pair.instruction)]

    def _show(self, pair: Pair, switched: bool) -> Messages:
        first, second = (pair.output, pair.reference) if switched else (pair.reference, pair.output)
        values = {"instruction": pair.instruction, "output_1": first, "output_2": second}
        values |= {f"label_{number}": label for number, label in enumerate(self.config.labels, start=1)}
        return fill(self.template, values)

    def _preference(self, answer: Answer) -> tuple[float | None, str]:
        """From 1, for what was shown first, to 2, or None; and what that was read from."""
        labels = self.config.labels
        if self.config.style == "ranking":
            return ranked_preference(answer.text, labels), "text"
        if answer.logprobs is not None:
            return weighted_preference(answer.logprobs, labels), "logprobs"
        return named_preference(answer.text, labels), "text"

    def _unreadable(self, answer: Answer) -> str | None:
        """What is wrong with an answer that is to be asked for again the next time."""
        cut = ", and is cut off" if answer.cut else ""
        return f"the answer names no preference{cut}" if self._preference(answer)[0] is None else None

    def _read(self, answer: Answer, switched: bool) -> Reading:
        preference, source = self._preference(answer)
        if preference is None or answer.problem is not None:
            return Reading(None, None, switched, answer.text, answer.problem or "the answer names no preference")
        return Reading(3 - preference if switched else preference, source, switched, answer.text)


JUDGES["llm"] = LlmJudge


def load_template(style: str, path: str | None) -> Messages:
    """The built-in template of a style, or the user's file; raises DataError where that lacks a placeholder."""
    if path is None:
        return split_messages(TEMPLATES[style])
    file = Path(path).expanduser()
    text = read_text(file, "judge.prompt_file")
    missing = [f"{{{name}}}" for name in NEEDED if f"{{{name}}}" not in text]
    if missing:
        raise DataError(f"judge.prompt_file: {file} lacks {', '.join(missing)}")
    return split_messages(text)


def split_messages(text: str) -> Messages:
    """The messages of a text in ChatML; a text without its marks is one message of the user's."""
    parts = re.findall(r"<\|im_start\|>(system|user|assistant)\n(.*?)<\|im_end\|>", text, re.DOTALL)
    return [{"role": role, "content": content.strip()} for role, content in parts or [("user", text)]]


def fill(template: Messages, values: Mapping[str, str]) -> Messages:
    """All placeholders at once, so that braces in a response stay text; what is shown can close no tag around it."""
    pattern = re.compile("|".join(rf"\{{{name}\}}" for name in values))
    tags = re.findall(r"</\s*([\w-]+)", "".join(message["content"] for message in template))
    shown = {name: enclosed(value, tags) for name, value in values.items()}
    return [
        {**message, "content": pattern.sub(lambda found: shown[found[0][1:-1]], message["content"])}
        for message in template
    ]


def is_switched(instruction: str) -> bool:
    """Whether the judged output is shown first: a coin per instruction, tossed as AlpacaEval tosses it."""
    return random.Random(f"is_switched_outputs{instruction}0").choices([False, True])[0]


def weighted_preference(logprobs: Mapping[str, float], labels: Sequence[str]) -> float | None:
    """2 - p(first) / (p(first) + p(second)), between 1 (the first for certain) and 2; None where neither has a chance.

    AlpacaEval 2's (arXiv 2404.04475). Where no token is a label, those count that differ from one by white space.
    """
    tokens = [(token, math.exp(logprob)) for token, logprob in logprobs.items()]
    if not any(token in labels for token, _ in tokens):
        tokens = [(token.strip(), chance) for token, chance in tokens]
    first, second = (sum(chance for token, chance in tokens if token == label) for label in labels)
    return 2 - first / (first + second) if first + second > 0 else None


def named_preference(text: str, labels: Sequence[str]) -> float | None:
    """1 or 2 where the text is the first or the second label, whatever marks surround it; else None."""
    name = text.strip().strip("\"'`*.()[] ")
    return float(labels.index(name) + 1) if name in labels else None


def ranked_preference(text: str, labels: Sequence[str]) -> float | None:
    """1 or 2 by which label has rank 1, and 1.5 where both have; None where the text does not rank both."""
    pairs = re.findall(r"""["']?model["']?\s*:\s*["']([^"']+)["']\s*,\s*["']?rank["']?\s*:\s*(\d{1,3})(?!\d)""", text)
    ranks = {name: int(rank) for name, rank in pairs}
    if len(pairs) != 2 or set(ranks) != set(labels) or min(ranks.values()) != 1 or max(ranks.values()) > 2:
        return None
    first, second = (ranks[label] for label in labels)
    return 1.5 if first == second else float(1 + (first > second))
