"""The pictures: what is described once for both engines, and how the printed ones look."""

from pathlib import Path

import pytest
from matplotlib import pyplot as plt

from rlhf.report import plots
from rlhf.report.compare import final, level
from rlhf.report.curves import curves_by_metric
from rlhf.report.groups import ablation, members
from rlhf.report.load import Run
from rlhf.report.pictures import Pictures, pictures
from tests.report.conftest import make_run, point

FORMS = ("js", "kl", "none", "bregman")


def drawn(runs: list[Run]) -> Pictures:
    found = ablation(runs)
    sft = {name: level(members(found.groups), final(name, "baseline")) for name in ("win_rate_greedy", "factuality")}
    return pictures(found, found.compared, sft, curves_by_metric(found.groups))


def run(form: str, rate: float, world: int = 0, **more: float) -> Run:
    points = [point(0, 51.0), point(20, 55.0), point(40, rate, **more)]
    return make_run(points, regularizer__name=form, data__seed=world)


def two_forms() -> Pictures:
    return drawn([run("js", 60.0, factuality_greedy=90.0, factuality_greedy_se=1.0), run("kl", 55.0)])


def test_a_row_for_each_group_with_its_interval_its_runs_and_the_sft_model() -> None:
    found = two_forms().forests
    rate, factuality = found["win_rate"], found["factuality"]
    assert (rate.labels, rate.sft, rate.title) == (["js", "kl"], 51.0, "greedy win rate against SFT, %")
    assert [(value, row) for value, row, _ in rate.runs] == [(60.0, 0), (55.0, 1)]
    # on the logit scale: .4055 -+ 1.96 x .015 / (.6 x .4), so .2830 and .5280
    assert rate.series["greedy"][0] == pytest.approx((0, 60.0, 57.03, 62.90), abs=0.01)
    assert {name: [row for row, *_ in points] for name, points in factuality.series.items()} == {
        "greedy": [0],  # only js has it
        "sampled": [0, 1],
    }
    assert [row for _, row, _ in factuality.runs] == [0]


def test_the_printed_forest_shows_what_is_described() -> None:
    figure = plots.forest(two_forms().forests["factuality"])
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["js", "kl"]
    heights = {bars.get_label(): bars.lines[0].get_ydata().tolist() for bars in axes.containers}
    assert heights == {"greedy": [0], "sampled": [plots.BELOW, 1 + plots.BELOW]}
    plt.close(figure)


def test_what_the_win_rate_cost_also_at_equal_length() -> None:
    name, error = "win_rate_greedy_length_controlled", "win_rate_greedy_length_controlled_se"
    found = drawn([run("js", 60.0, kl=4.0, **{name: 52.0, error: 1.0}), run("kl", 55.0)])
    assert {name: trade[:2] for name, trade in found.paths.items()} == {
        "reward": ("reward", "win_rate_greedy"),
        "true_kl_per_response": ("true_kl_per_response", "win_rate_greedy"),
        "equal_length": ("true_kl_per_response", name),
    }
    means = found.paths["equal_length"].means
    [[(kl, rate, low, high)]] = [points for points in means.values() if points]
    assert (kl, rate) == (4.0, 52.0)
    assert 49 < low < rate < high < 55
    figure = plots.overoptimisation(found)
    assert "at equal length" in figure.axes[2].get_ylabel()
    assert "equal_length" not in two_forms().paths
    plt.close(figure)


def test_all_steps_and_a_name_beside_each_line_and_the_sft_model() -> None:
    ends = zip(FORMS, (60.0, 60.1, 52.0), strict=False)
    figure = plots.by_step(drawn([run(form, end + world, world) for form, end in ends for world in (0, 1)]))
    [axes] = figure.axes
    assert axes.get_xlim() == (0, 40)
    low, high = axes.get_ylim()
    assert low < 50 < high
    lines = [[float(value) for value in line.get_ydata()] for line in axes.lines]
    assert [line[-1] for line in lines] == pytest.approx([60.6, 60.5, 52.5, 50.0], abs=0.01)
    names = {text.get_text(): text.xy[1] for text in axes.texts}
    assert sorted(names, key=lambda name: names[name]) == ["SFT", "none", "js", "kl"]
    assert names["kl"] - names["js"] == pytest.approx(plots.LABEL_GAP * (high - low), rel=0.01)
    assert len({text.get_color() for text in axes.texts}) == 4
    plt.close(figure)


@pytest.mark.parametrize(
    ("places", "gap", "expected"),
    [([1.0, 3.0, 6.0], 1.0, [1.0, 3.0, 6.0]), ([1.0, 1.0], 2.0, [0.0, 2.0]), ([], 1.0, [])],
)
def test_names_move_only_where_they_need_room(places: list[float], gap: float, expected: list[float]) -> None:
    assert plots.apart(places, gap) == expected


def test_without_steps_there_is_no_such_picture(tmp_path: Path) -> None:
    assert "win_rate_by_step" not in plots.write_plots(tmp_path, drawn([make_run([point(0, 60.0)])]))
    assert (tmp_path / "win_rate.png").exists()
    assert plots.write_plots(tmp_path, drawn([])) == []
