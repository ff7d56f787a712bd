"""Figures along training."""

import pytest

from rlhf.report.load import Run
from rlhf.report.training import at_best, best_steps, curve, steps_of
from tests.report.conftest import make_run, point


def run(world: int, *rates: float, seed: int = 0) -> Run:
    return make_run([point(10 * place, rate) for place, rate in enumerate(rates)], data__seed=world, seed=seed)


def test_steps_that_all_have() -> None:
    assert steps_of([run(0, 50, 51, 52), run(1, 50, 51)]) == [0, 10]
    assert steps_of([]) == []


def test_the_best_step_is_chosen_in_the_other_worlds() -> None:
    runs = [run(0, 90, 50, 60, 55), run(1, 90, 50, 61, 58), run(2, 90, 50, 52, 80)]
    # worlds 1 and 2 average 50, 56.5, 69; worlds 0 and 2 50, 56, 67.5; worlds 0 and 1 50, 60.5, 56.5; step 0 is SFT
    assert best_steps(runs) == {0: 30, 1: 30, 2: 20}
    assert at_best("win_rate_greedy", runs).take([runs[2]]) == (52.0, 1.5)
    assert at_best("win_rate_greedy", runs).take([run(7, 1, 2)]) is None


def test_a_single_world_chooses_by_itself() -> None:
    assert best_steps([run(0, 50, 60, 55), run(0, 50, 52, 55, seed=1)]) == {0: 10}


def test_without_training_there_is_no_best_step() -> None:
    assert best_steps([run(0, 50.0)]) == {}


def test_curve() -> None:
    points = curve([run(0, 50.0, 57.0), run(1, 52.0, 61.0)], "win_rate_greedy")
    assert [(step, mean) for step, mean, _, _ in points] == [(0, pytest.approx(51.0)), (10, pytest.approx(59.0))]
    assert all(low < mean < high for _, mean, low, high in points)


def test_a_curve_leaves_out_what_is_missing() -> None:
    gap = make_run([point(0, 50.0), point(10, 51.0, factuality=None)])
    assert [row[0] for row in curve([gap], "factuality")] == [0.0]
