"""Win rates by AlpacaEval's definitions, and a mean with its standard error.

A preference is 2 where the model's response is better, 1 where the baseline's is, 1.5 for a tie.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class WinRate:
    """Per cent. `win_rate` counts a tie as one half (AlpacaEval), `ties_as_losses` as a loss (the paper)."""

    win_rate: float
    standard_error: float
    ties_as_losses: float
    n_prompts: int


def win_rate(preferences: Sequence[Sequence[float]]) -> WinRate:
    """The win rate over prompts; each row holds one prompt's preferences against several draws of the baseline.

    Draws of one prompt are averaged first, so that the standard error, 100 sd(ddof=1) / sqrt(prompts), is over prompts.
    It says how far another draw of prompts of the same kind might lead: about the same people, in the embedded world.
    """
    per_prompt = [100 * (sum(row) / len(row) - 1) for row in preferences]
    mean, error = mean_and_error(per_prompt)
    strict = [100 * sum(preference == 2 for preference in row) / len(row) for row in preferences]
    return WinRate(mean, error, sum(strict) / len(strict), len(per_prompt))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error, sd(ddof=1) / sqrt(n); needs two values at least."""
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def ratio_and_error(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float]:
    """sum(numerators) / sum(denominators) over independent units, and its standard error by linearisation.

    The ratio's influence per unit is (numerator - ratio x denominator) / mean denominator. The sum must not be 0.
    """
    ratio = sum(numerators) / sum(denominators)
    mean = sum(denominators) / len(denominators)
    residuals = [(above - ratio * below) / mean for above, below in zip(numerators, denominators, strict=True)]
    return ratio, mean_and_error(residuals)[1]
