"""Win rates by AlpacaEval's definitions, and a mean with its standard error.

A preference is 2 where the model's response is better, 1 where the baseline's is, 1.5 or 0 for a tie, and any number
between 1 and 2 where the judge gave a probability (AlpacaEval 2). None and NaN stand for a judgement that could not be
read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class WinRate:
    """Rates in per cent, counts in prompts, by AlpacaEval's names and definitions but for the last two.

    A prompt is won above 1.5, lost below it, drawn at it. `win_rate` is 100 mean(preference - 1), so that a tie counts
    as one half; `standard_error` is 100 sd(ddof=1) / sqrt(n_total), over prompts; `discrete_win_rate` rounds each
    preference first: 100 (n_wins + n_draws / 2) / n_total. `ties_as_losses` is the paper's number (arXiv 2309.09055):
    the share won, 100 mean(preference == 2) where preferences are whole, 100 mean(preference > 1.5) where they are
    weighted. `n_null` counts the judgements that were left out because they could not be read.
    """

    win_rate: float
    standard_error: float
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    discrete_win_rate: float
    ties_as_losses: float
    n_null: int


def win_rate(preferences: Sequence[float | None]) -> WinRate:
    """The win rate over prompts, of one preference each."""
    return win_rate_over_draws([[preference] for preference in preferences])


def win_rate_over_draws(rows: Sequence[Sequence[float | None]]) -> WinRate:
    """The win rate over prompts; each row holds one prompt's preferences against several draws of the baseline.

    Draws of one prompt are averaged first, so that the standard error is over prompts, which count alike whatever their
    draws. It says how far another draw of prompts of the same kind might lead: about the same people, in the embedded
    world. The counts go by the averaged preference; `ties_as_losses` averages the share of draws won outright.
    """
    parsed = [[outcome for outcome in row if outcome is not None] for row in outcomes(rows)]
    judged = [row for row in parsed if row]
    if len(judged) < 2:
        raise ValueError(f"a win rate needs at least 2 prompts with a judgement: found {len(judged)} in {len(rows)}")
    shares = [sum(row) / len(row) for row in judged]
    mean, error = mean_and_error([100 * share for share in shares])
    n_wins, n_draws = sum(share > 0.5 for share in shares), sum(share == 0.5 for share in shares)
    won_outright = [sum(outcome > 0.5 for outcome in row) / len(row) for row in judged]
    return WinRate(
        win_rate=mean,
        standard_error=error,
        n_wins=n_wins,
        n_wins_base=len(shares) - n_wins - n_draws,
        n_draws=n_draws,
        n_total=len(shares),
        discrete_win_rate=100 * (n_wins + n_draws / 2) / len(shares),
        ties_as_losses=100 * sum(won_outright) / len(won_outright),
        n_null=sum(len(row) for row in rows) - sum(len(row) for row in parsed),
    )


def outcomes(rows: Sequence[Sequence[float | None]]) -> list[list[float | None]]:
    """The model's share in each judgement, preference - 1: 1 won, 0.5 tied, 0 lost, None where it could not be read.

    Raises ValueError on any other value, naming its row, and on a row without judgements.
    """
    for number, row in enumerate(rows):
        if not row:
            raise ValueError(f"row {number} has no preference: a prompt needs at least one judgement")
    return [[_outcome(preference, number) for preference in row] for number, row in enumerate(rows)]


def _outcome(preference: float | None, row: int) -> float | None:
    if preference is None or math.isnan(preference):
        return None
    if preference == 0:
        return 0.5
    if 1 <= preference <= 2:
        return preference - 1
    raise ValueError(f"row {row}: preference {preference} is not allowed: from 1 to 2, 0 for a tie, or null")


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
