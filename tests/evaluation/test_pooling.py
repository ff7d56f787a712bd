"""Joining, comparing and pooling runs: by hand, by textbook formulas, by simulation, by enumeration."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import t as student

from rlhf.evaluation.pooling import Pooled, bounded, holm, join, paired, pool, pool_nested

NORMAL = 1.959963984540054
"""The standard normal's 97.5 % quantile."""


def rows(**values: list[float | None]) -> list[dict]:
    return [{"instruction": name, "rate": value} for name, column in values.items() for value in column]


def test_join_is_by_instruction_and_occurrence() -> None:
    first = rows(a=[1.0, 2.0], b=[3.0], c=[4.0])
    second = rows(c=[40.0], a=[10.0, 20.0, 30.0], d=[50.0])
    found = join(first, second, "rate")
    assert (found.first, found.second) == ([1.0, 2.0, 4.0], [10.0, 20.0, 40.0])
    assert (found.only_first, found.only_second) == (1, 2)


def test_join_takes_null_for_missing_in_its_place() -> None:
    found = join(rows(a=[None, 2.0], b=[3.0], c=[None]), rows(a=[10.0, 20.0], b=[math.nan], c=[None]), "rate")
    assert astuple(found) == ([2.0], [20.0], 1, 1)


def test_join_of_nothing_in_common() -> None:
    assert astuple(join(rows(a=[1.0]), rows(b=[1.0, 2.0]), "rate")) == ([], [], 1, 2)


def test_paired_by_hand() -> None:
    # Differences 1, 2, 6: mean 3, squares 4, 1, 9; error sqrt(14 / 2 / 3), t(2) = 4.302653 at 97.5 %. The t(2)
    # distribution has a closed form: p = 1 - t / sqrt(2 + t^2).
    found = paired([11.0, 12.0, 16.0], [10.0, 10.0, 10.0])
    error = math.sqrt(7 / 3)
    assert (found.difference, found.n) == (3, 3)
    assert found.standard_error == pytest.approx(error)
    assert (found.low, found.high) == pytest.approx((3 - 4.302652729911275 * error, 3 + 4.302652729911275 * error))
    assert found.p_value == pytest.approx(1 - (3 / error) / math.sqrt(2 + (3 / error) ** 2))


def test_pairing_takes_out_what_prompts_have_in_common() -> None:
    rng = np.random.default_rng(0)
    prompts = 50 + 30 * rng.normal(size=400)
    first, second = prompts + 2 + 5 * rng.normal(size=400), prompts + 5 * rng.normal(size=400)
    found = paired(first.tolist(), second.tolist())
    assert found.standard_error == pytest.approx(5 * math.sqrt(2 / 400), rel=0.1)
    assert found.low < 2 < found.high
    assert found.p_value < 1e-4


def test_paired_without_spread() -> None:
    assert astuple(paired([1.0, 2.0], [1.0, 2.0])) == (0, 0, 0, 0, 1, 2)
    assert astuple(paired([3.0, 4.0], [1.0, 2.0])) == (2, 0, 2, 2, 0, 2)


def test_paired_refuses_what_does_not_pair() -> None:
    with pytest.raises(ValueError, match="found 1"):
        paired([1.0], [2.0])
    with pytest.raises(ValueError, match="zip"):
        paired([1.0, 2.0], [2.0])


def textbook(estimates: list[float], errors: list[float]) -> tuple[float, float, float]:
    """The random-effects mean, its error and tau: Paule and Mandel's tau solves Q(tau^2) = n - 1, or is 0."""
    effects, variances = np.array(estimates), np.array(errors) ** 2

    def mean(tau2: float) -> float:
        return float(np.average(effects, weights=1 / (variances + tau2)))

    def excess(tau2: float) -> float:
        return float(((effects - mean(tau2)) ** 2 / (variances + tau2)).sum()) - (len(effects) - 1)

    tau2 = float(np.asarray(brentq(excess, 0, 1e6, xtol=1e-12))) if excess(0) > 0 else 0.0
    return mean(tau2), float((1 / (variances + tau2)).sum() ** -0.5), math.sqrt(tau2)


def test_pool_is_the_textbook_random_effects_mean() -> None:
    estimates, errors = [57.8, 61.5, 52.3, 56.1, 59.8], [1.5, 0.9, 2.0, 1.4, 1.1]
    estimate, error, tau = textbook(estimates, errors)
    found = pool(estimates, errors)
    assert tau > 1
    assert found.estimate == pytest.approx(estimate, rel=1e-5)
    assert found.standard_error == pytest.approx(error, rel=1e-5)
    assert found.between_deviation == pytest.approx(tau, rel=1e-5)
    quantile = student.ppf(0.975, 4)
    assert (found.low, found.high) == pytest.approx(
        (estimate - quantile * error, estimate + quantile * error), rel=1e-5
    )
    assert found.p_value == pytest.approx(2 * student.sf(estimate / error, 4), rel=1e-3)
    assert found.n == 5


