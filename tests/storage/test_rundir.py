"""A run's directory: opened for one configuration, done once, and honest about how it ended."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rlhf.config.run import Config
from rlhf.errors import CheckError, ConfigError, Preempted, RankLostError, UserError
from rlhf.storage.files import read_json
from rlhf.storage.rundir import HEADER, VERSION, RunDirectory
from tests.configure import configure


@pytest.fixture
def opened(directory: RunDirectory, config: Config) -> RunDirectory:
    directory.open(config)
    return directory


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_a_new_directory(directory: RunDirectory, config: Config) -> None:
    assert directory.state is None
    assert directory.open(config) is False
    status = read_json(directory.path / "status.json")
    assert abs(status.pop("time") - time.time()) < 60
    assert status == {"state": "running", "step": None, "reason": None}
    assert sorted(contents(directory.path)) == [".holder", ".lock", "config.yaml", "status.json"]


def test_the_saved_configuration_is_the_resolved_one(opened: RunDirectory, config: Config) -> None:
    path = opened.path / "config.yaml"
    assert OmegaConf.load(path) == OmegaConf.structured(config)
    text = path.read_text()
    assert "${" not in text
    assert text == f"# rlhf run, version {VERSION}\n" + OmegaConf.to_yaml(OmegaConf.create(asdict(config)))


def test_a_penalty_of_ones_own_is_saved_with_its_keywords(directory: RunDirectory) -> None:
    own = ("regularizer=custom", "regularizer.function._target_=torch.sub")
    directory.open(configure("experiment=smoke", *own, "+regularizer.function.alpha=2"))
    saved = OmegaConf.load(directory.path / "config.yaml")
    assert saved.regularizer.function == {"_target_": "torch.sub", "alpha": 2}
    directory.prepare(configure("experiment=smoke", *own, "+regularizer.function.alpha=2", "model.threads=2"))
    with pytest.raises(ConfigError, match="another configuration"):
        directory.open(configure("experiment=smoke", *own, "+regularizer.function.alpha=3"))


@pytest.mark.parametrize("state", ["failed", "preempted", "cancelled", "pending", "running"])
def test_a_run_that_ended_early_is_taken_up_again_and_says_how_far_it_was(
    directory: RunDirectory, config: Config, state: str
) -> None:
    directory.open(config)
    directory.append_history({"step": 0})
    directory.set_status(state, step=7, reason="out of memory")
    directory._release()
    again = RunDirectory(directory.path)
    assert again.open(config) is False
    assert (again.state, again.status["step"], again.status["reason"]) == ("running", 7, None)
    assert (directory.path / "history.jsonl").exists()  # training takes back what its checkpoint does not know of


def test_a_directory_in_use_is_refused(directory: RunDirectory, config: Config) -> None:
    directory.open(config)
    before = contents(directory.path)
    with pytest.raises(ConfigError, match="another process is running there"):
        RunDirectory(directory.path).open(config)
    assert contents(directory.path).keys() == before.keys()
    with directory.outcome_recorded():
        pass
    assert RunDirectory(directory.path).open(config) is False


def test_the_configuration_is_read_back_as_it_was(directory: RunDirectory) -> None:
    own = ("regularizer=custom", "regularizer.function._target_=torch.sub", "+regularizer.function.alpha=2")
    for number, overrides in enumerate([(), own, ("data=alpaca_farm", "data.root=/data"), ("lora=full", "seed=3")]):
        config = configure(*overrides)
        one = RunDirectory(directory.path / str(number))
        one.prepare(config)
        assert one.config() == config


@pytest.mark.parametrize("text", ["", "seed: 1", "- 1", "seed: {", "nothing: 1"])
def test_a_directory_without_a_run_is_said_to_be_none(directory: RunDirectory, text: str) -> None:
    directory.path.mkdir(parents=True)
    with pytest.raises(ConfigError, match="holds no run that can be started"):
        directory.config()
    (directory.path / "config.yaml").write_text(HEADER + text)
    with pytest.raises(ConfigError, match="holds no run that can be started"):
        directory.config()


@pytest.mark.parametrize("header", ["", "# rlhf run, version 1\n", f"# rlhf run, version {VERSION}1\n"])
@pytest.mark.parametrize("state", ["failed", "done"])
def test_a_run_of_another_version_is_refused_and_left_as_it_was(
    directory: RunDirectory, config: Config, state: str, header: str
) -> None:
    """Older ones have no header: whatever their configuration, their figures mean something else."""
    directory.open(config)
    directory.set_status(state)
    path = directory.path / "config.yaml"
    path.write_text(path.read_text().replace(HEADER, header))
    before = contents(directory.path)
    for use in (lambda: directory.open(config), directory.config, lambda: RunDirectory(directory.path).prepare(config)):
        with pytest.raises(ConfigError) as refused:
            use()
        assert str(directory.path) in str(refused.value)
        assert "hydra.run.dir" in str(refused.value)
    assert contents(directory.path) == before


def test_a_bystander_writes_nothing_but_that_it_has_failed(directory: RunDirectory, config: Config) -> None:
    directory.open(config)
    directory.append_history({"step": 0})
    before = contents(directory.path)
    bystander = RunDirectory(directory.path, writes=False)
    bystander.set_status("done", step=3)
    bystander.append_history({"step": 1})
    bystander.restore_history("")
    bystander.write_json("metrics.json", {})
    bystander.write_rows("responses.jsonl", [{}])
    bystander.remove_checkpoints()
    assert contents(directory.path) == before
    with pytest.raises(MemoryError), bystander.outcome_recorded():
        raise MemoryError("rank 1 has none left")
    assert (directory.status["state"], directory.status["reason"]) == ("failed", "rank 1 has none left")


def test_the_first_failure_stands(opened: RunDirectory) -> None:
    RunDirectory(opened.path).set_status("failed", reason="the cause")
    with pytest.raises(RuntimeError), opened.outcome_recorded():
        raise RuntimeError("what it led to")
    assert opened.status["reason"] == "the cause"


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


def test_history_is_read_back_row_by_row_and_restored_to_what_a_checkpoint_holds(opened: RunDirectory) -> None:
    rows = [{"step": 0, "win_rate": 50.0, "objective": None}, {"step": 1, "rollout/kl": 0.25}]
    assert opened.history_text() == ""
    opened.append_history(rows[0])
    text = opened.history_text()
    opened.append_history(rows[1])
    assert opened.read_history() == rows
    assert opened.history.read_text().splitlines() == [json.dumps(row) for row in rows]
    with pytest.raises(ValueError, match="JSON compliant"):
        opened.append_history({"step": 2, "rollout/kl": float("nan")})
    assert opened.read_history() == rows
    opened.restore_history(text)
    assert opened.read_history() == rows[:1]


def test_metrics_are_read_as_written(opened: RunDirectory) -> None:
    opened.write_json("metrics.json", {"win_rate": 51.5, "factuality": None})
    assert opened.read_metrics() == {"win_rate": 51.5, "factuality": None}


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (CheckError("no module [/q_proj] in the base"), "failed", "no module [/q_proj] in the base"),
        (MemoryError(), "failed", "MemoryError"),
        (KeyboardInterrupt(), "failed", "KeyboardInterrupt"),
        (SystemExit("stopped"), "failed", "stopped"),
        (Preempted("SIGTERM"), "preempted", "SIGTERM"),
        (RankLostError("another rank has ended"), "running", None),  # the other one says why, or whoever follows both
    ],
)
def test_the_end_is_recorded_with_the_step_and_passed_on(
    opened: RunDirectory, error: BaseException, state: str, reason: str | None
) -> None:
    opened.set_status("running", step=7)
    with pytest.raises(type(error)) as passed_on, opened.outcome_recorded():
        raise error
    assert passed_on.value is error
    status = opened.status
    assert (status["state"], status["step"], status["reason"]) == (state, 7, reason)


def test_steps_are_told_now_and_then_and_the_end_knows_the_last(opened: RunDirectory) -> None:
    told = []
    for step, at_once in ((1, False), (2, False), (3, True), (4, False)):
        opened.set_step(step, at_once)
        told.append(opened.status["step"])
    assert told == [1, 1, 3, 3]
    with pytest.raises(Preempted), opened.outcome_recorded():
        raise Preempted("SIGTERM")
    assert (opened.state, opened.status["step"]) == ("preempted", 4)


def test_a_run_that_a_fellow_has_failed_stays_failed_when_it_is_stopped(opened: RunDirectory) -> None:
    opened.set_status("failed", 7, "rank 1 gives up")  # by the fellow; SLURM then ends the ranks that are left
    with pytest.raises(UserError, match=r"^rank 1 gives up$"), opened.outcome_recorded():
        raise Preempted("SIGTERM")
    assert (opened.status["state"], opened.status["reason"]) == ("failed", "rank 1 gives up")


def test_without_a_failure_nothing_is_recorded(opened: RunDirectory) -> None:
    with opened.outcome_recorded():
        opened.set_status("done", step=3)
    assert opened.state == "done"
