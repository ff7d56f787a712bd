"""What a judge made of each response, and the win rates that follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.evaluation.length_control import length_controlled_win_rate
from rlhf.evaluation.winrate import win_rate_over_draws

Figures = dict[str, Any]


@dataclass(frozen=True)
class Judgement:
    """Of one prompt: a preference per reference (None where it could not be had), and lengths, all in one unit.

    `preferences` as a whole is None where the prompt is left out.
    """

    preferences: list[float | None] | None
    length: int
    reference_lengths: list[int]


RATES = (
    "win_rate",
    "win_rate_se",
    "win_rate_ties_as_losses",
    "win_rate_length_controlled",
    "win_rate_length_controlled_se",
)


def win_rates(judgements: Sequence[Judgement]) -> Figures:
    """The win rate against the references, plain and at equal length, in per cent; null on fewer than two prompts."""
    judged = [judgement for judgement in judgements if judgement.preferences is not None]
    preferences = [judgement.preferences or [] for judgement in judged]
    readable = sum(any(preference is not None for preference in row) for row in preferences)
    if readable < 2:
        n_null = sum(preference is None for row in preferences for preference in row)
        return {**dict.fromkeys(RATES), "n_eval": readable, "n_null": n_null}
    rate = win_rate_over_draws(preferences)
    lengths, references = zip(*((each.length, each.reference_lengths) for each in judged), strict=True)
    controlled = length_controlled_win_rate(preferences, lengths, references) or (None, None)
    rates = (rate.win_rate, rate.standard_error, rate.ties_as_losses, *controlled)
    return {**dict(zip(RATES, rates, strict=True)), "n_eval": rate.n_total, "n_null": rate.n_null}
