"""Levels and paired differences over worlds and seeds, by hand."""

import math
from typing import Any

import pytest

from rlhf.report.compare import Measure, at_step, extent, final, gain, headline_of, level, win_rate_difference
from rlhf.report.load import Run
from rlhf.report.markdown import shown
from tests.report.conftest import make_run, point

T_2 = 4.302652729911275  # 97.5 % quantile of Student's t with 2 degrees of freedom


def run(world: int, seed: int, win_rate: float, kl: float = 0.1, **more: Any) -> Run:
    return make_run([point(0, 50.0, 0.0), point(40, win_rate, kl)], data__seed=world, seed=seed, **more)


def test_a_level_is_the_mean_over_worlds_of_the_mean_over_seeds() -> None:
    runs = [run(0, 0, 50, 0.1), run(0, 1, 50, 0.1), run(1, 0, 50, 0.2), run(2, 0, 50, 0.3)]
    found = level(runs, final("true_kl_per_response"))
    margin = T_2 * 0.1 / math.sqrt(3)
    low, high = (0.2 * math.exp(sign * margin / 0.2) for sign in (-1, 1))
    assert (found.estimate, found.low, found.high, found.n) == pytest.approx((0.2, low, high, 3))


def test_the_interval_of_a_rate_stays_inside_what_is_possible() -> None:
    found = level([run(0, 0, 1.0), run(1, 0, 2.0), run(2, 0, 40.0)], final("win_rate_greedy"))
    assert 0 < found.low < found.estimate < found.high < 100
    found = level([run(0, 0, 99.0), run(1, 0, 98.0), run(2, 0, 60.0)], final("win_rate_greedy"))
    assert 0 < found.low < found.estimate < found.high < 100


def test_a_level_uses_the_error_over_prompts() -> None:
    found = level([run(0, 0, 58.0)], final("win_rate_greedy"))
    assert (found.estimate, found.standard_error, found.n) == (58.0, 1.5, 1)
    assert shown(found) == "58.0 [55.0, 60.9]"


def test_a_level_needs_every_world() -> None:
    runs = [run(0, 0, 50), run(1, 0, 50)]
    runs[1].metrics["factuality"] = None
    assert level(runs, final("factuality")) is None
    assert level(runs[:1], final("factuality")) is not None
    assert level([], final("factuality")) is None


def test_no_seed_speaks_for_one_that_lacks_the_figure() -> None:
    """A rate at equal length is missing where nearly all is won, so that the other seeds' mean would mislead."""
    runs = [run(0, 0, 50, 0.1), run(0, 1, 50, 0.3), run(1, 0, 50, 0.2)]
    assert level(runs, final("true_kl_per_response")).estimate == pytest.approx(0.2)
    runs[0].metrics["true_kl_per_response"] = None
    assert level(runs, final("true_kl_per_response")) is None


def test_gain_over_sft_and_baseline() -> None:
    runs = [run(0, 0, 58.0), run(1, 0, 60.0)]
    found, sft = level(runs, gain("win_rate_greedy")), level(runs, final("win_rate_greedy", "baseline"))
    assert (found.estimate, sft.estimate) == pytest.approx((9.0, 50.0))


def test_a_figure_of_a_block_within_a_block() -> None:
    assert final("win_rate", "controls", "0.7").take([run(0, 0, 58.0)]) == (54.0, 1.2)
    assert final("win_rate", "controls", "0.9").take([run(0, 0, 58.0)]) is None


def test_at_step() -> None:
    take = at_step("win_rate_greedy", 0).take
    assert take([run(0, 0, 58.0)]) == (50.0, 0.0)  # the SFT model, by definition
    assert at_step("win_rate_greedy", 40).take([run(0, 0, 58.0)]) == (58.0, 1.5)
    assert at_step("win_rate_greedy", 7).take([run(0, 0, 58.0)]) is None


def test_win_rates_are_compared_prompt_by_prompt() -> None:
    first = run(0, 0, 90.0, judgements=[2.0, 2.0, 1.0, 2.0])
    second = run(0, 0, 10.0, judgements=[2.0, 1.0, 1.0, 1.5])
    found = win_rate_difference([first], [second])
    assert found.estimate == pytest.approx(100 * (0 + 1 + 0 + 0.5) / 4)  # not 80, of metrics.json
    deviations = [-37.5, 62.5, -37.5, 12.5]
    assert found.standard_error == pytest.approx(math.sqrt(sum(value**2 for value in deviations) / 3 / 4))
    shifted = win_rate_difference([first], [second], beyond=2.0)
    assert shifted.estimate == pytest.approx(found.estimate - 2)


def test_where_one_run_has_no_greedy_win_rate_sampled_ones_are_compared() -> None:
    first, second = (run(0, 0, 50.0, judgements=[2.0, 1.0, 2.0]) for _ in range(2))
    del first.metrics["win_rate_greedy"]
    for row in first.judgements:
        del row["greedy_preferences"]
        row["preferences"] = [2.0, 1.5]
    assert [headline_of(runs) for runs in ([second], [first, second], [])] == ["win_rate_greedy", *["win_rate"] * 2]
    found = win_rate_difference([first], [second])
    assert found.estimate == pytest.approx(75.0 - 50.0)
    assert win_rate_difference([first], [second], figure="win_rate_greedy") is None


def test_prompts_are_joined_by_instruction_and_left_out_ones_ignored() -> None:
    first = run(0, 0, 50.0, judgements=[2.0, None, 1.0, 2.0])
    second = run(0, 0, 50.0, judgements=[1.0, 2.0, 1.0, None])
    second.judgements.reverse()
    found = win_rate_difference([first], [second])
    assert found.estimate == pytest.approx(50.0)  # over prompts 0 and 2


def test_several_draws_of_a_prompt_are_averaged() -> None:
    first, second = run(0, 0, 50.0, judgements=[2.0, 2.0]), run(0, 0, 50.0, judgements=[1.0, 1.0])
    first.judgements[0]["greedy_preferences"] = [2, 1, 1.5, None]
    found = win_rate_difference([first], [second])
    assert found.estimate == pytest.approx((50.0 + 100.0) / 2)


def test_without_judgements_the_rates_are_subtracted() -> None:
    found = win_rate_difference([run(0, 0, 60.0), run(1, 0, 64.0)], [run(0, 0, 55.0), run(1, 0, 57.0)], beyond=1.0)
    assert found.estimate == pytest.approx((5 + 7) / 2 - 1)


def test_a_world_without_an_error_beside_others() -> None:
    same = [run(0, 0, 50.0, judgements=[2.0, 1.0]), run(1, 0, 50.0, judgements=[2.0, 2.0, 1.0])]
    other = [run(0, 0, 50.0, judgements=[2.0, 1.0]), run(1, 0, 50.0, judgements=[1.0, 2.0, 1.0])]
    found = win_rate_difference(same, other)
    assert found.estimate == pytest.approx((0 + 100 / 3) / 2)


def test_extent() -> None:
    runs = [run(world, seed, 50.0) for world in (0, 1) for seed in (0, 1, 2)]
    assert extent(runs) == "2 x 3"
    assert extent(runs[:-1]) == "2 x 2 to 3"
    assert extent(runs[:1]) == "1 x 1"


def test_a_measure_without_bounds() -> None:
    found = level([run(0, 0, 50.0), run(1, 0, 50.0)], Measure(lambda runs: (float(runs[0].world), 0.0)))
    assert found.low < 0
