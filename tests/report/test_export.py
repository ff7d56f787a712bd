"""Tables as files, and runs that did not finish."""

import json
from pathlib import Path

import pandas as pd
import pytest

from rlhf.report.answer import answer
from rlhf.report.columns import COLUMNS, rows_of, sft_figures
from rlhf.report.export import (
    Table,
    ablation_table,
    as_data,
    differences_table,
    latex,
    run_figures,
    runs_table,
    settings_table,
    write_tables,
)
from rlhf.report.groups import ablation
from rlhf.report.load import Run, load_outputs
from rlhf.report.unfinished import trouble_of, unfinished
from tests.report.conftest import make_run, point, write_run

WIN_RATE = [column for column in COLUMNS if column.name in ("win_rate_greedy", "win_rate")]


def run(form: str, rate: float, wins: int = 5, coef: float = 1.5, seed: int = 0) -> Run:
    judgements = [2.0] * wins + [1.0] * (10 - wins)
    names = {"regularizer__name": form, "regularizer__coef": coef}
    return make_run([point(0, 50.0), point(40, rate)], judgements, path=f"{form}{seed}", seed=seed, **names)


def test_the_ablation_in_three_formats(tmp_path: Path) -> None:
    found = ablation([run("js_exact", 60.0), run("kl", 55.0, coef=0.1)])
    rows = rows_of(found.groups, WIN_RATE, {found.groups[1].id: ["failed"]})
    sft = sft_figures([run for group in found.groups for run in group.runs], WIN_RATE)
    write_tables([ablation_table(rows, WIN_RATE, {found.groups[0].id: "python x"}, sft)], tmp_path)
    frame = pd.read_csv(tmp_path / "ablation.csv")
    assert frame["setting"].tolist() == ["js_exact", "kl", "SFT", "SFT, T=0.7", "SFT, T=0.5"]
    assert frame["regularizer.name"].fillna("").tolist() == ["js_exact", "kl", "", "", ""]
    assert frame.loc[0, ["win_rate_greedy", "win_rate_greedy_se"]].tolist() == [60.0, 1.5]
    ends = frame.loc[0, ["win_rate_greedy_low", "win_rate_greedy_high"]].tolist()
    assert ends == pytest.approx([57.06, 62.94], abs=0.01)
    assert frame.loc[2, ["win_rate_greedy", "win_rate"]].tolist() == [50.0, 50.0]
    assert frame.loc[3:, "win_rate"].tolist() == [54.0, 56.0]
    assert frame["command"].fillna("").tolist()[:2] == ["python x", ""]
    assert frame["unfinished"].tolist()[:2] == [0, 1]
    lines = (tmp_path / "ablation.md").read_text().splitlines()
    assert lines[0] == "| setting | worlds x seeds | win rate, %, greedy | win rate, %, sampled |"
    assert lines[2:5] == [
        "| js_exact | 1 x 1 | 60.0 ± 1.5 | 55.0 ± 1.2 |",
        "| kl | 1 x 1 (+1 unfinished) | 55.0 ± 1.5 | 52.5 ± 1.2 |",
        "| SFT |  | 50.0 | 50.0 |",
    ]
    assert lines[5].startswith("| SFT, T=0.7 |  | – | 54.0")
    text = (tmp_path / "ablation.tex").read_text()
    assert "js\\_exact & 1 x 1 & 60.0 $\\pm$ 1.5 & 55.0 $\\pm$ 1.2 \\\\" in text
    assert "win rate, \\%, greedy" in text
    assert "\\toprule" in text


def test_cells_that_would_break_a_format() -> None:
    odd = Table(
        "odd",
        ["a_b"],
        [
            [
                "x | y\nz",
            ],
            ["50 % & more"],
        ],
        pd.DataFrame(),
    )
    assert "a\\_b" in latex(odd)
    assert "50 \\% \\& more" in latex(odd)


def test_differences_to_the_reference_and_to_the_winner() -> None:
    found = answer(ablation([run("js", 60.0, 8), run("kl", 55.0, 6, 0.1), run("none", 40.0, 1, 0.0)]))
    table = differences_table(found)
    assert table.header == ["setting", "minus none, points", "Holm p", "minus js, points", "Holm p"]
    assert [row[0] for row in table.rows] == ["js", "kl", "none"]
    # of 10 prompts, won 8, 6 and 1
    assert table.numbers["minus_reference"].tolist()[:2] == [70.0, 50.0]
    assert table.numbers["minus_winner"].tolist()[1:] == [-20.0, -70.0]
    assert table.rows[0][1].startswith("+70.0 (")
    assert table.rows[0][3:] == ["–", "–"]


def test_settings_that_differ_and_every_run() -> None:
    found = ablation([run("js", 60.0), run("js", 62.0, seed=1), run("kl", 55.0, coef=0.1)])
    table = settings_table(found)
    assert table.header == ["setting", "regularizer.coef", "regularizer.name"]
    assert table.rows == [["js", "1.5", "js"], ["kl", "0.1", "kl"]]
    figures = {run.path: run_figures(run, WIN_RATE) for group in found.groups for run in group.runs}
    runs = runs_table(found, WIN_RATE, figures, {"js1": "python y"})
    assert runs.rows[1] == ["js", "0", "1", "62.0 ± 1.5", "56.0 ± 1.2"]
    assert runs.numbers["path"].tolist() == ["js0", "js1", "kl0"]
    assert runs.numbers["command"].tolist()[1] == "python y"


def test_data_for_scripts_can_not_end_them() -> None:
    text = as_data({"a": "</script><!-- & \u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!-- & \u2028"}


def test_what_is_known_of_runs_that_did_not_finish(tmp_path: Path) -> None:
    points = [point(0, 50.0), point(40, 60.0)]
    write_run(tmp_path / "good", points)
    for name, status in (
        ("failed", {"state": "failed", "step": None, "reason": "no\nmemory"}),
        ("runs", {"state": "running"}),
    ):
        path = write_run(tmp_path / name, points, seed=1)
        (path / "status.json").write_text(json.dumps(status))
    write_run(tmp_path / "odd", points, lora__r=2)
    (tmp_path / "odd" / "metrics.json").unlink()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "status.json").write_text("{")
    outputs = load_outputs([tmp_path])
    found = {Path(each.path).name: each for each in unfinished(outputs.problems)}
    assert (found["failed"].state, found["failed"].reason, found["failed"].progress) == (
        "failed",
        "no\nmemory",
        "step 40 of 40",
    )
    assert found["runs"].reason == "no end recorded: it is still running, or was killed"
    assert (found["odd"].state, "metrics.json" in found["odd"].reason) == ("unreadable", True)
    assert (found["torn"].state, found["torn"].progress) == ("unreadable", "before the first step")
    groups = ablation(outputs.runs).groups
    # another seed of the same setting; the odd one has another rank, the torn one no settings
    assert trouble_of(groups, list(found.values())) == {groups[0].id: ["failed", "running"]}
