"""Factuality: of the facts that responses state, the share that is true; and how much responses repeat themselves."""

from collections.abc import Callable, Sequence
from typing import Any

from rlhf.config.evaluation import FactualityConfig
from rlhf.data.source import Prompt, Response, Source
from rlhf.evaluation.judges import Resources, find_measure
from rlhf.evaluation.winrate import ratio_and_error

NGRAM = 4

Figures = dict[str, float | None]
NOTHING: Figures = {"factuality": None, "factuality_se": None}

Factuality = Callable[[Sequence[Prompt], Sequence[Response]], Figures]


def world(config: FactualityConfig, resources: Resources) -> Factuality:
    """Count facts as the embedded world knows them: exact, in per cent, over all facts of the biographies.

    Null where none is stated. Errors are over responses.
    """
    source = resources.source
    assert source is not None

    def measure(prompts: Sequence[Prompt], responses: Sequence[Response]) -> Figures:
        pairs = zip(prompts, responses, strict=True)
        facts = [source.facts(prompt, response) for prompt, response in pairs if prompt.dataset == "biography"]
        counts = [count for count in facts if count is not None]
        right, stated = [float(correct) for correct, _ in counts], [float(sum(count)) for count in counts]
        if len(counts) < 2 or sum(stated) == 0:
            return NOTHING
        ratio, error = ratio_and_error(right, stated)
        return {"factuality": 100 * ratio, "factuality_se": 100 * error}

    return measure


def none(config: FactualityConfig, resources: Resources) -> Factuality:
    """Measure nothing."""
    return lambda prompts, responses: NOTHING


FACTUALITY: dict[str, Callable[[Any, Resources], Factuality]] = {"world": world, "none": none}
"""Constructors by name. A measure in a file of its own, rlhf/evaluation/NAME.py, adds itself when that is imported."""


def load_factuality(config: FactualityConfig, resources: Resources) -> Factuality:
    """The measure of a configuration; raises UserError where a file, a key or a package is missing."""
    return find_measure(FACTUALITY, config)(config, resources)


def measure_factuality(
    config: FactualityConfig, source: Source, prompts: Sequence[Prompt], responses: Sequence[Response]
) -> Figures:
    """What is known without asking anybody; nothing where an endpoint would be asked."""
    measure = none if config.asks_endpoint else find_measure(FACTUALITY, config)
    return measure(config, Resources(source))(prompts, responses)


def repeated_share(token_ids: Sequence[int]) -> float:
    """The share of a response's 4-grams that stood in it before; 0 where it has fewer than two."""
    ngrams = [tuple(token_ids[start : start + NGRAM]) for start in range(len(token_ids) - NGRAM + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
