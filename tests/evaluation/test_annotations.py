"""Judgements read back from files in AlpacaEval's format."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.config.evaluation import AnnotationsJudgeConfig
from rlhf.errors import DataError
from rlhf.evaluation.annotations import AnnotationsJudge
from rlhf.evaluation.judges import Pair, Resources

PAIR = Pair("q", "own", "base")


def judge(tmp_path: Path, *rows: dict[str, Any]) -> AnnotationsJudge:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(rows))
    return AnnotationsJudge(AnnotationsJudgeConfig(file=str(path)), Resources())


def row(preference: Any, **changed: str) -> dict[str, Any]:
    return {"instruction": "q", "output_1": "base", "output_2": "own", "preference": preference} | changed


@pytest.mark.parametrize(("recorded", "preference"), [(1, 1.0), (2.0, 2.0), (1.25, 1.25), (0, 1.5), (None, None)])
def test_preferences_are_looked_up(tmp_path: Path, recorded: float | None, preference: float | None) -> None:
    (verdict,) = judge(tmp_path, row(recorded)).compare([PAIR])
    assert verdict.preference == preference


def test_a_row_about_other_outputs_says_nothing(tmp_path: Path) -> None:
    found = judge(tmp_path, row(2, output_2="other"), row(1), row(1.5, instruction="r", output_1="other"))
    verdicts = found.compare([PAIR, Pair("q", "new", "base"), Pair("r", "own", "base"), Pair("s", "", "")])
    assert [verdict.preference for verdict in verdicts] == [1.0, None, None, None]
    other, lacking = "the annotations are of other outputs", "the annotations lack this instruction"
    assert [verdict.readings[0].problem for verdict in verdicts] == [None, other, other, lacking]


def test_rows_without_outputs_are_about_any(tmp_path: Path) -> None:
    (verdict,) = judge(tmp_path, {"instruction": "q", "preference": 2}).compare([PAIR])
    assert verdict.preference == 2.0


@pytest.mark.parametrize("given", [*({"preference": value} for value in (3, 0.5, "2", True, -1)), {"other": 2}])
def test_other_preferences_or_none_are_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"annotations\.json, index 0, field 'preference'"):
        judge(tmp_path, {"instruction": "q", **given})


def test_of_several_annotations_of_a_pair_the_mean_counts_without_nulls(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for rows, expected in (
        ((1, 2), 1.5),
        ((2, 1), 1.5),
        ((None, 2), 2.0),
        ((1, None, 1, 2), 4 / 3),
        ((None, None), None),
    ):
        (verdict,) = judge(tmp_path, *map(row, rows)).compare([PAIR])
        assert verdict.preference == pytest.approx(expected)
    assert caplog.messages == ["judge.file: 1 of 1 pairs have several annotations: their means count"] * 3
