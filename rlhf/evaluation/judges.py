"""Judges: what compares a policy's responses with the SFT model's, by name.

A judge is a callable (`Judge`); one that reads nothing but texts is a `TextJudge`. JUDGES has the constructor of each
by the name that its configuration has; docs/extending.md shows how to add one.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

from rlhf.config.evaluation import JudgeConfig, MeasureConfig
from rlhf.data.source import Prompt, Response, Source
from rlhf.errors import EndpointError
from rlhf.validate import check

OnMain = Callable[[Callable[[], Any]], Any]
"""Calls a function on one of several processes, and returns what it found on all: Ranks.run_on_main."""

Score = Callable[[Sequence[Prompt], Sequence[Response]], list[float]]


def at_once(decide: Callable[[], Any]) -> Any:
    """Run on the only process: call `decide`."""
    return decide()


@dataclass(frozen=True)
class Resources:
    """What a run has for its judge and its factuality measure; of finished outputs there are only `prompts`."""

    source: Source | None = None
    prompts: Sequence[Prompt] = ()  # that are evaluated
    score: Score | None = None  # by the model of the run that the judge's configuration asks for, if it does
    run_on_main: OnMain = at_once


@runtime_checkable
class Judge(Protocol):
    """Gives a preference per prompt: 2 where the output is better, 1 where the reference is, 1.5 for a tie.

    None where a judgement could not be had. Raises EndpointError where none could.
    """

    def __call__(
        self, prompts: Sequence[Prompt], outputs: Sequence[Response], references: Sequence[Response]
    ) -> list[float | None]: ...


JUDGES: dict[str, Callable[[Any, Resources], Judge]] = {}
"""Constructors by name. A judge in a file of its own, rlhf/evaluation/NAME.py, adds itself when that is imported."""


def load_judge(config: JudgeConfig, resources: Resources) -> Judge:
    """The judge of a configuration; raises UserError where a file, a key or a package is missing."""
    return find_measure(JUDGES, config)(config, resources)


def find_measure(table: Mapping[str, Callable[[Any, Resources], Any]], config: MeasureConfig) -> Callable[..., Any]:
    """The constructor that a table has for `config.name`, after importing the file of that name if there is one."""
    module = f"rlhf.evaluation.{config.name}"
    if config.name not in table and find_spec(module) is not None:
        import_module(module)
    check(config.name in table, f"{config.section}.name", config.name, f"choose one of {', '.join(table)}")
    return table[config.name]


@runtime_checkable
class Asks(Protocol):
    """A judge or a factuality measure that asks a language model."""

    def asked(self) -> dict[str, Any]:
        """What a run's metrics say of it: questions, tokens, costs."""
        ...


def asked(**measures: object) -> dict[str, Any]:
    """What a run's metrics say of those of its measures that ask a language model."""
    return {name: measure.asked() for name, measure in measures.items() if isinstance(measure, Asks)}


# ---- Judges by scores. --------------------------------------------------------------------------------------------


class ScoreJudge:
    """Prefers the response of the higher score: the oracle's utility, a verifier's or a reward model's score."""

    def __init__(self, score: Score) -> None:
        self.score = score

    def __call__(
        self, prompts: Sequence[Prompt], outputs: Sequence[Response], references: Sequence[Response]
    ) -> list[float | None]:
        pairs = zip(self.score(prompts, outputs), self.score(prompts, references), strict=True)
        return [prefer(output, reference) for output, reference in pairs]


def prefer(output: float, reference: float, tolerance: float = 1e-6) -> float:
    """The preference that two scores imply; scores within `tolerance` tie, so that float noise decides nothing.

    Raises ValueError on NaN, which would pass for a loss.
    """
    if math.isnan(output) or math.isnan(reference):
        raise ValueError(f"a judge's scores must be numbers, not {output} and {reference}")
    if abs(output - reference) <= tolerance:
        return 1.5
    return 2.0 if output > reference else 1.0


