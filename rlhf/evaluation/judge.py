"""Who compares a policy's responses with the SFT model's."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from rlhf.data.source import Prompt, Response, Source
from rlhf.evaluation.verdicts import Pair, PairJudge

OnMain = Callable[[Callable[[], Any]], Any]
"""Has one of several processes decide, and gives them all what it found: Ranks.run_on_main."""

Score = Callable[[Sequence[Prompt], Sequence[Response]], list[float]]


@runtime_checkable
class Judge(Protocol):
    """Gives a preference per prompt: 2 where the output is better, 1 where the reference is, 1.5 for a tie.

    None where a judgement could not be had. Raises EndpointError where none could.
    """

    def __call__(
        self, prompts: Sequence[Prompt], outputs: Sequence[Response], references: Sequence[Response]
    ) -> list[float | None]: ...


class ScoreJudge:
    """Prefers the response of the higher score: the oracle's utility, or a reward model's score."""

    def __init__(self, score: Score) -> None:
        self.score = score

    def __call__(
        self, prompts: Sequence[Prompt], outputs: Sequence[Response], references: Sequence[Response]
    ) -> list[float | None]:
        pairs = zip(self.score(prompts, outputs), self.score(prompts, references), strict=True)
        return [prefer(output, reference) for output, reference in pairs]


def at_once(decide: Callable[[], Any]) -> Any:
    """For a process that is alone: what `decide` returns."""
    return decide()


class TextJudge:
    """Shows the texts to a judge of texts; of several ranks, one asks it."""

    def __init__(self, judge: PairJudge, run_on_main: OnMain = at_once) -> None:
        self.judge, self.run_on_main = judge, run_on_main

    def __call__(
        self, prompts: Sequence[Prompt], outputs: Sequence[Response], references: Sequence[Response]
    ) -> list[float | None]:
        rows = zip(prompts, outputs, references, strict=True)
        pairs = [Pair(prompt.instruction, output.text, reference.text) for prompt, output, reference in rows]
        return self.run_on_main(lambda: [verdict.preference for verdict in self.judge(pairs)])


def oracle_scores(source: Source) -> Score:
    """The exact utility of responses, for a source that is an oracle."""

    def score(prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[float]:
        utilities = [source.utility(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        return [utility for utility in utilities if utility is not None]

    return score


def prefer(output: float, reference: float, tolerance: float = 1e-6) -> float:
    """The preference that two scores imply; scores within `tolerance` tie, so that float noise decides nothing.

    Raises ValueError on NaN, which would pass for a loss.
    """
    if math.isnan(output) or math.isnan(reference):
        raise ValueError(f"a judge's scores must be numbers, not {output} and {reference}")
    if abs(output - reference) <= tolerance:
        return 1.5
    return 2.0 if output > reference else 1.0
