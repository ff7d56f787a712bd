"""What wandb has of a run: read back from its offline files, and from a server on this machine."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf.compose import CONF, SWEEPS
from rlhf.config.run import Config
from rlhf.config.tracker import WandbConfig
from rlhf.storage.files import write_json
from rlhf.tracking.choose import start
from rlhf.tracking.tracker import Outcome, Tracker, stable_id
from rlhf.tracking.wandb import is_online, overrides_of, place_of, sweep_of
from tests.configure import configure
from tests.fake_wandb import KEY, FakeWandb, fake_wandb

wandb = pytest.importorskip("wandb")

RESPONSE = {
    **{"step": 0, "instruction": "who ?", "dataset": "biography", "reference": "a b", "response": "c", "score": 0.5},
    **{"preferences": [2.0, 1.0], "correct": 1, "wrong": 0, "length": 3, "reference_lengths": [2], "facts": []},
}


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """wandb remembers its server and its service for as long as the process lives."""
    caplog.set_level(logging.INFO, "rlhf")
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home"))
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeWandb]:
    with fake_wandb() as fake:
        monkeypatch.setenv("WANDB_BASE_URL", fake.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield fake


def test_the_environment_names_the_place_where_the_settings_do_not_and_may_forbid_to_send(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, named = WandbConfig(), WandbConfig(project="p", entity="e")
    assert place_of(plain) == {"project": WandbConfig.project, "entity": None}
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_ENTITY", "us")
    assert place_of(plain) == {"project": "mine", "entity": "us"}
    assert place_of(named) == {"project": "p", "entity": "e"}
    assert is_online(replace(plain, name="wandb"))
    assert not is_online(replace(plain, name="wandb_offline"))
    for mode in ("offline", "disabled"):
        monkeypatch.setenv("WANDB_MODE", mode)
        assert not is_online(replace(plain, name="wandb"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's directory in a sweep."""
    path = tmp_path / "outputs" / "regs" / "lora.r=4,regularizer=js"
    path.mkdir(parents=True)
    (path.parent / "multirun.yaml").touch()
    overrides = ["regularizer=js", "lora.r=4", "tracker=wandb", "+tracker.project=p", "a=" + 70 * "b"]
    write_json(path / "overrides.json", {"config": "config", "overrides": overrides})
    return path


def configured(*overrides: str) -> Config:
    return configure("lora.r=4", "regularizer=js", *overrides)


def log(tracker: Tracker, steps: range, outcome: Outcome | None = None) -> None:
    for step in steps:
        tracker.log({"step": step, "rollout/kl": step / 10, "samples_per_second": 9.0})
    if outcome is not None:
        tracker.finish(outcome)


def files(run: Path, kind: str = "*run") -> list[Path]:
    return sorted((run / "wandb").glob(f"{kind}-*/*.wandb"))


def until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def inspected(file: Path, *options: str) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(file)]
    return subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=True, timeout=60).stdout


def summary(file: Path) -> dict[str, Any]:
    return json.loads(inspected(file, "--summary"))


def steps(file: Path) -> list[int]:
    rows = [json.loads(line) for line in inspected(file).splitlines()]
    return [row["history"]["item"]["step"] for row in rows if row["type"] == "history"]


def test_a_runs_sweep_and_overrides(run: Path) -> None:
    assert (sweep_of(run), sweep_of(run.parent)) == ("regs", None)
    assert sorted(overrides_of(run)) == ["a=" + 70 * "b", "lora.r=4", "regularizer=js"]
    assert overrides_of(run.parent) == []


