"""A win rate at equal length, since judges like long responses: AlpacaEval 2's idea (arXiv 2404.04475), our own fit.

NOT comparable with AlpacaEval's leaderboard, whose fits are regularised, lean on a baseline told to be verbose or
concise, and take each instruction's difficulty from all models together.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linprog
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM
from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

from rlhf.evaluation.winrate import mean_and_error, outcomes, win_rate_over_draws

Prompts = Int[np.ndarray, " pairs"]
Shares = Float[np.ndarray, " pairs"]
Design = Float[np.ndarray, "pairs terms"]


def length_controlled_win_rate(
    preferences: Sequence[Sequence[float | None]],
    lengths: Sequence[int],
    reference_lengths: Sequence[Sequence[int]],
    difficulties: Sequence[float] | None = None,
) -> tuple[float, float] | None:
    """The win rate predicted for responses as long as the baseline's, and its standard error, in per cent.

    A row holds one prompt's preferences, and the lengths of the baseline's responses, draw by draw; `lengths` are the
    model's. The fit is a logistic regression of preference - 1 (a fractional logit: Papke and Wooldridge 1996) on a
    constant, tanh(difference in length / its standard deviation) and, where given, the instruction's difficulty. The
    rate is what it predicts at a difference of 0, averaged over prompts, which count alike whatever their draws.

    The error is over prompts, whose difficulties vary with them: the delta method on a sandwich clustered by prompt.
    It takes the deviation of the differences as known, and the model as true: where hardly any pair is of about equal
    length, the rate is an extrapolation.

    With all differences 0, or all won, or all lost, these are the plain win rate and its error. None where the fit has
    no finite or no unique solution: where length (and difficulty) tell all wins from all losses, or where the
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
