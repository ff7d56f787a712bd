"""Which runs share their stages, by the pipeline's own keys; and which stages are known to be built."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rlhf.config.run import Config
from rlhf.config.stages import STAGES, identity, picked
from rlhf.launch.prepared import by_stages, note
from rlhf.stages import pipeline
from rlhf.stages.pipeline import Pipeline
from rlhf.storage.cache import Finished, Stage
from rlhf.storage.reader import read_settings
from rlhf.storage.rundir import RunDirectory
from tests.configure import configure


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(name: str, *overrides: str) -> Path:
    RunDirectory(Path(name)).prepare(configure("experiment=smoke", *overrides))
    return Path(name)


def stages_identity(name: str, *overrides: str) -> str:
    return identity(read_settings(made(name, *overrides)), STAGES)


def keys(monkeypatch: pytest.MonkeyPatch, config: Config) -> set[str]:
    """Of all stages that a run asks for, none of which is built."""

    def pretend(cache: Path, stage: Stage, build: Callable[[Path], dict[str, Any]]) -> Finished:
        return Finished(cache, stage.key, {"factuality": 80.0, "accuracy": 1.0, "accuracy_se": 0.0}, 0.0, False)

    monkeypatch.setattr(pipeline, "finish", pretend)
    built = Pipeline(config)
    built.build()
    return {stage.key for stage in built.finished.values()}


APART = (
    ["seed=1", "data.seed=0"],
    ["lora.r=4"],
    ["regularizer=none"],
    ["value=head"],
    ["ppo.steps=5"],
    ["algorithm=best_of_n"],
    ["evaluation.every=1"],
    ["checkpoint_seconds=0"],
    ["distributed.processes=2"],
)
"""Settings that no stage reads."""


@pytest.mark.parametrize("overrides", APART, ids=",".join)
def test_runs_that_differ_in_what_no_stage_reads_share_them(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stages_identity("a") == stages_identity("b", *overrides)
    ours = configure("experiment=smoke"), configure("experiment=smoke", *overrides)
    assert keys(monkeypatch, ours[0]) == keys(monkeypatch, ours[1])


@pytest.mark.parametrize(
    "override",
    [
        *("seed=1", "reward.epochs=2", "model.layers=2", "rollout.temperature=0.5"),
        *("evaluation.prompts=8", "evaluation.control_temperatures=[0.9]"),
    ],
)
def test_runs_that_differ_in_what_a_stage_reads_do_not(override: str) -> None:
    assert stages_identity("a") != stages_identity("b", override)


def test_a_configuration_and_its_file_have_the_same_identity() -> None:
    assert stages_identity("a", "lora.r=4") == identity(asdict(configure("experiment=smoke", "lora.r=4")), STAGES)


def test_nulls_change_no_identity() -> None:
    reads = {"model": {"path": None, "layers": 2}, "judge": {"name": "llm", "more": {"cache": None}}}
    assert picked(reads, ["model.path", "model.layers", "judge"]) == {
        "model": {"layers": 2},
        "judge": {"name": "llm", "more": {}},
    }


def test_runs_are_of_a_world_until_it_is_built() -> None:
    runs = [made(f"{seed}{form}", f"seed={seed}", f"regularizer={form}") for seed in (0, 1) for form in ("kl", "js")]
    worlds = [runs[:2], runs[2:]]
    assert grouped(runs) == ([], worlds)
    stage = Path("outputs/cache/sft-1")
    stage.mkdir(parents=True)
    note(runs[0], [stage])
    assert grouped(runs) == ([], worlds)  # the stage lacks what says that it is finished
    (stage / "stage.json").touch()
    assert grouped(runs) == (runs[:2], worlds[1:])
    assert grouped(runs, Path("elsewhere")) == ([], worlds)


def grouped(runs: list[Path], directory: Path = Path()) -> tuple[list[Path], list[list[Path]]]:
    built, others = by_stages(runs, directory)
    return built, list(others.values())
