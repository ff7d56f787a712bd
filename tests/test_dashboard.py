"""What wandb shows of a whole sweep, read back offline; the workspace as wandb's own model."""

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from rlhf.config.tracker import WandbConfig
from rlhf.dashboard import SweepDashboard, default_settings, main
from rlhf.tracking.tracker import numbers, stable_id
from rlhf.tracking.workspace import CURVES, FINAL, PICTURES, TRADES, build
from tests.configure import composed
from tests.made_up import made_up
from tests.report.conftest import point, write_run
from tests.tracking.test_wandb import _fresh, files, summary

__all__ = ["_fresh"]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for form, rate in (("js", 60.0), ("kl", 55.0), ("none", 40.0)):
        for seed in (0, 1):
            points = [point(0, 50.0, 0.0), point(40, rate + seed, 6.0)]
            write_run(tmp_path / "regs" / f"regularizer={form},seed={seed}", points, regularizer__name=form, seed=seed)
    return tmp_path / "regs"


def sweep_config(sweep: Path, *overrides: str) -> DictConfig:
    config = composed(*overrides)
    return OmegaConf.create({"tracker": config.tracker, "hydra": {"sweep": {"dir": str(sweep)}}})


def test_the_run_that_compares_a_sweeps_others(sweep: Path) -> None:
    main(["sweep", str(sweep)])
    [file] = files(sweep)
    found = summary(file)
    assert (found["name"], found["run_id"], found["project"]) == ("regs", stable_id(sweep), "rlhf")
    assert found["config"]["sweep"] == "regs"
    assert found["config"]["settings"]["lora.r"] == 8
    assert found["summary"]["best"] == "js"
    assert found["summary"]["runs"] == 6
    assert found["summary"]["headline"] == "win_rate_greedy"
    assert {"tables/runs", *(f"figures/{name}" for name in PICTURES)} <= found["summary"].keys()
    [table] = file.parent.rglob("ablation*.table.json")
    shown = json.loads(table.read_text())
    rows = [dict(zip(shown["columns"], row, strict=True)) for row in shown["data"]]
    assert [(row["setting"], row["win_rate_greedy"], row["runs"]) for row in rows[:3]] == [
        ("js", 60.5, 2),
        ("kl", 55.5, 2),
        ("none", 40.5, 2),
    ]
    assert all(row["win_rate_greedy_se"] > 0 for row in rows[:3])
    assert [(row["setting"], row["win_rate"], row["runs"]) for row in rows[3:]] == [
        ("SFT", 50.0, None),
        ("SFT, T=0.7", 54.0, None),
        ("SFT, T=0.5", 56.0, None),
    ]
    assert len(list(file.parent.rglob("*.png"))) >= 3


def test_a_sweep_that_has_ended_tells_so_itself(sweep: Path) -> None:
    SweepDashboard().on_multirun_end(sweep_config(sweep))
    assert summary(files(sweep)[0])["run_id"] == stable_id(sweep)


def test_a_sweep_whose_runs_go_on_says_what_to_do_then(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up(sweep / "seed=9", "running", 3, alive=True)
    SweepDashboard().on_multirun_end(sweep_config(sweep))
    assert f"once its runs are done: python -m rlhf.dashboard sweep {sweep}" in capsys.readouterr().out
    assert files(sweep) == []


@pytest.mark.parametrize("tracker", ["none", "tensorboard"])
def test_a_sweep_that_wandb_does_not_follow_tells_it_nothing(sweep: Path, tracker: str) -> None:
    SweepDashboard().on_multirun_end(sweep_config(sweep, f"tracker={tracker}"))
    assert files(sweep) == []


def test_directories_without_finished_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no finished run"):
        main(["sweep", str(tmp_path)])
    with pytest.raises(SystemExit, match="no such directory"):
        main(["sweep", str(tmp_path / "nowhere")])


def test_the_workspace_is_built_and_described_without_a_network(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb_workspaces")
    main(["workspace", str(sweep), "--entity", "someone"])
    told = capsys.readouterr().out
    assert "regs: ablation (someone/rlhf)" in told
    assert "over-optimisation" in told
    assert "--save sends it to wandb" in told
    with pytest.raises(SystemExit, match="--entity"):
        main(["workspace", str(sweep)])


def test_the_workspaces_panels_are_of_what_runs_log() -> None:
    pytest.importorskip("wandb_workspaces")
    view = json.loads(build("regs", "rlhf", "someone")._to_model().model_dump_json(by_alias=True))
    text = json.dumps(view)
    for name in (*numbers(dict.fromkeys(CURVES, 1.0)), *FINAL, *(name for pair in TRADES for name in pair)):
        assert f'"{name}"' in text or f":{name}" in text
    assert text.count("regularizer.value.name") >= len(CURVES) + len(FINAL)
    assert '"stderr"' in text


def test_the_default_settings_are_those_of_the_file() -> None:
    assert default_settings() == OmegaConf.to_object(composed("tracker=wandb_offline").tracker)
    assert isinstance(default_settings(), WandbConfig)
