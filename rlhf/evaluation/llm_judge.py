"""A language model that compares responses, asked once per pair or in both orders."""

import logging
from collections.abc import Sequence

from rlhf.config.evaluation import LlmJudgeConfig
from rlhf.endpoints.answers import Answer
from rlhf.endpoints.endpoint import Endpoint
from rlhf.evaluation.judge_prompt import (
    Messages,
    fill,
    is_switched,
    load_template,
    named_preference,
    ranked_preference,
    weighted_preference,
)
from rlhf.evaluation.verdicts import Pair, Reading, Verdict, combine, identical

log = logging.getLogger(__name__)

TOP_LOGPROBS = 5


class LlmJudge:
    """The judge of `judge=llm`; raises UserError where its template, key or package is missing.

    `verdicts` are all it has given so far.
    """

    def __init__(self, config: LlmJudgeConfig) -> None:
        self.config = config
        self.template = load_template(config.style, config.prompt_file)
        self.endpoint = Endpoint(config, "judge")
        self.verdicts: list[Verdict] = []

    def __call__(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """Identical outputs tie without a question; raises EndpointError where the endpoint gives no answers."""
        orders = [self._orders(pair) for pair in pairs]
        asked = [(pair, switched) for pair, switches in zip(pairs, orders, strict=True) for switched in switches]
        weighs = self.config.style == "preference"
        parameters = {"logprobs": True, "top_logprobs": TOP_LOGPROBS} if weighs else {}
        answers = self.endpoint.ask([self._show(*each) for each in asked], "judge", **parameters)
        readings = [self._read(answer, switched) for answer, (_, switched) in zip(answers, asked, strict=True)]
        if weighs and any(reading.source == "text" for reading in readings):
            log.info(f"judge: {self.config.model} gave no log-probabilities; preferences are whole, by its words")
        rows = iter(readings)
        verdicts = [combine([next(rows) for _ in switches]) if switches else identical() for switches in orders]
        self.verdicts += verdicts
        return verdicts

    def _orders(self, pair: Pair) -> list[bool]:
        if pair.output == pair.reference:
            return []
        return [False, True] if self.config.order == "both" else [is_switched(pair.instruction)]

    def _show(self, pair: Pair, switched: bool) -> Messages:
        first, second = (pair.output, pair.reference) if switched else (pair.reference, pair.output)
        values = {"instruction": pair.instruction, "output_1": first, "output_2": second}
        values |= {f"label_{number}": label for number, label in enumerate(self.config.labels, start=1)}
        return fill(self.template, values)

    def _read(self, answer: Answer, switched: bool) -> Reading:
        labels = self.config.labels
        if self.config.style == "ranking":
            preference, source = ranked_preference(answer.text, labels), "text"
        elif answer.logprobs is not None:
            preference, source = weighted_preference(answer.logprobs, labels), "logprobs"
        else:
            preference, source = named_preference(answer.text, labels), "text"
        if preference is None:
            problem = answer.problem or "the answer names no preference"
            return Reading(None, None, switched, answer.text, problem)
        return Reading(3 - preference if switched else preference, source, switched, answer.text)
