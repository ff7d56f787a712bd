"""Comparing runs and pooling them: over prompts, over seeds of one world, over independent worlds.

From runs to a claim: `join` two runs of one world and seed on their prompts, `paired` for their difference and
its error, `pool_nested` over seeds and worlds, `holm` over all the comparisons that were made. Values keep their unit
(per cent, for rates); intervals are at 95 %.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import expit
from statsmodels.stats.meta_analysis import combine_effects
from statsmodels.stats.multitest import multipletests

from rlhf.evaluation.outputs import by_place
from rlhf.evaluation.winrate import mean_and_error

LEVEL = 0.95


@dataclass(frozen=True)
class Joined:
    """Values of two runs at the prompts both have, place by place, and how many values only one of them has."""

    first: list[float]
    second: list[float]
    only_first: int
    only_second: int


@dataclass(frozen=True)
class Difference:
    """The mean of first - second over `n` prompts, and the p-value of its being 0 (two-sided)."""

    difference: float
    standard_error: float
    low: float
    high: float
    p_value: float
    n: int


@dataclass(frozen=True)
class Pooled:
    """The mean over `n` worlds; `between_deviation` (tau) is the worlds' own spread, None where there is only one.

    `p_value` is that of a mean of 0 (two-sided): it means something where differences were pooled.
    """

    estimate: float
    standard_error: float
    low: float
    high: float
    between_deviation: float | None
    p_value: float
    n: int


def join(first_rows: Iterable[Mapping[str, Any]], second_rows: Iterable[Mapping[str, Any]], value: str) -> Joined:
    """Two runs' `value`s by instruction, never by row; the k-th occurrence of an instruction joins the k-th.

    A value that is None or NaN counts as missing. Occurrences pass for independent prompts, as they are where prompts
    were drawn with replacement; several judgements of one response must be averaged before.
    """
    first, second = _by_occurrence(first_rows, value), _by_occurrence(second_rows, value)
    shared = [occurrence for occurrence in first if occurrence in second]
    return Joined(
        first=[first[occurrence] for occurrence in shared],
        second=[second[occurrence] for occurrence in shared],
        only_first=len(first) - len(shared),
        only_second=len(second) - len(shared),
    )


def _by_occurrence(rows: Iterable[Mapping[str, Any]], value: str) -> dict[tuple[str, int], float]:
    found = {place: row[value] for place, row in by_place(rows, lambda row: row["instruction"]).items()}
    return {place: float(each) for place, each in found.items() if each is not None and not math.isnan(each)}


def paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Two runs on the same prompts, by the paired t-test; it speaks of these two policies, not of other seeds.

    Where all differences are the same the error is 0, and the p-value 1 (no difference) or 0.
    """
    differences = [one - other for one, other in zip(first, second, strict=True)]
    if len(differences) < 2:
        raise ValueError(f"a paired comparison needs at least 2 prompts that both runs have: found {len(differences)}")
    mean, error = mean_and_error(differences)
    if error == 0:
        return Difference(mean, 0.0, mean, mean, float(mean == 0), len(differences))
    test = stats.ttest_rel(first, second)
    interval = test.confidence_interval(LEVEL)
    return Difference(mean, error, float(interval.low), float(interval.high), float(test.pvalue), len(differences))


def pool(estimates: Sequence[float], errors: Sequence[float], degrees: float = math.inf) -> Pooled:
    """The random-effects mean over independent worlds, which differ by tau beside their own standard errors.

    Tau by Paule and Mandel (1982), as Veroniki et al. (2016) advise. The interval is Hartung and Knapp's, with t
    quantiles at n - 1 degrees, or the normal one of the worlds' own errors and tau where that is wider (Jackson et al.
    2017): else two worlds that happen to agree would look certain. Where all errors are 0, as of figures known exactly,
    it is the t interval of the estimates.

    One estimate alone keeps its own error, of `degrees` degrees of freedom, which says nothing about other worlds.
    Raises ValueError where some errors are 0 and others not: such weights would be infinite.
    """
    valid = all(math.isfinite(estimate) for estimate in estimates) and all(0 <= error < math.inf for error in errors)
    if not valid or not estimates or len(estimates) != len(errors):
        raise ValueError(f"estimates and errors, at least 0, must be finite and pairs: {estimates} and {errors}")
    if len(estimates) == 1:
        return _pooled(estimates[0], [(errors[0], degrees)], None, 1)
    n = len(estimates)
    if not any(errors):
        mean, error = mean_and_error(estimates)
        return _pooled(mean, [(error, n - 1.0)], error * math.sqrt(n), n)
    if not all(errors):
        raise ValueError(f"errors of 0 beside others would take all the weight: {list(errors)}")
    with np.errstate(divide="ignore"):  # of a figure that isn't used, where the worlds are alike
        fit: Any = combine_effects(np.array(estimates), np.array(errors) ** 2, method_re="pm")
    errors_and_degrees = [(fit.sd_eff_w_re_hksj, n - 1.0), (fit.sd_eff_w_re, math.inf)]
    return _pooled(fit.mean_effect_re, errors_and_degrees, math.sqrt(fit.tau2), n)


