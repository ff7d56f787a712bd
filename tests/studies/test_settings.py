from pathlib import Path
from typing import Any

import pytest

from studies.settings import GRIDS, belongs, default_of, main
from tests.configure import configure
from tests.report.conftest import point, write_run

JS = configure("regularizer=js")
DEFAULTS: dict[str, Any] = {
    **{"evaluation__split": "tune", "ppo__lr": JS.ppo.lr, "ppo__lr_full": JS.ppo.lr_full, "ppo__steps": JS.ppo.steps},
    **{"rollout__batch_size": JS.rollout.batch_size, "regularizer__coef": JS.regularizer.coef},
}


def save(folder: Path, world: int, win_rate: float, objective: float, **changed: Any) -> None:
    """A run whose objective ends that far above the SFT model's, which is 0.1."""
    points = [point(0, 50.0, 0.0, objective=0.1), point(40, win_rate, 2.0, objective=0.1 + objective)]
    write_run(folder / f"{len(list(folder.iterdir()))}", points, **(DEFAULTS | {"data__seed": world} | changed))


@pytest.fixture
def page(tmp_path: Path) -> str:
    """Two worlds, at the default coefficient and at thrice as much, and a learning rate that is not the default."""
    runs = tmp_path / "runs"
    runs.mkdir()
    for world, win_rate in ((25, 80.0), (24, 70.0)):
        save(runs, world, win_rate, 0.25)
        save(runs, world, win_rate - 6, 0.3 if world == 24 else -0.2, regularizer__strength=3.0)
        save(runs, world, win_rate + 2, 0.5, ppo__lr=0.5)
        save(runs, world, 99.0, 0.5, evaluation__split="eval")
    main([str(runs), "--out", str(tmp_path / "settings.md")])
    return (tmp_path / "settings.md").read_text()


def lines(page: str, title: str) -> list[list[str]]:
    """A grid's rows, cell by cell."""
    body = page.split(f"## {title}\n\n")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


def test_a_row_is_the_mean_over_worlds_and_marks_the_default(page: str) -> None:
    coef = JS.regularizer.coef
    # greedy (70 + 80) / 2, worlds in order; sampled wins half as much, 50 + 25 / 2; the objective less the SFT model's
    usual = ["`js`", "reward", f"**{coef:.3g}**", "75.0 (70, 80)", "62.5", "+0.25", "2.00", "19.0"]
    # at thrice the coefficient the objective falls in one of the worlds: (0.3 - 0.2) / 2
    heavy = ["`js`", "reward", f"{3 * coef:.3g}", "69.0 (64, 74)", "59.5", "+0.05 *", "2.00", "19.0"]
    assert lines(page, "Coefficients") == [usual, heavy]


def test_each_grid_has_the_rows_that_differ_in_what_it_varies_alone(page: str) -> None:
    rates = [row[2] for row in lines(page, "Learning rates")]
    assert rates == [f"**{JS.ppo.lr:g}**", "0.5"]
    assert "Steps and responses a step" not in page  # the default alone is no grid


def test_runs_on_the_evaluation_people_have_no_part_in_choosing(page: str) -> None:
    assert "99" not in page
    assert "worlds 24, 25, on which" in page


def test_without_tuning_runs_there_is_nothing_to_write(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="make settings"):
        main([str(tmp_path), "--out", str(tmp_path / "settings.md")])
    assert not (tmp_path / "settings.md").exists()


def test_a_run_with_two_differences_stands_in_no_grid_of_one() -> None:
    default = default_of("js", lora=True)
    both = default._replace(lr=0.5, steps=7)
    assert [belongs(both, grid) for grid in GRIDS] == [False, False, False]
    assert [belongs(default, grid) for grid in GRIDS] == [True, True, True]