def oracle(config: JudgeConfig, resources: Resources) -> ScoreJudge:
    """Compares exact utilities, for a source that is an oracle."""
    source = resources.source
    assert source is not None

    def utilities(prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[float]:
        found = [source.utility(*pair) for pair in zip(prompts, responses, strict=True)]
        return [utility for utility in found if utility is not None]

    return ScoreJudge(utilities)


def by_model(config: JudgeConfig, resources: Resources) -> ScoreJudge:
    """Compares scores of the second reward model, or of the reward that PPO optimizes."""
    assert resources.score is not None
    return ScoreJudge(resources.score)


def no_judge(config: JudgeConfig, resources: Resources) -> Judge:
    """Judges nothing."""
    return lambda prompts, outputs, references: [None] * len(prompts)


JUDGES |= {"oracle": oracle, "reward_model": by_model, "reward": by_model, "none": no_judge}


# ---- Judges of texts. ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two texts to compare: the judged output and its reference, to one instruction."""

    instruction: str
    output: str
    reference: str


@dataclass(frozen=True)
class Reading:
    """One answer: the preference it gives (2: the output, 1: the reference), and what that was read from.

    `source` is "logprobs", "text", "identical" or "annotation" (no question was asked), or None where nothing could be
    read; `switched`, whether the output was shown first.
    """

    preference: float | None
    source: str | None = "text"
    switched: bool = False
    answer: str = ""
    problem: str | None = None


@dataclass(frozen=True)
class Verdict:
    """The judge's preference on a pair, the mean over the orders asked; None where one of them could not be read."""

    readings: list[Reading]

    @property
    def preference(self) -> float | None:
        found = [reading.preference for reading in self.readings if reading.preference is not None]
        return sum(found) / len(found) if len(found) == len(self.readings) else None


class TextJudge(ABC):
    """A judge that is shown texts alone, so that it can also judge finished outputs.

    `verdicts` are all that it gave in a run. A subclass says how it compares, and by `usage` what it was asked.
    """

    def __init__(self, config: Any, resources: Resources) -> None:
        self.config, self.run_on_main = config, resources.run_on_main
        self.verdicts: list[Verdict] = []

    @abstractmethod
    def compare(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """A verdict on each pair; raises a UserError where none can be had."""

    def usage(self) -> dict[str, Any]:
        """Questions, tokens and costs so far, where an endpoint is asked."""
        return {}

    def asked(self) -> dict[str, Any]:
        """What a run's metrics say of the judge: its usage, and how it leant."""
        return self.usage() | describe_verdicts(self.verdicts)

    def __call__(
        self, prompts: Sequence[Prompt], outputs: Sequence[Response], references: Sequence[Response]
    ) -> list[float | None]:
        rows = zip(prompts, outputs, references, strict=True)
        pairs = [Pair(prompt.instruction, output.text, reference.text) for prompt, output, reference in rows]
        return self.run_on_main(lambda: self._judge(pairs))

    def _judge(self, pairs: Sequence[Pair]) -> list[float | None]:
        verdicts = self.compare(pairs)
        self.verdicts += verdicts
        check_useful(self.verdicts, self.config)
        return [verdict.preference for verdict in verdicts]


def describe_verdicts(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What the judge did: counts of verdicts and answers, and shares that show how it leans.

    `first_preferred` is, of the answers that decide, the share for what was shown first; `inconsistent`, of the pairs
    asked in both orders, the share whose winner changed with the order. None where there is nothing to divide by.
    """
    readings = [reading for verdict in verdicts for reading in verdict.readings]
    asked = [each for each in readings if each.source in ("logprobs", "text")]
    first = [(leaning(each) > 0) == each.switched for each in asked if leaning(each) != 0]
    both = [verdict.readings for verdict in verdicts if len(verdict.readings) == 2 and verdict.preference is not None]
    turned = [leaning(one) * leaning(other) < 0 for one, other in both]
    return {
        "n_null": sum(verdict.preference is None for verdict in verdicts),
        "n_identical": sum(each.source == "identical" for each in readings),
        "n_from_text": sum(each.source == "text" for each in readings),
        "first_preferred": share(first),
        "inconsistent": share(turned),
        "problems": sorted({each.problem for each in readings if each.problem is not None})[:5],
    }


ONE_SIDED, TURNED, FEWEST = 0.95, 0.5, 40
"""From here on the order of the two texts decides, and not what they say, as far as so many answers at least show."""


def order_decides(verdicts: Sequence[Verdict]) -> str | None:
    """Why a judge is useless: it names the same place nearly always, or turns round with the order; else None."""
    found = describe_verdicts(verdicts)
    readings = [reading for verdict in verdicts for reading in verdict.readings if leaning(reading) != 0]
    first, turned = found["first_preferred"], found["inconsistent"]
    if len(readings) < FEWEST:
        return None
    if turned is not None and turned >= TURNED:
        return f"in {100 * turned:.0f} % of the pairs the winner changes with the order in which they are shown"
    if first is not None and max(first, 1 - first) >= ONE_SIDED:
        return f"in {100 * first:.0f} % of its answers the winner is what is shown first"
    return None


def check_useful(verdicts: Sequence[Verdict], config: Any) -> None:
    """Raises EndpointError where the judge has shown itself to be useless, unless its configuration forces it."""
    why = None if getattr(config, "force", True) else order_decides(verdicts)
    if why is not None:
        raise EndpointError(
            f"judge={config.name} is useless here: {why}. Choose another model, or take its word all the same: "
            "judge.force=true (its answers are kept)"
        )


def leaning(reading: Reading) -> float:
    """Above 0 towards the output, below towards the reference; 0 for a tie or nothing."""
    return 0.0 if reading.preference is None else reading.preference - 1.5


def share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
