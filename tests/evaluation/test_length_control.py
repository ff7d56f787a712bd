"""The length-controlled win rate: by hand, beside statsmodels' own sandwich, by simulation, on published judgements."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.generalized_linear_model import GLM
from statsmodels.tools.sm_exceptions import SingularMatrixWarning

from rlhf.evaluation.winrate import length_controlled_win_rate, win_rate, win_rate_over_draws

ALPACA_EVAL = Path(__file__).parents[3] / "shared" / "data" / "alpaca_eval"


def once(preferences: list[float]) -> list[list[float]]:
    return [[preference] for preference in preferences]


def test_two_lengths_by_hand() -> None:
    # Of 10 longer responses 8 win, of 10 shorter ones 5. Constant and slope fit both shares exactly, and the terms are
    # c and -c: the constant is the mean of log(0.8 / 0.2) and log(0.5 / 0.5), log 2, which predicts 2 / 3. The error of
    # a group's logit is 1 / sqrt(n p q): the constant's variance is (1 / 1.6 + 1 / 2.5) / 4, the rate's that times
    # (2/3 x 1/3) squared, and 20 / 19 for n - 1.
    preferences = [2.0] * 8 + [1.0] * 2 + [2.0] * 5 + [1.0] * 5
    found = length_controlled_win_rate(once(preferences), [30] * 10 + [10] * 10, [[20]] * 20)
    assert found is not None
    assert found[0] == pytest.approx(200 / 3, rel=1e-6)
    assert found[1] == pytest.approx(100 * 2 / 9 * math.sqrt((1 / 1.6 + 1 / 2.5) / 4 * 20 / 19), rel=1e-6)


def test_ties_and_weighted_preferences_count_by_their_share() -> None:
    longer, shorter = [1.8] * 5 + [2.0, 2.0, 1.5, 1.5, 1.0], [1.5] * 10  # 0.4 + 0.2 + 0.1 and 0.5 in the mean
    found = length_controlled_win_rate(once(longer + shorter), [30] * 10 + [10] * 10, [[20]] * 20)
    assert found is not None
    assert found[0] == pytest.approx(100 * expit(math.log(0.7 / 0.3) / 2), rel=1e-6)


def simulated(seed: int, size: int, draws: int, length_effect: float, difficulty_effect: float = 0.8) -> dict[str, Any]:
    """Judgements of prompts; draws of one prompt go together half the time, since they share the model's response."""
    rng = np.random.default_rng(seed)
    lengths, reference_lengths = rng.integers(20, 80, size), rng.integers(20, 80, (size, draws))
    differences = lengths[:, None] - reference_lengths
    difficulties = rng.normal(size=size)
    logits = (
        0.5 + length_effect * np.tanh(differences / differences.std(ddof=1)) + difficulty_effect * difficulties[:, None]
    )
    common = rng.random((size, 1)) < 0.5
    uniform = np.where(common, rng.random((size, 1)), rng.random((size, draws)))
    return {
        "preferences": np.where(uniform < expit(logits), 2.0, 1.0).tolist(),
        "lengths": lengths.tolist(),
        "reference_lengths": reference_lengths.tolist(),
        "difficulties": difficulties.tolist(),
    }


@pytest.mark.parametrize("draws", [1, 3])
def test_error_is_statsmodels_clustered_sandwich_through_the_delta_method(draws: int) -> None:
    sample = simulated(0, 150, draws, 1.0)
    found = length_controlled_win_rate(sample["preferences"], sample["lengths"], sample["reference_lengths"])
    differences = (np.array(sample["lengths"])[:, None] - np.array(sample["reference_lengths"])).ravel()
    design = np.column_stack([np.ones(150 * draws), np.tanh(differences / differences.std(ddof=1))])
    clusters = {"groups": np.repeat(np.arange(150), draws), "use_correction": False}
    model = GLM(np.array(sample["preferences"]).ravel() - 1, design, family=Binomial())
    fit = model.fit(cov_type="cluster", cov_kwds=clusters)
    rate = expit(fit.params[0])
    assert found is not None
    assert found[0] == pytest.approx(100 * rate, rel=1e-6)
    assert found[1] == pytest.approx(100 * rate * (1 - rate) * fit.bse[0] * math.sqrt(150 / 149), rel=1e-6)


def test_error_with_difficulties_is_the_jackknife_over_prompts() -> None:
    sample = simulated(8, 100, 2, 1.0, difficulty_effect=2.0)
    left_out = [
        length_controlled_win_rate(**{name: rows[:prompt] + rows[prompt + 1 :] for name, rows in sample.items()})
        for prompt in range(100)
    ]
    rates = [pair[0] for pair in left_out if pair is not None]
    found = length_controlled_win_rate(**sample)
    assert found is not None
    assert len(rates) == 100
    assert found[1] == pytest.approx(math.sqrt(99 * np.var(rates)), rel=0.03)


