"""Figures at equal divergence, on curves whose answer is known."""

import math

import pytest

from studies.matched import FACTS, KL, LENGTH, at, mean_estimate
from tests.report.conftest import point


def test_half_way_in_the_root() -> None:
    points = [point(0, 50.0, 0.0), point(10, 52.0, 0.01), point(20, 56.0, 0.09)]  # roots 0, 0.1, 0.3
    assert at(points, "win_rate_greedy", KL, 0.04) == pytest.approx((54.0, 1.5))  # root 0.2


def test_a_curve_straight_in_the_root_is_met_everywhere() -> None:
    points = [point(step, 50 + 30 * math.sqrt(kl), kl) for step, kl in ((10, 0.01), (20, 0.07), (30, 0.2), (40, 0.5))]
    for kl in (0.01, 0.03, 0.1, 0.45):
        found = at(points, "win_rate_greedy", KL, kl)
        assert found[0] == pytest.approx(50 + 30 * math.sqrt(kl))


@pytest.mark.parametrize("kl", [0.005, 0.0999, 0.3, 0.4])
def test_nothing_outside_what_was_reached(kl: float) -> None:
    points = [point(0, 50.0, 0.0), point(10, 52.0, 0.1), point(20, 56.0, 0.3)]
    assert at(points, "win_rate_greedy", KL, kl) is None


def test_the_lower_end_counts_and_sft_is_none() -> None:
    points = [point(0, 50.0, 0.0), point(10, 52.0, 0.1), point(20, 56.0, 0.3)]
    assert at(points, "win_rate_greedy", KL, 0.1) == pytest.approx((52.0, 1.5))
    assert at(points[:2], "win_rate_greedy", KL, 0.05) is None


def test_a_way_back_counts_too() -> None:
    points = [point(10, 50.0, 0.01), point(20, 60.0, 0.09), point(30, 70.0, 0.01)]
    assert at(points, "win_rate_greedy", KL, 0.04) == pytest.approx(((55.0 + 65.0) / 2, 1.5))


def test_errors_are_weighted_like_values() -> None:
    points = [point(10, 50.0, 0.01, win_rate_greedy_se=1.0), point(20, 60.0, 0.09, win_rate_greedy_se=3.0)]
    assert at(points, "win_rate_greedy", KL, 0.0225) == pytest.approx((52.5, 1.5))  # a quarter of the way


def test_checkpoints_without_the_figure_or_the_kl() -> None:
    points = [point(10, 50.0, 0.01, factuality=None), point(20, 60.0, 0.09, factuality=80.0), point(30, 60.0, None)]
    assert at(points, "factuality", KL, 0.04) is None
    assert at(points, "win_rate_greedy", KL, 0.04) is not None
    assert at(points, "repeats", KL, 0.04) == pytest.approx((0.01, 0.0))


def test_equal_divergence_at_both_ends() -> None:
    assert at([point(10, 50.0, 0.04), point(20, 60.0, 0.04)], "win_rate_greedy", KL, 0.04) is None


def test_rounding_below_zero() -> None:
    assert at([point(10, 50.0, -1e-9), point(20, 60.0, 0.04)], "win_rate_greedy", KL, 0.01) == pytest.approx(
        (55.0, 1.5)
    )


def test_half_way_in_length_as_a_share_of_sft_s() -> None:
    lengths = {0: 20.0, 10: 18.0, 20: 14.0}
    points = [point(step, 50.0 + step, response_length_greedy=length) for step, length in lengths.items()]
    assert at(points, "win_rate_greedy", LENGTH, 0.8) == pytest.approx((65.0, 1.5))  # 16 of 20 tokens
    assert at(points, "win_rate_greedy", LENGTH, 0.95) is None  # before the first checkpoint


def test_facts_as_a_share_of_sft_s() -> None:
    facts = {0: (2.0, 0.5), 10: (2.0, 0.25), 20: (1.5, 0.25)}
    points = [
        point(step, 50.0 + step, correct_facts=correct, wrong_facts=wrong) for step, (correct, wrong) in facts.items()
    ]
    assert at(points, "win_rate_greedy", FACTS, 0.8) == pytest.approx((65.0, 1.5))  # 2 of 2.5
    assert at([point(10, 50.0), *points[1:]], "win_rate_greedy", FACTS, 0.8) is None  # SFT's are not known


def test_mean_estimate() -> None:
    assert mean_estimate([(1.0, 2.0), (3.0, 4.0)]) == (2.0, 3.0)
    assert mean_estimate([]) is None
