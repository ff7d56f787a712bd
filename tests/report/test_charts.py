"""What plotly is given to draw settings from."""

import json

import pytest

from rlhf.report.charts import ROW_HEIGHT, forest
from rlhf.report.columns import COLUMNS
from rlhf.report.compare import level
from rlhf.report.groups import ablation
from tests.report.conftest import make_run, point


def test_a_row_for_each_group_with_its_interval_its_runs_and_the_sft_model() -> None:
    def run(form: str, rate: float, greedy: float | None = None):
        more = {} if greedy is None else {"factuality_greedy": greedy, "factuality_greedy_se": 1.0}
        return make_run([point(0, 51.0), point(40, rate, **more)], regularizer__name=form)

    runs = [run("js", 60.0, 90.0), run("kl", 55.0)]
    groups = ablation(runs).groups
    figures = [("win_rate_greedy", "mean"), ("factuality_greedy", "greedy")]
    chart = forest(groups, figures, "win rate, %", level(runs, COLUMNS[0].taken("baseline")))
    single, means, greedy = chart["data"]
    assert (list(single["x"]), list(single["y"])) == ([60.0, 55.0], [0, 1])
    assert list(means["x"]) == [60.0, 55.0]
    assert list(means["error_x"]["array"]) == pytest.approx([1.96 * 1.5] * 2, abs=0.01)
    assert means["text"][0] == "js, mean: 60.0 [57.1, 62.9]"
    assert (list(greedy["x"]), greedy["y"][0] > 0) == ([90.0], True)  # only js has it; below its row's middle
    assert chart["layout"]["yaxis"]["ticktext"] == ["js", "kl"]
    assert chart["layout"]["shapes"][0]["x0"] == 51.0
    taller = forest([*groups, *groups], figures, "", None)
    assert taller["layout"]["height"] - chart["layout"]["height"] == 2 * ROW_HEIGHT
    assert "shapes" not in taller["layout"]
    json.dumps(chart, allow_nan=False)
