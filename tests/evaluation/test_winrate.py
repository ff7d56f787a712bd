"""Win rates and ratios with their standard errors: by hand, by the published leaderboard, by simulation."""

import csv
import json
import math
from dataclasses import astuple
from pathlib import Path
from random import Random

import pytest

from rlhf.evaluation.winrate import mean_and_error, ratio_and_error, win_rate

ALPACA_EVAL = Path(__file__).parents[3] / "shared" / "data" / "alpaca_eval"


def test_win_rate_by_hand() -> None:
    found = win_rate([[2.0], [2.0], [1.5], [1.0]])
    # Per cent per prompt: 100, 100, 50, 0. Mean 62.5; squares 1406.25, 1406.25, 156.25, 3906.25, together 6875;
    # over 3 and over 4: 572.9167, whose root is 23.9357.
    assert found.win_rate == 62.5
    assert found.standard_error == pytest.approx(math.sqrt(6875 / 12), rel=1e-12)
    assert found.ties_as_losses == 50
    assert found.n_prompts == 4


def test_draws_of_a_prompt_are_averaged_before_anything_else() -> None:
    found = win_rate([[2.0, 2.0, 1.0, 1.0], [2.0, 2.0, 2.0, 1.5]])
    # 50 and 87.5: mean 68.75, deviation 18.75 sqrt(2), so the error over two prompts is 18.75. Wins 2/4 and 3/4.
    assert found.win_rate == 68.75
    assert found.standard_error == pytest.approx(18.75, rel=1e-12)
    assert found.ties_as_losses == 62.5
    assert found.n_prompts == 2


def test_prompts_count_alike_whatever_their_draws() -> None:
    assert win_rate([[2.0, 2.0, 2.0], [1.0]]).win_rate == 50
    assert win_rate([[2.0, 2.0, 2.0], [1.0]]).ties_as_losses == 50


def test_repeating_draws_buys_no_precision() -> None:
    once, often = win_rate([[2.0], [1.0], [1.5]]), win_rate([[2.0] * 5, [1.0] * 5, [1.5] * 5])
    assert astuple(once) == pytest.approx(astuple(often))


def test_swapping_sides_mirrors_the_rate() -> None:
    rows = [[2.0, 1.5], [1.0, 1.0], [1.5, 2.0], [1.2, 1.9]]
    found, mirrored = win_rate(rows), win_rate([[3 - preference for preference in row] for row in rows])
    assert found.win_rate + mirrored.win_rate == pytest.approx(100)
    assert found.standard_error == pytest.approx(mirrored.standard_error)


def test_all_ties() -> None:
    assert astuple(win_rate([[1.5], [1.5]])) == (50, 0, 0, 2)


def test_mean_and_error_by_hand() -> None:
    # Mean 3; squares 4, 1, 9, together 14; over n - 1 = 2, over n = 3, the root of 7/3.
    assert mean_and_error([1.0, 2.0, 6.0]) == pytest.approx((3, math.sqrt(7 / 3)))


def test_ratio_by_hand() -> None:
    # 5 / 8 = 0.625. Residuals over the mean denominator 4: (1 - 0.625 x 2) / 4 = -1/16 and (4 - 0.625 x 6) / 4 = 1/16;
    # deviation sqrt(2) / 16, error 1/16.
    assert ratio_and_error([1.0, 4.0], [2.0, 6.0]) == pytest.approx((0.625, 0.0625))


def test_ratio_over_equal_denominators_is_the_mean_of_ratios() -> None:
    shares = [0.0, 0.25, 1.0, 0.5]
    assert ratio_and_error([4 * share for share in shares], [4.0] * 4) == pytest.approx(mean_and_error(shares))


def test_a_constant_ratio_has_no_error() -> None:
    assert ratio_and_error([1.0, 3.0, 0.0], [2.0, 6.0, 0.0]) == pytest.approx((0.5, 0))


def test_ratio_error_is_the_spread_over_repeated_samples() -> None:
    rng = Random(0)

    def sample(size: int) -> tuple[list[float], list[float]]:
        """Units that state 1 to 6 facts; long ones are wrong more often, so that the two sums go together."""
        stated = [rng.randint(1, 6) for _ in range(size)]
        right = [sum(rng.random() < 1 - 0.12 * count for _ in range(count)) for count in stated]
        return [float(count) for count in right], [float(count) for count in stated]

    pairs = [ratio_and_error(*sample(200)) for _ in range(400)]
    _, standard_error = mean_and_error([ratio for ratio, _ in pairs])
    spread = standard_error * math.sqrt(len(pairs))
    assert sum(error for _, error in pairs) / len(pairs) == pytest.approx(spread, rel=0.12)  # 3.4 sigma of the spread


@pytest.mark.skipif(not ALPACA_EVAL.is_dir(), reason="the AlpacaEval data is not here")
def test_published_leaderboard_rows_come_out() -> None:
    lines = (ALPACA_EVAL / "annotations_v1_alpaca_eval_gpt4.jsonl").read_text().splitlines()
    preferences: dict[str, list[list[float]]] = {}
    for record in map(json.loads, lines):
        if record["preference"] is not None:
            preference = float(record["preference"]) or 1.5  # 0 is the annotators' other way to write a tie
            preferences.setdefault(record["model"], []).append([preference])
    with (ALPACA_EVAL / "leaderboard_v1_alpaca_eval_gpt4.csv").open() as file:
        published = {row[""]: row for row in csv.DictReader(file)}
    assert len(preferences) >= 4
    for model, rows in preferences.items():
        found, row = win_rate(rows), published[model]
        assert found.win_rate == pytest.approx(float(row["win_rate"]), abs=1e-9), model
        assert found.standard_error == pytest.approx(float(row["standard_error"]), abs=1e-9), model
        assert found.ties_as_losses == pytest.approx(100 * int(row["n_wins"]) / int(row["n_total"]), abs=1e-9), model
        assert found.n_prompts == int(row["n_total"]), model
