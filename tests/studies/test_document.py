"""The report as a whole: what it says of outputs made for it, and of outputs that lack something."""

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.report.load import Outputs, Run, load_outputs
from studies import (
    algorithms,
    behaviours,
    divergence,
    factuality,
    lora,
    overoptimisation,
    penalties,
    questions,
    ran,
    rank,
    tuning,
)
from studies.document import SECTIONS, document
from studies.section import AGREES, CONTRADICTS, OPEN, Section
from tests.report.conftest import make_run, point

FIGURES = (
    *("win_rate_by_step.png", "win_rate_by_kl.png", "factuality_by_kl.png"),
    *("lora_vs_full.png", "rank.png", "reward_and_win_rate.png"),
)


@pytest.fixture(scope="module")
def runs(study: Path) -> list[Run]:
    return load_outputs([study]).runs


@pytest.fixture(scope="module")
def written(study: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    figures = tmp_path_factory.mktemp("docs") / "figures"
    return document(load_outputs([study]), figures), figures


def row_of(text: str, start: str) -> list[str]:
    """The cells of the first table row that begins so."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_section_is_there(written: tuple[str, Path]) -> None:
    text, _ = written
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    numbered = [title.split(". ", 1)[1] for title in titles if title[3].isdigit()]
    modules = (
        penalties,
        divergence,
        factuality,
        lora,
        tuning,
        rank,
        algorithms,
        overoptimisation,
        behaviours,
        questions,
    )
    assert numbered == [*(module.TITLE for module in modules), "What the embedded world can't show"]
    assert titles[:3] == ["## What was run", "## How to read it", "## The paper's published values"]
    assert "No finished runs" not in text
    assert "None" not in text
    assert "nan" not in text


def test_the_figures_are_images_of_a_readable_size(written: tuple[str, Path]) -> None:
    text, figures = written
    assert sorted(path.name for path in figures.iterdir()) == sorted(FIGURES)
    for name in FIGURES:
        assert f"](figures/{name})" in text
        content = (figures / name).read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", content[16:24])
        assert width == 1200
        assert 200 < height < 2000


def test_every_claim_is_in_the_summary_with_its_verdict(written: tuple[str, Path]) -> None:
    text, _ = written
    bullets = [line for line in text.splitlines() if line.startswith("- Paper: ")]
    assert len(bullets) == 12
    for bullet in bullets:
        paper, rest = bullet.removeprefix("- Paper: ").split(" Here: ")
        assert row_of(text, paper)[1] == rest.split(" → ")[1]
        assert rest.split(" → ")[1].split("**")[1] in (AGREES, CONTRADICTS, OPEN)


def test_every_question_is_in_the_summary_with_its_answer(written: tuple[str, Path]) -> None:
    summary, rest = written[0].split("## What was run")
    asked = [line for line in summary.splitlines() if line.startswith("- *")]
    assert {"Does LoRA's rank matter?", "How much higher is LoRA's rate?"} <= {line.split("*")[1] for line in asked}
    for line in asked:
        answer, section = line.split("* ", 1)[1].rsplit(" (section ", 1)
        assert f"**{answer}**" in rest.split(f"## {section.rstrip(')')}. ")[1].split("\n## ")[0]


def test_the_runs_are_counted(written: tuple[str, Path], runs: list[Run]) -> None:
    text, _ = written
    assert f"{len(runs)} finished runs in 4 worlds (`data.seed`) with 2 seeds (`seed`)" in text
    made_by = row_of(text, "`rlhf run -cn study_rates`")
    assert made_by[1:] == ["8", "2: 0 to 1", "1", "40", "0.1"]  # 8 runs of 36 s


def test_which_worlds_were_run_is_told_in_short() -> None:
    assert ran.spans({60, 61, 62, 64, 67, 68}) == "6: 60 to 62, 64, 67 to 68"


def test_the_same_outputs_make_the_same_report(
    written: tuple[str, Path], runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (penalties, divergence, lora, rank, overoptimisation):  # test_figures.py compares images
        monkeypatch.setattr(module, "draw", lambda *arguments, **options: None)
    assert document(Outputs(runs, []), tmp_path) == written[0]


def test_without_runs_each_section_says_what_makes_them(tmp_path: Path) -> None:
    text = document(Outputs([], [("outputs/a", "failed at step 3: no memory")]), tmp_path)
    assert "No finished runs were found." in text
    assert "No claim can be judged yet" in text
    assert "- `outputs/a`: failed at step 3: no memory" in text
    for sweep in ("study_forms", "study_lora", "study_rates", "study_rest"):
        assert f"`rlhf run -cn {sweep}` makes them." in text
    assert behaviours.TITLE not in text
    assert list(tmp_path.iterdir()) == []


def test_many_problems_are_cut(tmp_path: Path) -> None:
    text = document(Outputs([], [(f"run {place}", "x" * 500) for place in range(25)]), tmp_path)
    assert "Left out, being unfinished or unreadable (25):" in text
    assert "- and 5 more" in text
    assert "x" * 200 not in text


@pytest.mark.parametrize("write", SECTIONS)
def test_a_single_run_breaks_no_section(write, tmp_path: Path) -> None:
    for run in (make_run([point(0, 50.0, 0.0)]), make_run([point(0, 50.0, None, factuality=None)], lora__r=None)):
        assert isinstance(write([run], tmp_path), Section)


def test_tuning_runs_are_used_for_tuning_only(runs: list[Run], tmp_path: Path) -> None:
    tuned = [run for run in runs if run.config["evaluation.split"] == "tune"]
    text = document(Outputs(tuned, []), tmp_path)
    assert "| rank 8 | js | ppo | 2 x 1 |" in text
    assert text.count("No finished runs for this yet.") == 7
    assert (
        "No finished runs"
        in document(Outputs([run for run in runs if run not in tuned][:9], []), tmp_path).split("## 5.")[1]
    )


def test_repeated_runs_are_used_once(runs: list[Run], tmp_path: Path) -> None:
    some = [run for run in runs if "study_rates" in run.path]
    again = [replace(run, path=f"{run.path}|again") for run in some[:2]]
    text = document(Outputs([*some, *again], []), tmp_path)
    assert "Left out, for they repeat another's setting, world and seed (2):" in text
    assert f"{some[0].path}\\|again repeats {some[0].path}" in text
    assert "8 runs (worlds x seeds: 2 x 1)" in text
