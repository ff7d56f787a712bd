"""Win rates and ratios with their standard errors: by hand, by the published leaderboard, by simulation."""

import csv
import json
import math
from dataclasses import asdict, astuple, replace
from pathlib import Path
from random import Random

import pytest

from rlhf.evaluation.winrate import (
    RATES,
    Judgement,
    mean_and_error,
    ratio_and_error,
    win_rate,
    win_rate_over_draws,
    win_rates,
)

ALPACA_EVAL = Path(__file__).parents[3] / "shared" / "data" / "alpaca_eval"


def test_win_rate_by_hand() -> None:
    found = win_rate([2.0, 2.0, 1.5, 1.0])
    # Per cent per prompt: 100, 100, 50, 0. Mean 62.5; squares 1406.25, 1406.25, 156.25, 3906.25, together 6875;
    # over 3 and over 4: 572.9167, whose root is 23.9357.
    assert found.win_rate == 62.5
    assert found.standard_error == pytest.approx(math.sqrt(6875 / 12), rel=1e-12)
    assert (found.n_wins, found.n_wins_base, found.n_draws, found.n_total, found.n_null) == (2, 1, 1, 4, 0)
    assert found.discrete_win_rate == 62.5
    assert found.ties_as_losses == 50


def test_weighted_preferences_are_rounded_for_counts_only() -> None:
    found = win_rate([1.9, 1.6, 1.2, 1.0])
    assert found.win_rate == pytest.approx((90 + 60 + 20 + 0) / 4)
    assert (found.n_wins, found.n_wins_base, found.n_draws) == (2, 2, 0)
    assert found.discrete_win_rate == found.ties_as_losses == 50


def test_zero_is_a_tie() -> None:
    assert win_rate([0.0, 2.0, 1.0]) == win_rate([1.5, 2.0, 1.0])


def test_what_could_not_be_read_is_dropped_and_counted() -> None:
    found = win_rate([None, 2.0, math.nan, 1.5, 1.0])
    assert found == replace(win_rate([2.0, 1.5, 1.0]), n_null=2)
    assert found.n_total == 3


@pytest.mark.parametrize("value", [3.0, 0.5, -1.0, 2.0001, 0.9999, math.inf])
def test_other_values_are_refused_by_row(value: float) -> None:
    with pytest.raises(ValueError, match=rf"row 1: preference {value} is not allowed: from 1 to 2, 0 for a tie"):
        win_rate([2.0, value, 1.0])
    with pytest.raises(ValueError, match=f"row 0: preference {value}"):
        win_rate_over_draws([[1.0, value], [1.0, 2.0]])


def test_too_little_to_tell() -> None:
    with pytest.raises(ValueError, match="at least 2 prompts with a judgement: found 1 in 3"):
        win_rate([None, 2.0, None])
    with pytest.raises(ValueError, match="row 1 has no preference"):
        win_rate_over_draws([[1.0], [], [2.0]])


def test_draws_of_a_prompt_are_averaged_before_anything_else() -> None:
    found = win_rate_over_draws([[2.0, 2.0, 1.0, 1.0], [2.0, 2.0, 2.0, 0.0]])
    # 50 and 87.5: mean 68.75, deviation 18.75 sqrt(2), so the error over two prompts is 18.75. Wins 2/4 and 3/4.
    # One prompt drawn, one won: 75 with a tie as one half.
    assert found.win_rate == 68.75
    assert found.standard_error == pytest.approx(18.75, rel=1e-12)
    assert found.ties_as_losses == 62.5
    assert (found.n_wins, found.n_wins_base, found.n_draws, found.n_total) == (1, 0, 1, 2)
    assert found.discrete_win_rate == 75


def test_prompts_count_alike_whatever_their_draws() -> None:
    assert win_rate_over_draws([[2.0, 2.0, 2.0], [1.0]]).win_rate == 50
    assert win_rate_over_draws([[2.0, 2.0, 2.0], [1.0]]).ties_as_losses == 50


def test_a_draw_that_could_not_be_read_leaves_the_others() -> None:
    found = win_rate_over_draws([[2.0, None], [1.0, 2.0], [None, None]])
    assert found == replace(win_rate_over_draws([[2.0], [1.0, 2.0]]), n_null=3)
    assert found.n_total == 2


def test_repeating_draws_buys_no_precision() -> None:
    once, often = win_rate([2.0, 1.0, 1.5]), win_rate_over_draws([[2.0] * 5, [1.0] * 5, [1.5] * 5])
    assert astuple(once) == pytest.approx(astuple(often))


