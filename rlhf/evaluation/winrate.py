"""Win rates by AlpacaEval's definitions, at equal length by our own fit, and a mean with its standard error.

A preference is 2 where the model's response is better, 1 where the baseline's is, 1.5 or 0 for a tie, and any number
between 1 and 2 where the judge gave a probability (AlpacaEval 2). None and NaN stand for a judgement that could not be
read.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linprog
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM
from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

Prompts = Int[np.ndarray, " pairs"]
Shares = Float[np.ndarray, " pairs"]
Design = Float[np.ndarray, "pairs terms"]


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
    """The win rate over prompts with one preference each."""
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


# ---- At equal length. ------------------------------------------------------------------------------------------------


def length_controlled_win_rate(
    preferences: Sequence[Sequence[float | None]],
    lengths: Sequence[int],
    reference_lengths: Sequence[Sequence[int]],
    difficulties: Sequence[float] | None = None,
) -> tuple[float, float] | None:
    """The win rate predicted for responses as long as the baseline's, and its standard error, in per cent.

    Judges like long responses. This is AlpacaEval 2's idea (arXiv 2404.04475) by our own fit, NOT comparable with
    AlpacaEval's leaderboard, whose fits are regularised, lean on a baseline prompted to be verbose or concise, and take
    each instruction's difficulty from all models together.

    A row holds one prompt's preferences, and the lengths of the baseline's responses, draw by draw; `lengths` are the
    model's. The fit is a logistic regression of preference - 1 (a fractional logit: Papke and Wooldridge 1996) on a
    constant, tanh(difference in length / its standard deviation) and, where given, the instruction's difficulty. The
    rate is what it predicts at a difference of 0, averaged over prompts, which count alike whatever their draws.

    The error is over prompts, whose difficulties vary with them: the delta method on a sandwich clustered by prompt.
    It takes the deviation of the differences as known, and the model as true: where hardly any pair is of about equal
    length, the rate is an extrapolation.

    With all differences 0, or all won, or all lost, these are the plain win rate and its error. None where the fit has
    no finite or no unique solution: where length (and difficulty) separate all wins from all losses, or where the
    difference is the same in all pairs but not 0. Raises ValueError on fewer than two prompts with a judgement.
    """
    if difficulties is not None and len(difficulties) != len(lengths):
        raise ValueError(f"{len(difficulties)} difficulties for {len(lengths)} prompts")
    plain = win_rate_over_draws(preferences)
    pairs = [
        (prompt, share, length - reference)
        for prompt, (row, length, references) in enumerate(
            zip(outcomes(preferences), lengths, reference_lengths, strict=True)
        )
        for share, reference in zip(row, references, strict=True)
        if share is not None
    ]
    prompts, shares, differences = (np.array(column) for column in zip(*pairs, strict=True))
    if plain.win_rate in (0, 100) or not differences.any():
        return plain.win_rate, plain.standard_error
    length = np.tanh(differences / (differences.std(ddof=1) or 1.0))
    others = [np.ones(len(pairs))] + ([np.array(difficulties)[prompts]] if difficulties is not None else [])
    design, controlled = np.column_stack([*others, length]), np.column_stack([*others, 0 * length])
    return _fit(prompts, shares, design, controlled) if _is_estimable(shares, design, controlled) else None


def _fit(prompts: Prompts, shares: Shares, design: Design, controlled: Design) -> tuple[float, float]:
    """The rate predicted at `controlled`, and its error, from each prompt's influence by the estimating equations."""
    _, prompts, draws = np.unique(prompts, return_inverse=True, return_counts=True)
    weights = 1 / draws[prompts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PerfectSeparationWarning)  # as where all are ties; the rest is ruled out before
        fit = GLM(shares, design, family=Binomial(), var_weights=weights).fit()
    predicted = fit.predict(controlled)
    rate = np.average(predicted, weights=weights)
    gradient = (weights * predicted * (1 - predicted)) @ controlled
    through_fit = (shares - fit.fittedvalues) * (design @ fit.normalized_cov_params @ gradient)
    influence = np.bincount(prompts, weights=weights * (predicted - rate + through_fit))
    return 100 * float(rate), 100 * mean_and_error(influence.tolist())[1]


def _is_estimable(shares: Shares, design: Design, controlled: Design) -> bool:
    """Whether the likelihood has a finite maximum, and all its maxima predict the same at `controlled`.

    The maximum is finite unless some direction of the coefficients lowers the likelihood of no pair and raises that of
    one (Albert and Anderson 1984); a linear programme looks for it (Konis 2007). A share between 0 and 1 counts as a
    win and a loss, so that no direction may change its prediction.
    """
    if np.linalg.matrix_rank(np.concatenate([design, controlled])) > np.linalg.matrix_rank(design):
        return False
    decided = (shares == 0) | (shares == 1)
    towards = np.where(shares == 1, 1.0, -1.0)[decided, None] * design[decided]
    between = design[~decided]
    found = linprog(
        -towards.sum(axis=0), -towards, np.zeros(len(towards)), between, np.zeros(len(between)), bounds=(-1, 1)
    )
    return bool(found.fun > -1e-7)


# ---- The figures of a run. -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """What was made of one prompt: a preference per reference (None where it failed), and lengths, all in one unit.

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


def win_rates(judgements: Sequence[Judgement]) -> dict[str, Any]:
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