def test_rate_and_error_recover_the_truth() -> None:
    rng = np.random.default_rng(1)
    truth = 100 * expit(0.5 + 0.8 * rng.normal(size=1_000_000)).mean()
    found = [length_controlled_win_rate(**simulated(seed, 200, 2, 1.5)) for seed in range(200)]
    rates, errors = np.array([pair for pair in found if pair is not None]).T
    assert len(rates) == 200
    assert rates.mean() == pytest.approx(truth, abs=0.8)  # its error over 200 samples is 0.2
    assert errors.mean() == pytest.approx(rates.std(ddof=1), rel=0.15)  # a deviation over 200 is known to 5 %
    assert 0.9 < np.mean(abs(rates - truth) < 1.96 * errors) < 0.99  # 0.95 give or take 0.015


def test_length_bias_is_taken_out() -> None:
    sample = simulated(2, 4000, 1, 2.0)
    sample["lengths"] = [length + 20 for length in sample["lengths"]]
    differences = np.array(sample["lengths"])[:, None] - np.array(sample["reference_lengths"])
    uniform = np.random.default_rng(3).random(differences.shape)
    logits = 2 * np.tanh(differences / differences.std(ddof=1))
    sample["preferences"] = np.where(uniform < expit(logits), 2.0, 1.0).tolist()
    found = length_controlled_win_rate(**sample)
    assert found is not None
    assert win_rate_over_draws(sample["preferences"]).win_rate > 65  # the model is no better, only longer
    assert abs(found[0] - 50) < 3 * found[1] < 4


def test_swapping_sides_mirrors_the_rate() -> None:
    sample = simulated(4, 100, 1, 1.0)
    mirrored = {
        "preferences": [[3 - row[0]] for row in sample["preferences"]],
        "lengths": [row[0] for row in sample["reference_lengths"]],
        "reference_lengths": [[length] for length in sample["lengths"]],
        "difficulties": sample["difficulties"],
    }
    found, other = length_controlled_win_rate(**sample), length_controlled_win_rate(**mirrored)
    assert found is not None
    assert other is not None
    assert found[0] + other[0] == pytest.approx(100)
    assert found[1] == pytest.approx(other[1])


def test_repeating_draws_buys_no_precision() -> None:
    sample = simulated(5, 60, 1, 1.0)
    found = length_controlled_win_rate(**sample)
    repeated = {name: [row * 3 for row in sample[name]] for name in ("preferences", "reference_lengths")}
    assert found == pytest.approx(length_controlled_win_rate(**sample | repeated), rel=0.01)  # n - 1 in the deviation


def test_prompts_count_alike_whatever_their_draws() -> None:
    # As by hand above, but the prompts won with longer responses are judged three times each.
    preferences = [[2.0] * 3] * 8 + [[1.0]] * 2 + [[2.0]] * 5 + [[1.0]] * 5
    found = length_controlled_win_rate(preferences, [30] * 10 + [10] * 10, [[20] * 3] * 8 + [[20]] * 12)
    assert found is not None
    assert found[0] == pytest.approx(200 / 3, rel=1e-6)
    assert found[1] == pytest.approx(100 * 2 / 9 * math.sqrt((1 / 1.6 + 1 / 2.5) / 4 * 20 / 19), rel=1e-6)


def test_one_difficulty_for_all_says_nothing() -> None:
    sample = simulated(7, 40, 1, 1.0)
    columns = sample["preferences"], sample["lengths"], sample["reference_lengths"]
    with pytest.warns(SingularMatrixWarning):
        found = length_controlled_win_rate(*columns, [0.3] * 40)
    assert found == pytest.approx(length_controlled_win_rate(*columns))


def test_what_could_not_be_read_is_left_out_with_its_length() -> None:
    sample = simulated(6, 50, 2, 1.0)
    preferences = [[None, row[1]] for row in sample["preferences"][:5]] + sample["preferences"][5:]
    shortened = {
        "preferences": [row[1:] for row in sample["preferences"][:5]] + sample["preferences"][5:],
        "reference_lengths": [row[1:] for row in sample["reference_lengths"][:5]] + sample["reference_lengths"][5:],
    }
    found = length_controlled_win_rate(**sample | {"preferences": preferences})
    assert found == pytest.approx(length_controlled_win_rate(**sample | shortened))
    fewer = {name: values[5:] for name, values in sample.items()}
    gone = [[None, None]] * 5 + sample["preferences"][5:]
    found = length_controlled_win_rate(**sample | {"preferences": gone})
    assert found == pytest.approx(length_controlled_win_rate(**fewer))