def test_swapping_sides_mirrors_the_rate() -> None:
    rows = [[2.0, 1.5], [1.0, 1.0], [1.5, 1.5], [1.2, 1.9]]
    found = win_rate_over_draws(rows)
    mirrored = win_rate_over_draws([[3 - preference for preference in row] for row in rows])
    assert found.win_rate + mirrored.win_rate == pytest.approx(100)
    assert found.discrete_win_rate + mirrored.discrete_win_rate == pytest.approx(100)
    assert found.standard_error == pytest.approx(mirrored.standard_error)
    assert (found.n_wins, found.n_wins_base, found.n_draws) == (mirrored.n_wins_base, mirrored.n_wins, mirrored.n_draws)


def test_all_ties() -> None:
    found = win_rate([1.5, 1.5])
    assert (found.win_rate, found.standard_error, found.ties_as_losses, found.n_draws) == (50, 0, 0, 2)


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


PUBLISHED = ("win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total", "discrete_win_rate")


@pytest.mark.skipif(not ALPACA_EVAL.is_dir(), reason="the AlpacaEval data is not here")
@pytest.mark.parametrize(("version", "n_models"), [("v1_alpaca_eval_gpt4", 4), ("v2_weighted_gpt4_turbo", 2)])
def test_published_leaderboard_rows_come_out(version: str, n_models: int) -> None:
    preferences: dict[str, list[float | None]] = {}
    for record in map(json.loads, (ALPACA_EVAL / f"annotations_{version}.jsonl").read_text().splitlines()):
        preference = record["preference"]
        preferences.setdefault(record["model"], []).append(None if preference is None else float(preference))
    published = leaderboard(version)
    assert len(preferences) == n_models
    for model, column in preferences.items():
        found = asdict(win_rate(column))
        expected = {name: float(published[model][name]) for name in PUBLISHED}
        assert {name: found[name] for name in PUBLISHED} == pytest.approx(expected, abs=1e-9), model
        assert found["n_null"] == len(column) - found["n_total"]


@pytest.mark.skipif(not ALPACA_EVAL.is_dir(), reason="the AlpacaEval data is not here")
@pytest.mark.parametrize("version", ["v1_alpaca_eval_gpt4", "v2_weighted_gpt4_turbo"])
def test_discrete_win_rate_is_defined_as_in_every_published_row(version: str) -> None:
    rows = {model: row for model, row in leaderboard(version).items() if row["discrete_win_rate"]}
    rows.pop("aligner-2b_gpt-4-turbo-2024-04-09", None)  # 371 wins and 17 draws of 805 are 47.1, published as 40.2
    assert len(rows) > 50
    for model, row in rows.items():
        wins, base, draws = int(row["n_wins"]), int(row["n_wins_base"]), int(row["n_draws"])
        found = win_rate([1.9] * wins + [1.1] * base + [1.5] * draws)
        assert found.discrete_win_rate == pytest.approx(float(row["discrete_win_rate"]), abs=1e-9), model


def leaderboard(version: str) -> dict[str, dict[str, str]]:
    with (ALPACA_EVAL / f"leaderboard_{version}.csv").open() as file:
        return {row[""]: row for row in csv.DictReader(file)}


# ---- The figures of a run. ------------------------------------------------------------------------------------------


def test_what_could_not_be_read_is_left_out_and_counted() -> None:
    judged = [Judgement([2.0, None], 3, [3, 3]), Judgement([None, None], 9, [1, 1]), Judgement([1.0, 1.0], 4, [4, 4])]
    figures = win_rates(judged)
    assert (figures["win_rate"], figures["n_eval"], figures["n_null"]) == (50.0, 2, 3)
    assert figures["win_rate_length_controlled"] == 50.0  # all that is left is of equal length


@pytest.mark.parametrize("rows", [[], [[2.0]], [[2.0], [None]], [[None], [None], [None]]])
def test_there_is_no_win_rate_of_fewer_than_two_prompts(rows: list[list[float | None]]) -> None:
    figures = win_rates([Judgement(row, 3, [3]) for row in rows] + [Judgement(None, 1, [1])])
    assert {name: figures[name] for name in RATES} == dict.fromkeys(RATES)
    assert figures["n_eval"] == sum(row != [None] for row in rows)
    assert figures["n_null"] == sum(row == [None] for row in rows)
