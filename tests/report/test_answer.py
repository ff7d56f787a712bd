"""The figures of groups and the answer that stands first, from runs whose numbers are known."""

import math

import pytest

from rlhf.report.answer import answer
from rlhf.report.columns import COLUMNS, columns_of, rows_of, sft_figures, span, with_error
from rlhf.report.compare import level
from rlhf.report.groups import ablation
from rlhf.report.load import Run
from tests.report.conftest import make_run, point

WIN_RATE, COST = COLUMNS[0], COLUMNS[-1]


def run(form: str, rate: float, wins: int | None = None, world: int = 0, seed: int = 0) -> Run:
    judgements = None if wins is None else [2.0] * wins + [1.0] * (10 - wins)
    more = {"factuality_greedy": 90.0, "response_length_greedy": 21.0}
    points = [
        point(0, 50.0, 0.0, factuality_greedy=88.0, response_length_greedy=20.0),
        point(40, rate, 2.0, 80.0, **more),
    ]
    return make_run(points, judgements, regularizer__name=form, data__seed=world, seed=seed)


def test_one_run_keeps_its_own_error() -> None:
    [group] = ablation([run("js", 60.0)]).groups
    figures = rows_of([group], COLUMNS, {})[0].figures
    told = {column.name: with_error(figure, column.digits) for column, figure in zip(COLUMNS, figures, strict=True)}
    assert told["win_rate_greedy"] == "60.0 ± 1.5"
    assert told["win_rate"] == "55.0 ± 1.2"
    assert told["win_rate_greedy_length_controlled"] == "–"
    assert told["objective"] == "0.20 ± 0.05"
    assert told["true_kl_per_response"] == "2.00"  # its error is not recorded
    assert told["true_kl_per_token"] == "0.100"
    assert told["cost"] == "36"  # 24 s of PPO, 12 of evaluation
    assert span(figures[0], 1) == "57.1 to 62.9"  # 60 -+ 1.96 x 1.5
    assert span(figures[4], 1) == ""


def test_seeds_are_averaged_within_their_world_and_worlds_pooled() -> None:
    runs = [run("js", 60.0), run("js", 64.0, seed=1), run("js", 66.0, world=1), run("js", 66.0, world=1, seed=1)]
    [group] = ablation(runs).groups
    [row] = rows_of([group], [WIN_RATE], {group.id: ["failed"]})
    figure = row.figures[0]
    assert figure is not None
    assert (row.extent, row.trouble) == ("2 x 2", ["failed"])
    assert figure.estimate == pytest.approx(64.0)  # 62 and 66, of equal errors
    # a world's variance: 1.5 ** 2 over prompts, and of its mean of two seeds half of (2 ** 2 + 2 ** 2) / 2
    assert figure.standard_error >= math.sqrt((1.5**2 + 2) / 2)


def test_columns_that_no_run_has_are_left_out() -> None:
    names = [column.name for column in columns_of([run("js", 60.0)])]
    assert "win_rate_greedy_length_controlled" not in names
    assert names[0] == "win_rate_greedy"
    assert names[-1] == "cost"


def test_the_sft_model_and_its_controls_have_their_own_figures_and_no_cost() -> None:
    columns = [column for column in COLUMNS if column.name in ("win_rate_greedy", "win_rate", "objective", "cost")]
    figures = sft_figures([run("js", 60.0), run("js", 62.0, world=1)], columns)
    told = {name: [with_error(figure, 1) for figure in row] for name, row in figures.items()}
    assert list(told) == ["SFT", "SFT, T=0.7", "SFT, T=0.5"]
    assert told["SFT"] == ["50.0", "50.0", "0.0 ± 0.0", "–"]
    # a control's responses are sampled, and nothing was to be raised with them
    assert [told["SFT, T=0.7"][place] for place in (0, 2, 3)] == ["–", "–", "–"]
    assert (told["SFT, T=0.7"][1][:4], told["SFT, T=0.5"][1][:4]) == ("54.0", "56.0")


def test_the_answer_names_the_winner_its_lead_and_the_reference() -> None:
    worlds = range(6)
    runs = [
        run(form, 10.0 * wins, wins, world) for form, wins in (("js", 8), ("kl", 5), ("none", 2)) for world in worlds
    ]
    found = answer(ablation(runs))
    assert found.headline.startswith("js has the highest greedy win rate: 80.0 ±")
    assert found.winner is not None
    assert found.reference is not None
    assert (found.winner.label, found.reference.label) == ("js", "none")
    # of 10 prompts, 8 won against 5 and against 2
    assert found.sentences[0].startswith("It leads kl, the next, by 30.0 points (95 % interval ")
    assert "ahead of 2 of 2 other settings beyond error (Holm, 5 %)." in found.sentences[0]
    assert found.sentences[1] == "The winner was run in 6 worlds (worlds x seeds: 6 x 1); 3 settings in the table."
    facts = {fact.name: fact.figure for fact in found.facts}
    assert facts["win rate minus SFT's, points"] == "+30.0"
    assert facts["win rate minus none's, points"] == "+60.0"
    assert facts["objective minus SFT's, SFT deviations"] == "+0.60"
    assert facts["factuality minus SFT's, points"] == "+2.0"  # of greedy responses
    assert facts["length minus SFT's, tokens"] == "+1.0"


def test_what_is_not_told_apart_is_named() -> None:
    runs = [run("js", 60.0, 6, 0), run("js", 60.0, 6, 1), run("kl", 59.0, 7, 0), run("kl", 58.0, 5, 1)]
    [first, _] = answer(ablation(runs)).sentences
    assert "ahead of 0 of 1 other setting beyond error (Holm, 5 %); not told apart from it: kl." in first


def test_one_world_is_said_to_be_one() -> None:
    found = answer(ablation([run("js", 80.0, 8), run("kl", 50.0, 5)]))
    assert "All is from one world" in found.sentences[0]
    assert [each.p_value for each in found.to_winner] == [None]
    assert found.reference is None


def test_without_greedy_responses_the_sampled_ones_are_compared_and_said_to_be() -> None:
    runs = [run("js", 60.0), run("kl", 70.0)]
    for each in runs:
        each.metrics["win_rate_greedy"] = None
    found = ablation(runs)
    assert found.headline == "win_rate"
    assert answer(found).headline == "kl has the highest sampled win rate: 60.0 ± 1.2 %"


def test_a_winner_whose_objective_fell_is_told_so() -> None:
    runs = [run("js", 60.0), run("js", 61.0, seed=1), run("kl", 50.0)]
    assert answer(ablation(runs)).problem is None
    runs[2].metrics["objective_problem"] = "kl's own"
    assert answer(ablation(runs)).problem is None  # of another setting
    runs[1].metrics["objective_problem"] = "it ended below"
    problem = answer(ablation(runs)).problem
    assert problem is not None
    assert ("1 of 2 runs" in problem, problem.endswith("it ended below")) == (True, True)
    assert answer(ablation(runs[1:])).problem == "it ended below"


def test_one_setting_has_nothing_to_lead() -> None:
    found = answer(ablation([run("none", 61.0)]))
    assert found.headline == "all runs: greedy win rate 61.0 ± 1.5 %"
    assert found.to_winner == []
    assert found.reference is None


def test_no_finished_run() -> None:
    assert answer(ablation([])).headline == "No finished run yet"


def test_a_level_is_that_of_the_study() -> None:
    runs = [run("js", 60.0), run("js", 62.0, world=1)]
    [group] = ablation(runs).groups
    assert rows_of([group], [WIN_RATE], {})[0].figures[0] == level(runs, WIN_RATE.taken())
