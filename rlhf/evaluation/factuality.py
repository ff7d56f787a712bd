"""Factuality: of the facts that biographies state, the share that is true (FActScore's precision, arXiv 2305.14251)."""

from collections.abc import Callable, Sequence

from rlhf.data.source import Prompt, Response, Source
from rlhf.evaluation.winrate import ratio_and_error

Figures = dict[str, float | None]


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


def measure_factuality(name: str, source: Source, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Figures:
    return FACTUALITY[name](source, prompts, responses)
