"""`python -m rlhf.alpaca_eval`: what it writes, and AlpacaEval's own figures from that."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlhf import alpaca_eval, evaluate
from rlhf.console import console
from rlhf.storage.files import read_json

INSTRUCTIONS = ["q0", "q1", "q2", "q1", "seen"]
"""One occurs twice; the last was seen by the reward model."""

PREFERENCES: list[list[float | None] | None] = [[2.0, 1.25], [1.0, None], [1.5, 0.0], [1.75, 2.0], None]
"""Against two draws of the reference."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "my run"
    folder.mkdir()
    places = list(enumerate(INSTRUCTIONS))
    outputs = [{"instruction": asked, "output": f"own {n}", "generator": "x", "dataset": "d"} for n, asked in places]
    references = [
        {"instruction": asked, "output": f"reference {n}.{draw}", "generator": "sft", "dataset": "d", "draw": draw}
        for draw in (0, 1)
        for n, asked in places
    ]
    rows = [
        {"instruction": asked, "dataset": "d", "preferences": preferences, "length": 5, "reference_lengths": [9, 9]}
        for asked, preferences in zip(INSTRUCTIONS, PREFERENCES, strict=True)
    ]
    (folder / "outputs.json").write_text(json.dumps(outputs))
    (folder / "references.json").write_text(json.dumps(references))
    (folder / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def written(*arguments: object) -> str:
    with console.capture() as shown:
        alpaca_eval.main([str(each) for each in arguments])
    return shown.get()


def refused(*arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        alpaca_eval.main([str(each) for each in arguments])
    return str(stopped.value)


def test_pairs_stand_in_the_same_order_in_all_files(run: Path, tmp_path: Path) -> None:
    written(run, tmp_path / "out")
    files = [read_json(tmp_path / "out" / f"{name}.json") for name in ("model_outputs", "reference_outputs")]
    annotations = read_json(tmp_path / "out" / "annotations.json")
    pairs = [
        ("q0", "reference 0.0", "own 0", 2.0),
        ("q0", "reference 0.1", "own 0", 1.25),
        ("q1", "reference 1.0", "own 1", 1.0),  # the other draw's judgement could not be read
        ("q2", "reference 2.0", "own 2", 1.5),
        ("q2", "reference 2.1", "own 2", 1.5),  # 0 is an older way to write a tie
        ("q1", "reference 3.0", "own 3", 1.75),
        ("q1", "reference 3.1", "own 3", 2.0),
    ]
    keys = ("instruction", "output_1", "output_2", "preference")
    assert [tuple(row[key] for key in keys) for row in annotations] == pairs
    assert [(row["instruction"], row["output"]) for row in files[0]] == [(pair[0], pair[2]) for pair in pairs]
    assert [(row["instruction"], row["output"]) for row in files[1]] == [(pair[0], pair[1]) for pair in pairs]
    assert {row["generator"] for row in files[0]} == {"my run"}
    assert {row["dataset"] for rows in (*files, annotations) for row in rows} == {"d"}


def test_what_is_left_out_and_what_will_differ_is_told(run: Path, tmp_path: Path) -> None:
    shown = written(run, tmp_path / "out")
    # prompts: 0.625, 0, 0.5, 0.875, of mean 0.5; squared deviations 0.015625, 0.25, 0, 0.140625 sum to 0.40625
    assert "7 judged pairs, 4 prompts; win rate 50.000000 ± 18.399502 %" in shown
    assert "left out: 1 prompts that were not judged" in shown
    assert "left out: 1 judgements that could not be read" in shown
    # pairs: (1 + 0.25 + 0 + 0.5 + 0.5 + 0.75 + 1) / 7
    assert "alpaca_eval takes pairs for independent: 57.142857 ± " in shown
    assert shown.splitlines()[-1].startswith("alpaca_eval --model_outputs=")


def test_our_own_annotations_judge_gives_the_same_win_rate(run: Path, tmp_path: Path) -> None:
    written(run, tmp_path / "out")
    evaluate.main([str(run), "judge=annotations", f"judge.file={tmp_path}/out/annotations.json"])
    figures = read_json(run / "evaluation-annotations-annotations.json")
    assert figures["win_rate"] == pytest.approx(50.0)
    rows = run / "evaluation-annotations-annotations.jsonl"
    assert "win rate 50.000000 ± 18.399502 %" in written(run, tmp_path / "again", "--judgements", rows)


def test_identical_outputs_that_were_no_tie_are_told(run: Path, tmp_path: Path) -> None:
    references = read_json(run / "references.json")
    references[0]["output"] = "own 0"  # preferred by 2.0 in the first row
    (run / "references.json").write_text(json.dumps(references))
    assert "takes 1 pairs of identical outputs for ties" in written(run, tmp_path / "out")


def rewrite(run: Path, place: int, **values: Any) -> None:
    rows = [json.loads(line) for line in (run / "responses.jsonl").read_text().splitlines()]
    rows[place] |= values
    (run / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("place", "values", "told"),
    [
        (0, {"preferences": [2.0]}, "line 1, field 'preferences' is [2.0]"),
        (2, {"preferences": [1.0, 3.0]}, "line 3, field 'preference' is 3.0"),
        (1, {"instruction": "other"}, "line 2, field 'instruction' is \"other\""),
    ],
)
def test_judgements_that_do_not_fit_are_refused(
    run: Path, tmp_path: Path, place: int, values: dict[str, Any], told: str
) -> None:
    rewrite(run, place, **values)
    assert told in refused(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_few_judgements_are_refused(run: Path, tmp_path: Path) -> None:
    for place in (1, 2, 3):
        rewrite(run, place, preferences=None)
    assert "a win rate needs 2 prompts with a judgement at least, and 1 have one" in refused(run, tmp_path / "out")


def test_nothing_is_overwritten(run: Path, tmp_path: Path) -> None:
    written(run, tmp_path / "out")
    assert f"{tmp_path / 'out'} is there already, and not empty" in refused(run, tmp_path / "out")
    assert "outputs.json is no folder" in refused(run, run / "outputs.json")
    assert "there is no file" in refused(tmp_path, tmp_path / "other")


def asked(out: Path) -> dict[str, str]:
    """The leaderboard's row, by the command that was printed."""
    pytest.importorskip("alpaca_eval")
    program = Path(sys.executable).with_name("alpaca_eval")
    environment = os.environ | {"OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [str(program), *alpaca_eval.alpaca_eval_command(out)[1:]],
        cwd=out,
        env=environment,
        check=True,
        capture_output=True,
    )
    [header, row] = (out / "alpaca_eval" / "leaderboard.csv").read_text().splitlines()
    return dict(zip(header.split(","), row.split(","), strict=True))


@pytest.mark.slow
def test_the_package_itself_comes_to_the_same_figures(run: Path, tmp_path: Path) -> None:
    written(run, tmp_path / "out")
    figures = asked(tmp_path / "out")
    assert float(figures["win_rate"]) == pytest.approx(100 * 4 / 7, abs=1e-6)
    # of 7 pairs, squared shares sum to 1 + 1/16 + 0 + 1/4 + 1/4 + 9/16 + 1, from which 7 (4/7)^2 is taken off
    assert float(figures["standard_error"]) == pytest.approx(100 * ((3.125 - 16 / 7) / 6 / 7) ** 0.5, abs=1e-6)
    assert (int(figures["n_total"]), int(figures["n_draws"])) == (7, 2)


@pytest.mark.slow
def test_the_package_takes_preferences_that_are_all_whole(run: Path, tmp_path: Path) -> None:
    for place, preferences in enumerate([[2.0, 2.0], [1.0, 1.0], [1.0, 1.0], [1.0, 2.0]]):
        rewrite(run, place, preferences=preferences)
    written(run, tmp_path / "out")
    figures = asked(tmp_path / "out")
    assert (float(figures["win_rate"]), int(figures["n_total"])) == (pytest.approx(37.5), 8)
