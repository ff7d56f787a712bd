"""The one table of figures: what is in it, and how a figure is called where."""

import pytest

from rlhf.figures import FIGURES, UNBOUNDED, bounds, heading, headline


def test_names_of_a_figure() -> None:
    figure = FIGURES["win_rate_greedy"]
    assert (figure.title, figure.plain) == ("win rate, %, greedy", "win rate, %")
    assert (figure.axis, figure.difference_unit) == ("greedy win rate against SFT, %", "points")
    assert FIGURES["objective"].difference_unit == "SFT deviations"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("factuality", "sampled factuality, %"),
        ("rollout/kl", "rollout/kl: KL to SFT per token, nats"),
        ("a_users_own", "a_users_own"),
    ],
)
def test_headings_of_what_a_run_writes(name: str, expected: str) -> None:
    assert heading(name) == expected


def test_bounds() -> None:
    assert bounds("win_rate") == (0, 100)
    assert bounds("repeats") == (0, 1)
    assert bounds("reward") == bounds("a_users_own") == UNBOUNDED


def test_best_of_n_has_all_runs_judged_by_sampled_responses() -> None:
    greedy, sampled = {"win_rate_greedy": 60.0, "win_rate": 55.0}, {"win_rate_greedy": None, "win_rate": 58.0}
    assert headline(greedy, greedy) == "win_rate_greedy"
    assert headline(greedy, sampled) == headline() == "win_rate"
