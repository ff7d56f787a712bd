"""Measures that only the study takes: differences over worlds and seeds, at equal divergence, at the best step."""

import math
from typing import Any

import pytest

from rlhf.report.compare import final, gain, level
from rlhf.report.load import Run
from studies.matched import KL
from studies.measures import at_best, at_equal, best_steps, difference
from tests.report.conftest import make_run, point

T_2 = 4.302652729911275  # 97.5 % quantile of Student's t with 2 degrees of freedom


def run(world: int, seed: int, win_rate: float, kl: float = 0.1, **more: Any) -> Run:
    return make_run([point(0, 50.0, 0.0), point(40, win_rate, kl)], data__seed=world, seed=seed, **more)


def rising(world: int, *rates: float, seed: int = 0) -> Run:
    """Evaluated at every tenth step."""
    return make_run([point(10 * place, rate) for place, rate in enumerate(rates)], data__seed=world, seed=seed)


def test_at_equal_kl_averages_over_strengths() -> None:
    def strong(win_rate: float) -> Run:
        return make_run([point(0, 50.0, 0.0), point(10, 50.0, 0.01), point(20, win_rate, 0.09)])

    runs = [strong(60.0), strong(70.0), make_run([point(0, 50.0, 0.0), point(20, 90.0, 0.01)])]
    assert at_equal("win_rate_greedy", KL, 0.04).take(runs) == pytest.approx(((55.0 + 60.0) / 2, 1.5))
    assert at_equal("win_rate_greedy", KL, 0.2).take(runs) is None


def test_a_difference_is_taken_within_world_and_seed() -> None:
    first = [run(0, 0, 50, 0.30), run(1, 0, 50, 0.50), run(2, 0, 50, 0.80), run(2, 1, 50, 9.0), run(3, 0, 50, 9.0)]
    second = [run(0, 0, 50, 0.20), run(1, 0, 50, 0.30), run(2, 0, 50, 0.50), run(2, 2, 50, 9.0), run(4, 0, 50, 9.0)]
    found = difference(first, second, final("true_kl_per_response"))
    margin = T_2 * 0.1 / math.sqrt(3)  # the differences are 0.1, 0.2 and 0.3
    assert (found.estimate, found.low, found.high, found.n) == pytest.approx((0.2, 0.2 - margin, 0.2 + margin, 3))


def test_a_difference_beyond_something() -> None:
    runs = [run(0, 0, 50.0), run(1, 0, 60.0)], [run(0, 0, 49.0), run(1, 0, 56.0)]
    found, excess = (difference(*runs, final("win_rate_greedy"), beyond) for beyond in (0.0, 2.0))
    assert (found.estimate, excess.estimate, excess.low) == pytest.approx((2.5, 0.5, found.low - 2))
    raised = level(runs[0], gain("win_rate_greedy"), beyond=3.0)
    assert raised.estimate == pytest.approx(5.0 - 3.0)


def test_no_world_in_common() -> None:
    assert difference([run(0, 0, 50)], [run(1, 0, 50)], final("win_rate_greedy")) is None
    assert difference([run(0, 0, 50)], [run(0, 1, 50)], final("win_rate_greedy")) is None


def test_the_best_step_is_chosen_in_the_other_worlds() -> None:
    runs = [rising(0, 90, 50, 60, 55), rising(1, 90, 50, 61, 58), rising(2, 90, 50, 52, 80)]
    # worlds 1 and 2 average 50, 56.5, 69; worlds 0 and 2 50, 56, 67.5; worlds 0 and 1 50, 60.5, 56.5; step 0 is SFT
    assert best_steps(runs) == {0: 30, 1: 30, 2: 20}
    assert at_best("win_rate_greedy", runs).take([runs[2]]) == (52.0, 1.5)
    assert at_best("win_rate_greedy", runs).take([rising(7, 1, 2)]) is None


def test_a_single_world_chooses_by_itself() -> None:
    assert best_steps([rising(0, 50, 60, 55), rising(0, 50, 52, 55, seed=1)]) == {0: 10}


def test_without_training_there_is_no_best_step() -> None:
    assert best_steps([rising(0, 50.0)]) == {}
