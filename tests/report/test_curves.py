"""Curves by group and by run, from histories whose means are known."""

import pytest

from rlhf.report.curves import curve, curves_of, metrics_of, paths, steps_of, table_of
from rlhf.report.groups import ablation
from rlhf.report.load import Run
from tests.report.conftest import make_run, point


def run(form: str, seed: int, loss: float, rate: float = 60.0) -> Run:
    rows = [point(0, 50.0, 0.0), {"step": 1, "ppo/loss": loss}, point(2, rate, 0.2) | {"ppo/loss": loss + 2}]
    return make_run(rows, regularizer__name=form, seed=seed)


def test_means_and_standard_errors_over_runs() -> None:
    groups = ablation([run("js", 0, 1.0), run("js", 1, 3.0), run("kl", 0, 7.0, 55.0)]).groups
    js, kl = groups
    curves = curves_of(table_of(groups), groups, "ppo/loss")
    # 1 and 3: mean 2, deviation sqrt(2), error 1
    assert curves.means == {js.id: [(1, 2, 1, 3), (2, 4, 3, 5)], kl.id: [(1, 7, 7, 7), (2, 9, 9, 9)]}
    assert [(line["x"], line["y"]) for line in curves.lines[js.id]] == [([1, 2], [1, 3]), ([1, 2], [3, 5])]
    assert not curves.pooled


def test_figures_with_errors_of_their_own_are_pooled() -> None:
    groups = ablation([run("js", 0, 1.0)]).groups
    curves = curves_of(table_of(groups), groups, "win_rate_greedy")
    assert curves.pooled
    step, mean, low, high = curves.means[groups[0].id][1]
    assert (step, mean) == (2, 60.0)
    # on the logit scale: .4055 -+ 1.96 x .015 / (.6 x .4), so .2830 and .5280
    assert (low, high) == pytest.approx((57.03, 62.90), abs=0.01)


def test_metrics_are_the_numbers_without_their_errors_the_most_telling_first() -> None:
    odd = make_run([point(0, 50.0) | {"note": "x", "flag": True, "ppo/loss": 1.0, "n_eval": 3}])
    names = metrics_of(table_of(ablation([odd]).groups))
    assert names[:5] == ["win_rate_greedy", "win_rate", "objective", "reward", "true_kl_per_response"]
    assert names[5] == "ppo/loss"
    assert not {"note", "flag", "step", "win_rate_se", "n_eval", "run", "group"} & set(names)


def test_paths_join_the_win_rate_with_another_figure_by_step() -> None:
    groups = ablation([run("js", 0, 1.0)]).groups
    table = table_of(groups)
    curves = {name: curves_of(table, groups, name) for name in ("win_rate_greedy", "true_kl_per_response")}
    [points] = paths(curves, "win_rate_greedy", "true_kl_per_response").values()
    assert [(x, rate) for x, rate, *_ in points] == [(0.0, 50.0), (0.2, 60.0)]
    assert paths(curves, "win_rate_greedy", "reward") == {}
    assert paths(curves, "win_rate", "true_kl_per_response") == {}


def test_no_groups_no_metrics() -> None:
    assert metrics_of(table_of([])) == []


def rising(world: int, *rates: float) -> Run:
    return make_run([point(10 * place, rate) for place, rate in enumerate(rates)], data__seed=world)


def test_steps_that_all_have() -> None:
    assert steps_of([rising(0, 50, 51, 52), rising(1, 50, 51)]) == [0, 10]
    assert steps_of([]) == []


def test_curve() -> None:
    points = curve([rising(0, 50.0, 57.0), rising(1, 52.0, 61.0)], "win_rate_greedy")
    assert [(step, mean) for step, mean, _, _ in points] == [(0, pytest.approx(51.0)), (10, pytest.approx(59.0))]
    assert all(low < mean < high for _, mean, low, high in points)


def test_a_curve_leaves_out_what_is_missing() -> None:
    gap = make_run([point(0, 50.0), point(10, 51.0, factuality=None)])
    assert [row[0] for row in curve([gap], "factuality")] == [0.0]
