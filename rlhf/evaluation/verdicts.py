"""Pairs of texts, what a judge reads out of them, and what its verdicts say about the judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Pair:
    """What is compared: the judged output and its reference, to one instruction."""

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
    source: str | None
    switched: bool
    answer: str
    problem: str | None = None


@dataclass(frozen=True)
class Verdict:
    """The judge's preference on a pair, the mean over the orders asked; None where one of them could not be read."""

    preference: float | None
    readings: list[Reading]


PairJudge = Callable[[Sequence[Pair]], list[Verdict]]
"""Compares texts; what fails as a whole raises a UserError."""


def identical() -> Verdict:
    return Verdict(1.5, [Reading(1.5, "identical", False, "")])


def combine(readings: list[Reading]) -> Verdict:
    preferences = [reading.preference for reading in readings if reading.preference is not None]
    whole = len(preferences) == len(readings)
    return Verdict(sum(preferences) / len(preferences) if whole else None, readings)


def describe_verdicts(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """What the judge did: counts of verdicts and answers, and shares that tell how it leans.

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


def leaning(reading: Reading) -> float:
    """Above 0 towards the output, below towards the reference; 0 for a tie or nothing."""
    return 0.0 if reading.preference is None else reading.preference - 1.5


def share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