def test_equal_lengths_give_the_plain_win_rate() -> None:
    preferences = [2.0, 1.0, 1.5, 1.8]
    plain = win_rate(preferences)
    for difficulties in (None, [0.1, 3.0, -1.0, 0.5]):
        found = length_controlled_win_rate(once(preferences), [7, 8, 9, 9], [[7], [8], [9], [9]], difficulties)
        assert found == (plain.win_rate, plain.standard_error)


@pytest.mark.parametrize(("preference", "rate"), [(2.0, 100), (1.0, 0)])
def test_all_won_or_all_lost_is_the_plain_win_rate(preference: float, rate: float) -> None:
    assert length_controlled_win_rate([[preference]] * 5, [1, 2, 3, 4, 5], [[3]] * 5) == (rate, 0)


def test_no_rate_where_length_tells_wins_from_losses() -> None:
    separated, lengths = [2.0, 2.0, 2.0, 1.0, 1.0, 1.0], [9, 8, 7, 3, 2, 1]
    assert length_controlled_win_rate(once(separated), lengths, [[5]] * 6) is None
    overlapping = [2.0, 2.0, 1.0, 2.0, 1.0, 1.0]
    assert length_controlled_win_rate(once(overlapping), lengths, [[5]] * 6) is not None
    tied_between = [2.0, 2.0, 1.5, 1.5, 1.0, 1.0]  # two ties at different lengths fix both coefficients
    assert length_controlled_win_rate(once(tied_between), lengths, [[5]] * 6) is not None
    by_difficulty = length_controlled_win_rate(once(overlapping), lengths, [[5]] * 6, [1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    assert by_difficulty is None


def test_no_rate_where_the_difference_never_changes() -> None:
    assert length_controlled_win_rate(once([2.0, 1.0, 2.0]), [7, 8, 9], [[5], [6], [7]]) is None


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 prompts"):
        length_controlled_win_rate([[2.0], [None]], [1, 2], [[1], [2]])
    with pytest.raises(ValueError, match=r"row 1: preference 3\.0"):
        length_controlled_win_rate([[2.0], [3.0]], [1, 2], [[1], [2]])
    with pytest.raises(ValueError, match="3 difficulties for 2 prompts"):
        length_controlled_win_rate([[2.0], [1.0]], [1, 2], [[1], [2]], [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="zip"):
        length_controlled_win_rate([[2.0], [1.0]], [1, 2], [[1, 1], [2]])


def published(version: str, baseline: str) -> list[tuple[float, float, float]]:
    """Of each model AlpacaEval's length-controlled rate; ours without, and with difficulties."""
    with (ALPACA_EVAL / f"leaderboard_{version}.csv").open() as file:
        leaderboard = {row[""]: row for row in csv.DictReader(file)}
    with (ALPACA_EVAL / "instruction_difficulty_recovered.csv").open() as file:
        difficulty = {int(row["index"]): float(row["instruction_difficulty"]) for row in csv.DictReader(file)}
    judgements: dict[str, list[dict]] = {}
    for record in map(json.loads, (ALPACA_EVAL / f"annotations_{version}.jsonl").read_text().splitlines()):
        judgements.setdefault(record["model"], []).append(record)
    reference = lengths_of(baseline)
    rates = []
    for model, records in judgements.items():
        lengths = lengths_of(model)
        rows = [row for row in records if row["preference"] is not None and row["index"] in lengths]
        indices = [row["index"] for row in rows]
        preferences = once([float(row["preference"]) for row in rows])
        sample = preferences, [lengths[index] for index in indices], [[reference[index]] for index in indices]
        ours = length_controlled_win_rate(*sample)
        with_difficulty = length_controlled_win_rate(*sample, [difficulty[index] for index in indices])
        assert ours is not None
        assert with_difficulty is not None
        row = leaderboard[model]
        rates.append((float(row["length_controlled_winrate"]), ours[0], with_difficulty[0]))
    return rates


def lengths_of(name: str) -> dict[int, int]:
    rows = json.loads((ALPACA_EVAL / "outputs" / f"{name}.json").read_text())
    return {row["index"]: len(row["output"]) for row in rows}


@pytest.mark.skipif(not ALPACA_EVAL.is_dir(), reason="the AlpacaEval data is not here")
def test_near_the_published_rates_though_not_the_same_fit() -> None:
    for controlled, ours, with_difficulty in published("v1_alpaca_eval_gpt4", "text_davinci_003__ae1_baseline"):
        assert abs(ours - controlled) < 0.75  # where AlpacaEval's own correction is 0.2 to 11.5
        assert abs(with_difficulty - controlled) < 0.75
    for controlled, ours, with_difficulty in published("v2_weighted_gpt4_turbo", "gpt4_1106_preview__ae2_baseline"):
        assert abs(with_difficulty - controlled) < 0.75 < 3 < abs(ours - controlled)
