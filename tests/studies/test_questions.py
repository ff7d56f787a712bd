"""What the paper could not ask, of runs whose answer is known."""

from pathlib import Path
from typing import Any

from rlhf.report.load import Run
from studies import questions
from studies.section import Section
from tests.report.conftest import make_run, point

WORLDS, NOISE = (0, 1, 2, 3), (0.0, 0.1, -0.1, 0.0)
SFT = {"response_length_greedy": 20.0, "correct_facts": 2.0, "wrong_facts": 0.0}


def runs_of(form: str, end: float, *, kl: float = 4.0, length: float = 16.0, **settings: Any) -> list[Run]:
    """One run in each world: the win rate straight in the root of the KL, the length in the step."""
    runs = []
    for world in WORLDS:
        points = [point(0, 50.0, 0.0, **SFT)]
        for share in (0.25, 0.5, 0.75, 1.0):
            own = {**SFT, "response_length_greedy": 20 - share * (20 - length), "correct_facts": 2 - 0.4 * share}
            points.append(point(round(40 * share), 50 + share * (end - 50) + NOISE[world], kl * share**2, **own))
        runs.append(make_run(points, data__seed=world, regularizer__name=form, **settings))
    return runs


def told(runs: list[Run]) -> Section:
    return questions.section(runs, Path())


def row(section: Section, start: str) -> list[str]:
    [line] = [line for text in section.paragraphs for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip().split(" ")[0] for cell in line.strip("|").split("|")]


def test_a_form_that_wins_by_being_short() -> None:
    """Both win four points for each token that they lose; js loses twice as many for its KL."""
    section = told([*runs_of("js", 82.0, length=12.0), *runs_of("kl", 66.0, length=16.0, kl=4.0)])
    assert row(section, "js")[1:6] == ["+16.0", "+16.0", "+11.3", "–", "0.0"]  # js begins at 0.9
    assert section.paragraphs[1].endswith("what helps it is brevity.**")
    section = told([*runs_of("js", 82.0, length=12.0), *runs_of("kl", 62.0, length=17.0)])
    assert row(section, "js")[5] == "–"  # kl's answers are never so short
    assert section.paragraphs[1].endswith("what helps it can't be told.**")


def test_a_form_that_wins_at_equal_length_too() -> None:
    section = told([*runs_of("js", 82.0, length=14.0), *runs_of("kl", 74.0, length=14.0), *runs_of("none", 60.0)])
    assert section.paragraphs[1].endswith("what helps it is more than brevity.**")
    assert row(section, "none")[1] == "-14.0"


def test_the_whole_gradient_beside_the_published_placement() -> None:
    whole = runs_of("js", 82.0, regularizer__placement="both")
    section = told([*runs_of("js", 74.0), *whole, *runs_of("none", 60.0)])
    assert row(section, "js")[1:] == ["+8.0", "+4.0", "+5.7", "+4.0"]
    assert "wins more in 1 of 1 forms, and less in 0" in " ".join(section.paragraphs)


def test_lora_and_all_weights_at_equal_kl() -> None:
    section = told([*runs_of("js", 82.0), *runs_of("js", 74.0, lora__r=None)])
    assert row(section, "js")[1:] == ["+4.0", "+5.7", "0.0", "0.0", "0.0"]
    assert "LoRA less full fine-tuning is js +4.0" in section.paragraphs[1]


def test_where_lora_is_put() -> None:
    some = runs_of("js", 70.0, lora__target_modules=["attention"], ppo__lr=0.002)
    section = told([*runs_of("js", 82.0), *some])
    assert row(section, "`[attention]`")[1:6] == ["4", "0.002", "70.0", "-12.0", "4.00"]
    assert "on [attention] -12.0" in section.paragraphs[1]


def test_ensembles() -> None:
    many = runs_of("none", 60.0, reward__members=4, reward__combine="min")
    section = told([*runs_of("none", 55.0, reward__members=1, reward__combine="mean"), *many])
    assert row(section, "none, 4 by min")[2] == "+5.0"


def test_nothing_to_ask() -> None:
    assert told(runs_of("js", 60.0)).paragraphs == []