def _pooled(
    estimate: float, errors_and_degrees: list[tuple[float, float]], between_deviation: float | None, n: int
) -> Pooled:
    """The widest of the intervals that standard errors and their degrees of freedom give, and its p-value."""
    estimate, error = float(estimate), float(max(error for error, _ in errors_and_degrees))
    margin = max(float(error * _quantile(degrees)) for error, degrees in errors_and_degrees)
    p_value = max(_p_value(estimate, error, degrees) for error, degrees in errors_and_degrees)
    return Pooled(estimate, error, estimate - margin, estimate + margin, between_deviation, p_value, n)


@cache
def _quantile(degrees: float) -> float:
    """Student's, of an interval's upper end."""
    return float(stats.t.ppf((1 + LEVEL) / 2, degrees))


def _p_value(estimate: float, error: float, degrees: float) -> float:
    return 2 * float(stats.t.sf(abs(estimate) / error, degrees)) if error > 0 else float(estimate == 0)


def pool_nested(worlds: Sequence[Sequence[tuple[float, float]]]) -> Pooled:
    """The random-effects mean over worlds, each of some seeds' (estimate, standard error over prompts).

    Seeds of a world are averaged first. They answer the same evaluation prompts, so that errors over prompts do not
    average out; only the seeds' spread does: variance of a world = mean of its squared errors + seed variance / seeds.
    The seed variance is that within worlds, taken to be alike in all and pooled over those that have several seeds,
    since two or three say little. This is exact where seeds share their errors over prompts fully; where they share
    them in part, the seeds' spread holds the rest again: the variance is too large, by the mean squared error at most.

    Where no world has several seeds, their spread is part of the worlds'. One world alone gets Satterthwaite's degrees
    of freedom, since its seeds' spread is an estimate.
    """
    if not all(worlds):
        raise ValueError(f"each world needs at least one seed: found {[len(seeds) for seeds in worlds]}")
    estimates = [_mean([estimate for estimate, _ in seeds]) for seeds in worlds]
    prompt_variances = [_mean([error**2 for _, error in seeds]) for seeds in worlds]
    seed_variance, degrees = _seed_variance(worlds)
    seed_variances = [seed_variance / len(seeds) for seeds in worlds]
    variances = [sum(pair) for pair in zip(prompt_variances, seed_variances, strict=True)]
    satterthwaite = degrees * (variances[0] / seed_variances[0]) ** 2 if seed_variance > 0 else math.inf
    return pool(estimates, [math.sqrt(variance) for variance in variances], satterthwaite)


def _seed_variance(worlds: Sequence[Sequence[tuple[float, float]]]) -> tuple[float, int]:
    """The variance of estimates between seeds of one world, and its degrees of freedom; 0 and 0 without such seeds."""
    deviations = [estimate - _mean([other for other, _ in seeds]) for seeds in worlds for estimate, _ in seeds]
    degrees = sum(len(seeds) - 1 for seeds in worlds)
    return (sum(deviation**2 for deviation in deviations) / degrees if degrees else 0.0), degrees


def bounded(result: Pooled, low: float, high: float) -> Pooled:
    """The same mean, with an interval that stays within bounds: taken where they are infinitely far, and brought back.

    That is the logit scale between two bounds, the logarithm's above one; the error there is by the delta method. A
    mean at a bound keeps its own interval, cut off there.
    """
    below, above = result.estimate - low, high - result.estimate
    if not (0 < below < math.inf and above > 0):
        return replace(result, low=max(result.low, low), high=min(result.high, high))
    slope = 1 / below + 1 / above

    def back(margin: float) -> float:
        if above == math.inf:
            return low + below * math.exp(margin * slope)
        return low + (high - low) * float(expit(math.log(below / above) + margin * slope))

    ends = [back(end - result.estimate) for end in (result.low, result.high)]
    return replace(result, low=min(ends[0], result.estimate), high=max(ends[1], result.estimate))  # but for rounding


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given: the chance of any false finding stays below their level."""
    if not all(0 <= p_value <= 1 for p_value in p_values):
        raise ValueError(f"p-values lie between 0 and 1: found {list(p_values)}")
    adjusted: Any = multipletests(p_values, method="holm")[1] if p_values else np.array([])
    return adjusted.tolist()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