def test_pool_of_equal_errors_is_the_t_interval() -> None:
    # Mean 3; deviation sqrt(7) of 1, 2, 6, of which the errors' 0.5 leave tau = sqrt(7 - 0.25).
    found = pool([1.0, 2.0, 6.0], [0.5, 0.5, 0.5])
    error = math.sqrt(7 / 3)
    assert found.estimate == pytest.approx(3)
    assert found.standard_error == pytest.approx(error, rel=1e-5)
    assert found.between_deviation == pytest.approx(math.sqrt(6.75), rel=1e-5)
    assert found.high == pytest.approx(3 + 4.302652729911275 * error, rel=1e-5)
    exact = pool([1.0, 2.0, 6.0], [0.0, 0.0, 0.0])
    assert (exact.estimate, exact.standard_error) == pytest.approx((3, error))
    assert exact.between_deviation == pytest.approx(math.sqrt(7))
    assert exact.high == pytest.approx(3 + 4.302652729911275 * error)


def test_worlds_that_happen_to_agree_are_not_certain() -> None:
    found = pool([50.0, 50.01], [1.0, 2.0])
    # Weights 4 and 1, error sqrt(1 / (1 + 1/4)); Hartung and Knapp's is 0.004, with t(1) = 12.7 an interval of 0.05.
    assert found.estimate == pytest.approx(50.002)
    assert found.standard_error == pytest.approx(math.sqrt(0.8))
    assert found.between_deviation == 0
    assert found.high - found.low == pytest.approx(2 * NORMAL * math.sqrt(0.8))
    assert pool([0.0, 0.01], [1.0, 2.0]).p_value == pytest.approx(math.erfc(0.002 / math.sqrt(2 * 0.8)))


def test_one_estimate_keeps_its_own_error() -> None:
    found = pool([3.0], [1.5])
    assert (found.estimate, found.standard_error, found.between_deviation, found.n) == (3, 1.5, None, 1)
    assert (found.low, found.high) == pytest.approx((3 - 1.5 * NORMAL, 3 + 1.5 * NORMAL))
    assert found.p_value == pytest.approx(math.erfc(2 / math.sqrt(2)))


def test_pool_without_any_spread() -> None:
    assert astuple(pool([0.0, 0.0], [0.0, 0.0])) == (0, 0, 0, 0, 0, 1, 2)
    assert astuple(pool([2.0, 2.0], [0.0, 0.0])) == (2, 0, 2, 2, 0, 0, 2)


@pytest.mark.parametrize(
    ("estimates", "errors"),
    [
        ([], []),
        ([1.0], [1.0, 2.0]),
        ([1.0, 2.0], [1.0, -1.0]),
        ([1.0, math.nan], [1.0, 1.0]),
        ([1.0, 2.0], [1.0, math.nan]),
        ([1.0, 2.0], [1.0, 0.0]),
    ],
)
def test_pool_refuses_what_has_no_weight(estimates: list[float], errors: list[float]) -> None:
    with pytest.raises(ValueError, match="errors"):
        pool(estimates, errors)


