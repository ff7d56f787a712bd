"""A run's directory: opened for one configuration, done once, and honest about how it ended."""

import json
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rlhf.config.run import Config
from rlhf.errors import CheckError, ConfigError
from rlhf.infra.files import read_json, write_json
from rlhf.infra.rundir import RunDirectory
from tests.configure import configure


@pytest.fixture(scope="module")
def config() -> Config:
    return configure("experiment=smoke")


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "runs" / "one")


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_a_new_directory(directory: RunDirectory, config: Config) -> None:
    assert directory.state is None
    assert directory.open(config) is False
    status = read_json(directory.path / "status.json")
    assert abs(status.pop("time") - time.time()) < 60
    assert status == {"state": "running", "step": None, "reason": None}
    assert sorted(contents(directory.path)) == [".lock", "config.yaml", "status.json"]


def test_the_saved_configuration_is_the_resolved_one(directory: RunDirectory, config: Config) -> None:
    directory.open(config)
    saved = OmegaConf.load(directory.path / "config.yaml")
    assert saved == OmegaConf.structured(config)
    assert "${" not in (directory.path / "config.yaml").read_text()


def test_a_penalty_of_ones_own_is_saved_with_its_keywords(directory: RunDirectory) -> None:
    own = ("regularizer=custom", "regularizer.function._target_=torch.sub")
    directory.open(configure("experiment=smoke", *own, "+regularizer.function.alpha=2"))
    saved = OmegaConf.load(directory.path / "config.yaml")
    assert saved.regularizer.function == {"_target_": "torch.sub", "alpha": 2}
    with pytest.raises(ConfigError, match="another configuration"):
        directory.open(configure("experiment=smoke", *own, "+regularizer.function.alpha=3"))


def test_an_unfinished_run_starts_over(directory: RunDirectory, config: Config) -> None:
    directory.open(config)
    directory.append_history({"step": 0})
    directory.set_status("running", step=7)
    assert directory.open(config) is False
    assert not (directory.path / "history.jsonl").exists()
    assert read_json(directory.path / "status.json")["step"] is None


def test_a_failed_run_starts_over(directory: RunDirectory, config: Config) -> None:
    directory.open(config)
    directory.set_status("failed", reason="out of memory")
    assert directory.open(config) is False
    assert directory.state == "running"


def test_a_done_run_is_left_alone(directory: RunDirectory, config: Config) -> None:
    directory.open(config)
    directory.append_history({"step": 0})
    directory.set_status("done", step=3)
    before = contents(directory.path)
    assert directory.open(config) is True
    assert contents(directory.path) == before


@pytest.mark.parametrize("state", ["running", "failed", "done"])
def test_another_configuration_is_refused(directory: RunDirectory, config: Config, state: str) -> None:
    directory.open(config)
    directory.append_history({"step": 0})
    directory.set_status(state)
    before = contents(directory.path)
    with pytest.raises(ConfigError) as refused:
        directory.open(configure("experiment=smoke", "lora.r=4"))
    message = str(refused.value)
    assert str(directory.path) in message
    assert "hydra.run.dir" in message
    changes = [line for line in message.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert changes == ["-  r: 8", "+  r: 4"]
    assert contents(directory.path) == before


def test_history_is_a_row_per_line(directory: RunDirectory, config: Config) -> None:
    directory.open(config)
    directory.append_history({"step": 0, "win_rate": 50.0})
    directory.append_history({"step": 1, "rollout/kl": 0.0})
    lines = (directory.path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 0, "win_rate": 50.0}, {"step": 1, "rollout/kl": 0.0}]


def test_history_holds_no_nan(directory: RunDirectory, config: Config) -> None:
    directory.open(config)
    directory.append_history({"step": 0})
    with pytest.raises(ValueError, match="JSON compliant"):
        directory.append_history({"step": 1, "rollout/kl": float("nan")})
    assert (directory.path / "history.jsonl").read_text() == '{"step": 0}\n'


def test_metrics_are_read_as_written(directory: RunDirectory, config: Config) -> None:
    directory.open(config)
    write_json(directory.path / "metrics.json", {"win_rate": 51.5, "factuality": None})
    assert directory.read_metrics() == {"win_rate": 51.5, "factuality": None}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CheckError("no module [/q_proj] in the base"), "no module [/q_proj] in the base"),
        (MemoryError(), "MemoryError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (SystemExit("stopped"), "stopped"),
    ],
)
def test_failures_are_recorded_with_the_step_and_passed_on(
    directory: RunDirectory, config: Config, error: BaseException, reason: str
) -> None:
    directory.open(config)
    directory.set_status("running", step=7)
    with pytest.raises(type(error)) as passed_on, directory.outcome_recorded():
        raise error
    assert passed_on.value is error
    status = read_json(directory.path / "status.json")
    assert (status["state"], status["step"], status["reason"]) == ("failed", 7, reason)


def test_without_a_failure_nothing_is_recorded(directory: RunDirectory, config: Config) -> None:
    directory.open(config)
    with directory.outcome_recorded():
        directory.set_status("done", step=3)
    assert directory.state == "done"