def test_an_offline_run_read_back(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (run / "policy").mkdir()
    (run / "policy" / "adapter_config.json").write_text("{}")
    tracker = start(configured("tracker=wandb_offline", "tracker.artifact=true", "tracker.responses=1"), run)
    tracker.responses(0, [RESPONSE, RESPONSE])
    tracker.log({"step": 0, "win_rate": 50.0, "win_rate_se": 1.5, "judge_problem": None})
    metrics = {"win_rate": 61.5, "win_rate_se": 1.25, "baseline": {"win_rate": 50.0, "factuality": None}}
    metrics |= {"controls": {"0.7": {"win_rate": 54.0}, "0.5": {"win_rate": 56.0}}}
    log(tracker, range(1, 3), Outcome("done", metrics))
    [file] = files(run)
    found = summary(file)
    assert (found["name"], found["project"], found["run_id"]) == (run.name, "rlhf", stable_id(run))
    assert (found["tags"], found["exit_code"]) == (["a=" + 62 * "b", "lora.r=4", "regularizer=js"], 0)
    assert (found["config"]["lora"]["r"], found["config"]["regularizer"]["name"]) == (4, "js")
    assert {name: found["summary"][name] for name in metrics} == metrics
    assert found["summary"]["evaluation/win_rate"] == 50
    assert found["summary"]["throughput/samples_per_second"] == 9
    records = [json.loads(line) for line in inspected(file).splitlines()]
    [about] = [row["run"] for row in records if row["type"] == "run"]
    assert (about["run_group"], about["job_type"]) == ("regs", "ppo")
    assert {"glob_name": "*", "options": {"defined": True, "step_sync": True}, "step_metric": "step"} in [
        row["metric"] for row in records if row["type"] == "metric"
    ]
    assert steps(file) == [0, 1, 2]
    rows = [row["history"]["item"] for row in records if row["type"] == "history"]
    assert {"evaluation/responses._type", "evaluation/win_rate"} <= rows[0].keys()
    assert [row["_step"] for row in rows] == [0, 1, 2]
    [table] = file.parent.rglob("*.table.json")
    cells = ["who ?", "a b", "c", 1.5, 0.5, 1, 0]
    names = ["instruction", "reference", "response", "preference", "score", "correct", "wrong"]
    assert json.loads(table.read_text()) == {"columns": names, "data": [cells]}
    assert any(row["type"] == "artifact" and row["artifact"]["type"] == "model" for row in records)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    message = f"wandb, offline: wandb sync {file.parent}"
    assert [record.getMessage() for record in caplog.records if record.name.startswith("rlhf")] == [message]
    output = capfd.readouterr()  # the log itself may be shown, and nothing of wandb's
    assert output.out in ("", f"{message}\n")
    assert output.err == ""


def test_a_run_gone_on_with_offline_is_one_run_once_synced(run: Path, server: FakeWandb) -> None:
    config = configured("tracker=wandb_offline")
    log(start(config, run), range(3), Outcome("preempted"))
    time.sleep(1.1)  # wandb names its directories by the second
    log(start(config, run), range(2, 5), Outcome("done", {"win_rate": 60.0}))
    first, second = files(run)
    assert (steps(first), steps(second)) == ([0, 1, 2], [2, 3, 4])
    assert summary(first)["exit_code"] == 143
    environ = os.environ | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    for file in (first, second):
        command = [sys.executable, "-m", "wandb", "sync", str(file.parent)]
        subprocess.run(command, cwd=file.parent, env=environ, capture_output=True, check=True, timeout=60)
    [(name, stored)] = server.runs.items()
    assert name == stable_id(run)
    assert [row["step"] for row in stored.history] == [0, 1, 2, 2, 3, 4]
    assert stored.summary["win_rate"] == 60.0


def test_an_online_run_goes_on_where_it_was(run: Path, server: FakeWandb) -> None:
    config = configured("tracker=wandb")
    log(start(config, run), range(3), Outcome("preempted"))
    [(name, stored)] = server.runs.items()
    assert (name, stored.starts, stored.exit_code) == (stable_id(run), 1, 143)
    assert (stored.about["groupName"], stored.about["jobType"]) == ("regs", "ppo")
    assert stored.config["lora"]["r"] == 4
    log(start(config, run), range(2, 5), Outcome("done", {"win_rate": 60.0}))
    assert (list(server.runs), stored.starts, stored.exit_code) == ([name], 2, 0)
    assert [row["step"] for row in stored.history] == [0, 1, 2, 2, 3, 4]
    assert [row["_step"] for row in stored.history] == list(range(6))  # wandb's own count goes on too


@pytest.mark.slow
def test_an_agents_run_is_its_own_in_its_sweeps_group(
    tmp_path: Path, server: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that an agent makes of sweeps/wandb.yaml, by wandb's own functions, at smoke size."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load((SWEEPS / "wandb.yaml").read_text())
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc123")
    monkeypatch.setenv("WANDB_RUN_ID", "run7")
    chosen = {key: {"value": each.get("value", each.get("min"))} for key, each in sweep["parameters"].items()}
    chosen |= {"experiment": {"value": "smoke"}, "device": {"value": "cpu"}}
    parts = create_sweep_command_args({"args": chosen}) | {"interpreter": [sys.executable], "env": []}
    parts["program"] = [sweep["program"]]
    words = create_sweep_command(sweep["command"])
    command = [part for word in words for part in (parts[word[2:-1]] if word.startswith("${") else [word])]
    environment = os.environ | {"PYTHONPATH": str(CONF.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = (tmp_path / "outputs" / "sweeps" / "wandb-abc123").glob("*/metrics.json")
    assert "ppo.lr=0.0003" in path.parent.name
    stored = server.runs["run7"]
    metric = sweep["metric"]["name"]
    assert (stored.about["groupName"], stored.exit_code) == ("abc123", 0)
    assert len([row for row in stored.history if metric in row]) >= 2  # what early_terminate counts


def test_a_run_is_logged_offline_where_wandb_can_not_be_reached(
    run: Path, server: FakeWandb, caplog: pytest.LogCaptureFixture
) -> None:
    server.way = "refuse"
    tracker = start(configured("tracker=wandb", "tracker.patience=3"), run)
    log(tracker, range(3))
    until(lambda: files(run, "offline-run"))  # a run that is longer than the patience
    log(tracker, range(3, 4), Outcome("done"))
    [file] = files(run, "offline-run")
    assert steps(file) == [0, 1, 2, 3]
    assert "wandb can't be reached" in caplog.text


def test_without_a_key_a_run_is_logged_offline(run: Path, server: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(run / "netrc"))
    log(start(configured("tracker=wandb"), run), range(2), Outcome("done"))
    [file] = files(run, "offline-run")
    assert steps(file) == [0, 1]
    assert server.runs == {}


@pytest.mark.parametrize("way", ["refuse", "hang"])
def test_a_network_that_fails_on_the_way_delays_nothing(run: Path, server: FakeWandb, way: str) -> None:
    tracker = start(configured("tracker=wandb", "tracker.patience=5"), run)
    log(tracker, range(2))
    until(lambda: any(each.history for each in server.runs.values()))  # no longer busy with its start
    server.way = way
    begun = time.monotonic()
    log(tracker, range(2, 200))
    assert time.monotonic() - begun < 1
    tracker.finish(Outcome("done"))
    assert time.monotonic() - begun < 14
    assert steps(files(run)[-1])[:2] == [0, 1]
    server.over.set()