@pytest.mark.parametrize("tau", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("n", [3, 6])
def test_pool_covers_the_truth(n: int, tau: float) -> None:
    rng = np.random.default_rng([n, int(tau)])
    hits = 0
    for _ in range(1000):
        errors = rng.uniform(0.8, 2.0, n)
        estimates = 50 + tau * rng.normal(size=n) + errors * rng.normal(size=n)
        found = pool(estimates.tolist(), errors.tolist())
        hits += found.low < 50 < found.high
    assert 925 <= hits <= (995 if tau < 2 else 970)  # 950 give or take 7; more where tau is small


def test_nested_by_hand() -> None:
    # Worlds of seeds 4, 6 and 9, 11, 13: means 5 and 11, squares 1, 1, 4, 0, 4 together 10 on 1 + 2 degrees, so the
    # seeds' variance is 10 / 3. World variances: (1 + 9) / 2 + 10 / 6, and 4 + 10 / 9.
    found = pool_nested([[(4.0, 1.0), (6.0, 3.0)], [(9.0, 2.0), (11.0, 2.0), (13.0, 2.0)]])
    expected = pool([5.0, 11.0], [math.sqrt(5 + 10 / 6), math.sqrt(4 + 10 / 9)])
    assert astuple(found) == pytest.approx(astuple(expected))
    assert found.n == 2


def test_single_seeds_are_pooled_as_they_are() -> None:
    assert pool_nested([[(4.0, 1.0)], [(9.0, 2.0)], [(6.0, 1.5)]]) == pool([4.0, 9.0, 6.0], [1.0, 2.0, 1.5])
    assert pool_nested([[(4.0, 1.0)]]) == pool([4.0], [1.0])


def test_a_single_seed_takes_the_spread_seen_in_other_worlds() -> None:
    # Seeds 4 and 6 have variance 2: the world with both has 1 + 2 / 2, the one with one seed 1 + 2.
    found = pool_nested([[(4.0, 1.0), (6.0, 1.0)], [(9.0, 1.0)]])
    assert astuple(found) == pytest.approx(astuple(pool([5.0, 9.0], [math.sqrt(2), math.sqrt(3)])))


def test_one_world_of_few_seeds_is_as_unsure_of_their_spread() -> None:
    # Variances 1 of prompts, 2 / 2 of seeds on 1 degree: Satterthwaite's (1 + 1)^2 / (1^2 / 1) = 4 degrees.
    found = pool_nested([[(4.0, 1.0), (6.0, 1.0)]])
    assert found.standard_error == pytest.approx(math.sqrt(2))
    assert found.high == pytest.approx(5 + student.ppf(0.975, 4) * math.sqrt(2))
    assert (found.between_deviation, found.n) == (None, 1)


def test_nested_needs_a_seed_in_each_world() -> None:
    with pytest.raises(ValueError, match=r"at least one seed: found \[1, 0\]"):
        pool_nested([[(4.0, 1.0)], []])


def nested_sample(rng: np.random.Generator, shared: float) -> list[list[tuple[float, float]]]:
    """Four worlds of two seeds: deviations 1 between worlds, 2 between seeds, 1.5 over prompts, partly shared."""
    common = rng.normal(size=(4, 1)) + 1.5 * math.sqrt(shared) * rng.normal(size=(4, 1))
    estimates = 50 + common + 2 * rng.normal(size=(4, 2)) + 1.5 * math.sqrt(1 - shared) * rng.normal(size=(4, 2))
    return [[(float(estimate), 1.5) for estimate in world] for world in estimates]


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_nested_covers_the_truth_whatever_seeds_share(shared: float) -> None:
    rng = np.random.default_rng(int(10 * shared))
    found = [pool_nested(nested_sample(rng, shared)) for _ in range(1000)]
    assert sum(one.low < 50 < one.high for one in found) >= 930


@pytest.mark.parametrize(("shared", "excess"), [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)])
def test_error_of_one_world_is_exact_where_prompt_errors_are_shared(shared: float, excess: float) -> None:
    rng = np.random.default_rng(1)
    worlds = [nested_sample(rng, shared)[:1] for _ in range(2000)]
    variance = np.mean([pool_nested(world).standard_error ** 2 for world in worlds])
    truth = 2**2 / 2 + 1.5**2 * (shared + (1 - shared) / 2)  # of the mean of two seeds, in this world
    assert variance == pytest.approx(truth + excess * 1.5**2, rel=0.08)


def test_an_interval_between_bounds_by_hand() -> None:
    found = bounded(Pooled(80.0, 4.0, 72.0, 88.0, None, 0.0, 1), 0.0, 100.0)
    odds = [80 / 20 * math.exp(margin * (1 / 80 + 1 / 20)) for margin in (-8, 8)]
    assert (found.low, found.high) == pytest.approx(tuple(100 * each / (1 + each) for each in odds))
    assert found.low == pytest.approx(70.8, abs=0.05)
    assert found.high == pytest.approx(86.8, abs=0.05)


def test_an_interval_above_a_bound_by_hand() -> None:
    found = bounded(Pooled(2.0, 1.0, 0.0, 4.0, None, 0.0, 1), 0.0, math.inf)
    assert (found.low, found.high) == pytest.approx((2 / math.e, 2 * math.e))


@pytest.mark.parametrize(("low", "high"), [(0.0, 100.0), (-math.inf, math.inf)])
def test_an_interval_is_cut_off_where_the_mean_is_a_bound_and_kept_where_there_is_none(low: float, high: float) -> None:
    found = bounded(Pooled(0.0, 1.0, -2.0, 2.0, None, 0.0, 1), low, high)
    assert (found.low, found.high) == (max(low, -2), 2)


def test_no_margin_is_too_wide_for_the_logit() -> None:
    found = bounded(Pooled(99.99, 50.0, -100.0, 300.0, None, 0.0, 1), 0.0, 100.0)
    assert (found.low, found.high) == pytest.approx((0, 100))


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.4 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.4; each at least as large as the one before.
    assert holm([0.03, 0.01, 0.4, 0.02]) == pytest.approx([0.06, 0.04, 0.4, 0.06])
    assert holm([0.015, 0.01]) == pytest.approx([0.02, 0.02])  # 0.015 x 1 would fall below 0.01 x 2
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


def test_holm_refuses_what_is_no_p_value() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, math.nan])


@pytest.mark.parametrize("mean", [50.0, 60.0, 61.7, 100 / 3])
def test_what_is_known_exactly_stays_inside_its_own_interval(mean: float) -> None:
    found = bounded(Pooled(mean, 0.0, mean, mean, None, 0.0, 1), 0.0, 100.0)
    assert found.low <= mean <= found.high
    assert (found.low, found.high) == pytest.approx((mean, mean))
