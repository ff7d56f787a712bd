"""Figures of groups, pooled, and tables of them as files."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from rlhf.report.answer import answer
from rlhf.report.groups import ablation, members
from rlhf.report.load import Run
from rlhf.report.markdown import span, with_error
from rlhf.report.tables import (
    COLUMNS,
    Table,
    ablation_table,
    cells,
    columns_of,
    differences_table,
    frame,
    latex,
    rows_of,
    runs_table,
    settings_table,
    sft_values,
    write_tables,
)
from rlhf.storage.reader import MadeBy
from tests.report.conftest import make_run, point

RATES = [column for column in COLUMNS if column.name in ("win_rate_greedy", "win_rate")]


def run(form: str, rate: float, wins: int = 5, coef: float = 1.5, world: int = 0, seed: int = 0) -> Run:
    judgements = [2.0] * wins + [1.0] * (10 - wins)
    settings = {"regularizer__name": form, "regularizer__coef": coef, "data__seed": world, "seed": seed}
    return make_run([point(0, 50.0), point(40, rate, 2.0)], judgements, path=f"{form}{seed}", **settings)


def test_a_table_takes_names_of_bytes_that_are_no_text() -> None:
    found = frame([{"path": "a\udcff", "=1+1": 2.0}])  # as a directory's name may be, in any locale
    assert found.to_csv(index=False) == "path,'=1+1\na\\udcff,2.0\n"


def test_one_run_keeps_its_own_error() -> None:
    figures = rows_of(ablation([run("js", 60.0)]).groups, COLUMNS, {})[0].figures
    texts = {column.name: with_error(figures[column.name], column.digits) for column in COLUMNS}
    assert texts == {
        "win_rate_greedy": "60.0 ± 1.5",
        "win_rate_greedy_length_controlled": "–",
        "win_rate": "55.0 ± 1.2",
        "objective": "0.20 ± 0.05",
        "true_kl_per_response": "2.00",  # its error is not recorded
        "true_kl_per_token": "0.100",
        "response_length_greedy": "–",
        "response_length": "19.0 ± 0.4",
        "factuality_greedy": "–",
        "factuality": "75.0 ± 1.8",
        "reward": "0.10",
        "raw_reward": "–",
        "cost": "36",  # 24 s of PPO, 12 of evaluation
    }
    assert span(figures["win_rate_greedy"]) == "57.0 to 62.9"  # 60 -+ 1.96 x 1.5, on the logit scale
    assert span(figures["true_kl_per_response"]) == ""


def test_seeds_are_averaged_within_their_world_and_worlds_pooled() -> None:
    runs = [run("js", rate, world=world, seed=seed) for rate, world, seed in ((60, 0, 0), (64, 0, 1), (66, 1, 0))]
    [group] = ablation([*runs, run("js", 66.0, world=1, seed=1)]).groups
    [row] = rows_of([group], RATES, {group.id: ["failed"]})
    figure = row.figures["win_rate_greedy"]
    assert (row.extent, row.trouble) == ("2 x 2", ["failed"])
    assert figure.estimate == pytest.approx(64.0)  # 62 and 66, of equal errors
    # a world's variance: 1.5 ** 2 over prompts, and of its mean of two seeds half of (2 ** 2 + 2 ** 2) / 2
    assert figure.standard_error >= math.sqrt((1.5**2 + 2) / 2)


def test_columns_that_no_run_has_are_left_out() -> None:
    names = [column.name for column in columns_of([run("js", 60.0)])]
    assert not {"win_rate_greedy_length_controlled", "factuality_greedy", "response_length_greedy"} & set(names)
    assert (names[0], names[-1]) == ("win_rate_greedy", "cost")


def test_the_sft_model_and_its_controls_have_their_own_figures_and_no_cost() -> None:
    columns = [column for column in COLUMNS if column.name in ("win_rate_greedy", "win_rate", "objective", "cost")]
    found = sft_values([run("js", 60.0), run("js", 62.0, world=1)], columns)
    texts = {name: cells(values, columns) for name, values in found.items()}
    assert list(texts) == ["SFT", "SFT, T=0.7", "SFT, T=0.5"]
    assert texts["SFT"] == ["50.0", "50.0", "0.00 ± 0.04", "–"]
    # a control's responses are sampled, and nothing was to be raised with them
    assert [texts["SFT, T=0.7"][place] for place in (0, 2, 3)] == ["–", "–", "–"]
    assert (texts["SFT, T=0.7"][1][:4], texts["SFT, T=0.5"][1][:4]) == ("54.0", "56.0")


def test_the_ablation_in_three_formats(tmp_path: Path) -> None:
    first = replace(run("js_exact", 60.0), made_by=MadeBy(config="config", overrides=["a=1"]))
    found = ablation([first, run("kl", 55.0, coef=0.1)])
    rows = rows_of(found.groups, RATES, {found.groups[1].id: ["failed"]})
    write_tables([ablation_table(rows, RATES, sft_values(members(found.groups), RATES))], tmp_path)
    frame = pd.read_csv(tmp_path / "ablation.csv")
    assert frame["setting"].tolist() == ["js_exact", "kl", "SFT", "SFT, T=0.7", "SFT, T=0.5"]
    assert frame["regularizer.name"].fillna("").tolist() == ["js_exact", "kl", "", "", ""]
    assert frame.loc[0, ["win_rate_greedy", "win_rate_greedy_se"]].tolist() == [60.0, 1.5]
    ends = frame.loc[0, ["win_rate_greedy_low", "win_rate_greedy_high"]].tolist()
    assert ends == pytest.approx([57.03, 62.90], abs=0.01)
    assert frame.loc[2, ["win_rate_greedy", "win_rate"]].tolist() == [50.0, 50.0]
    assert frame.loc[3:, "win_rate"].tolist() == [54.0, 56.0]
    assert frame["command"].fillna("").tolist()[:2] == ["python -m rlhf.run a=1 data.seed=0 seed=0", ""]
    assert frame["unfinished"].tolist()[:2] == [0, 1]
    lines = (tmp_path / "ablation.md").read_text().splitlines()
    assert lines[:5] == [
        "| setting | worlds x seeds | win rate, %, greedy | win rate, %, sampled |",
        "| :-- | :-- | --: | --: |",
        "| js_exact | 1 x 1 | 60.0 ± 1.5 | 55.0 ± 1.2 |",
        "| kl | 1 x 1 (+1 unfinished) | 55.0 ± 1.5 | 52.5 ± 1.2 |",
        "| SFT |  | 50.0 | 50.0 |",
    ]
    assert lines[5].startswith("| SFT, T=0.7 |  | – | 54.0")
    text = (tmp_path / "ablation.tex").read_text()
    assert "js\\_exact & 1 x 1 & 60.0 $\\pm$ 1.5 & 55.0 $\\pm$ 1.2 \\\\" in text
    assert "win rate, \\%, greedy" in text
    assert "\\toprule" in text


def test_cells_that_would_break_a_format(tmp_path: Path) -> None:
    odd = Table("odd", ["a_b"], [["x | y\nz"], ["50 % & more"]], pd.DataFrame())
    assert "a\\_b" in latex(odd)
    assert "50 \\% \\& more" in latex(odd)
    write_tables([odd], tmp_path)
    assert "| x \\| y z |" in (tmp_path / "odd.md").read_text()


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
    table = settings_table(found.groups)
    assert table.header == ["setting", "regularizer.coef", "regularizer.name"]
    assert table.rows == [["js", "1.5", "js"], ["kl", "0.1", "kl"]]
    runs = runs_table(rows_of(found.groups, RATES, {}), RATES)
    assert runs.rows[1] == ["js", "0", "1", "62.0 ± 1.5", "56.0 ± 1.2"]
    assert runs.numbers["path"].tolist() == ["js0", "js1", "kl0"]
    assert runs.numbers["win_rate_greedy_se"].tolist() == [1.5] * 3
