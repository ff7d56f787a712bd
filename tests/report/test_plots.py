"""The picture of the win rate by step: what it spans, and names that can be read."""

from pathlib import Path

import pytest
from matplotlib import pyplot as plt

from rlhf.report.groups import ablation
from rlhf.report.load import Run
from rlhf.report.page import curves_by_metric
from rlhf.report.plots import LABEL_GAP, apart, by_step, write_plots
from tests.report.conftest import make_run, point


def runs(*ends: float) -> list[Run]:
    """A form for each end, in two worlds."""
    forms = ("js", "kl", "none", "bregman")
    return [
        make_run([point(0, 50.0), point(20, 55.0), point(40, end + world)], regularizer__name=form, data__seed=world)
        for form, end in zip(forms, ends, strict=False)
        for world in (0, 1)
    ]


def test_all_steps_and_a_name_beside_each_line_and_the_sft_model() -> None:
    found = ablation(runs(60.0, 60.1, 52.0))
    curves = curves_by_metric(found.groups)
    figure = by_step(curves[found.headline].means, found.compared, found.headline)
    [axes] = figure.axes
    assert axes.get_xlim() == (0, 40)
    low, high = axes.get_ylim()
    assert low < 50 < high
    lines = [[float(value) for value in line.get_ydata()] for line in axes.lines]
    assert [line[-1] for line in lines] == pytest.approx([60.6, 60.5, 52.5, 50.0], abs=0.01)
    names = {text.get_text(): text.xy[1] for text in axes.texts}
    assert sorted(names, key=lambda name: names[name]) == ["SFT", "none", "js", "kl"]
    assert names["kl"] - names["js"] == pytest.approx(LABEL_GAP * (high - low), rel=0.01)
    assert len({text.get_color() for text in axes.texts}) == 4
    plt.close(figure)


def test_names_that_leave_room_stay_where_they_are() -> None:
    assert apart([1.0, 3.0, 6.0], 1.0) == [1.0, 3.0, 6.0]
    assert apart([1.0, 1.0], 2.0) == [0.0, 2.0]
    assert apart([], 1.0) == []


def test_without_steps_there_is_no_such_picture(tmp_path: Path) -> None:
    found = ablation([make_run([point(0, 60.0)])])
    curves = curves_by_metric(found.groups)
    assert "win_rate_by_step" not in write_plots(tmp_path, found, {}, found.compared, curves)
    assert (tmp_path / "win_rate.png").exists()
