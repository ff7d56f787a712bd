"""Factuality: of the facts that responses state, the share that is true (FActScore's precision, arXiv 2305.14251)."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from rlhf.config.evaluation import FactScoreConfig, FactualityConfig
from rlhf.data.source import Prompt, Response, Source
from rlhf.errors import EndpointError
from rlhf.evaluation.factscore import FactScorer, describe_facts
from rlhf.evaluation.judge import OnMain, at_once
from rlhf.evaluation.winrate import ratio_and_error

log = logging.getLogger(__name__)

Figures = dict[str, float | None]
Factuality = Callable[[Sequence[Prompt], Sequence[Response]], Figures]


def world_factuality(source: Source, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Figures:
    """Exact, in per cent, over all facts of the biographies; null where none is stated. Errors are over responses."""
    pairs = zip(prompts, responses, strict=True)
    facts = [source.facts(prompt, response) for prompt, response in pairs if prompt.dataset == "biography"]
    counts = [count for count in facts if count is not None]
    right, stated = [float(correct) for correct, _ in counts], [float(correct + wrong) for correct, wrong in counts]
    if len(counts) < 2 or sum(stated) == 0:
        return {"factuality": None, "factuality_se": None}
    ratio, error = ratio_and_error(right, stated)
    return {"factuality": 100 * ratio, "factuality_se": 100 * error}


def no_factuality(source: Source, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Figures:
    return {"factuality": None, "factuality_se": None}


FACTUALITY: dict[str, Callable[[Source, Sequence[Prompt], Sequence[Response]], Figures]] = {
    "world": world_factuality,
    "none": no_factuality,
}


class TextFactuality:
    """FActScore of texts, asked by one of several ranks; null, and told why, where the endpoint gives no answers."""

    def __init__(self, scorer: FactScorer, run_on_main: OnMain = at_once) -> None:
        self.scorer, self.run_on_main = scorer, run_on_main

    def choose(self, prompts: Sequence[Prompt]) -> list[int]:
        """The places of the prompts whose responses count; raises DataError where there are none."""
        return self.scorer.choose([prompt.dataset for prompt in prompts])

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Figures:
        chosen = self.choose(prompts)
        instructions, texts = [prompts[row].instruction for row in chosen], [responses[row].text for row in chosen]
        try:
            checked = self.run_on_main(lambda: self.scorer(instructions, texts))
        except EndpointError as error:
            log.info(f"no factuality: {error}")
            return {"factuality": None, "factuality_se": None}
        return describe_facts(checked, self.scorer.config.penalty_facts)


def measure_factuality(name: str, source: Source, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Figures:
    """What the source itself knows; nothing where a model must be asked."""
    return FACTUALITY.get(name, no_factuality)(source, prompts, responses)


def load_factuality(config: FactualityConfig, source: Source, run_on_main: OnMain = at_once) -> Factuality:
    """By its configuration; raises UserError where a file, a key or a package is missing."""
    if isinstance(config, FactScoreConfig):
        return TextFactuality(FactScorer(config), run_on_main)
    return partial(measure_factuality, config.name, source)
