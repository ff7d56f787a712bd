"""Trackers through their interface: what they are given, and that nothing of theirs touches the run."""

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rlhf.compose import run_name
from rlhf.errors import CheckError, ConfigError, Preempted
from rlhf.storage.rundir import RunDirectory
from rlhf.tracking import choose, tracker
from rlhf.tracking.tracker import UNTRACKED, InBackground, Outcome, Tracker, numbers, plain, response_cells, stable_id
from tests.configure import configure

ROW = {"step": 3, "rollout/kl": 0.25, "win_rate": 55.0, "samples_per_second": 40.0, "judge_problem": None, "note": "x"}


class Recorder(Tracker):
    """Writes down what it is given, and in what thread; `log` may fail, or wait for `gate`."""

    def __init__(self, error: Exception | None = None, gate: threading.Event | None = None) -> None:
        self.given: list[Any] = []
        self.error, self.gate, self.threads = error, gate, set[str]()

    def log(self, row: Any) -> None:
        if self.gate is not None:
            self.gate.wait(30)
        if self.error is not None:
            raise self.error
        self.threads.add(threading.current_thread().name)
        self.given.append(row)

    def responses(self, step: int, rows: Any) -> None:
        self.given.append((step, rows))

    def finish(self, outcome: Outcome) -> None:
        self.given.append(outcome)


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rlhf")


def test_all_arrives_in_order_and_in_another_thread(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    background = InBackground("x", lambda: recorder, patience=30.0)
    background.log({"step": 0})
    background.responses(0, [{"a": 1}])
    background.log({"step": 1})
    background.finish(Outcome("done", {"win_rate": 50.0}))
    assert recorder.given == [{"step": 0}, (0, [{"a": 1}]), {"step": 1}, Outcome("done", {"win_rate": 50.0})]
    assert recorder.threads == {"tracker x"}
    assert caplog.messages == []


def test_a_tracker_that_fails_is_dropped_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(error=OSError("disk\nfull"))
    background = InBackground("x", lambda: recorder, patience=30.0)
    for step in range(3):
        background.log({"step": step})
    background.thread.join(10)
    background.log({"step": 3})
    background.finish(Outcome("done"))
    assert recorder.given == []
    [message] = caplog.messages
    assert "tracker=x" in message
    assert "disk full" in message


def test_one_that_can_not_even_be_made_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    def make() -> Tracker:
        raise SystemExit(3)

    background = InBackground("x", make, patience=30.0)
    background.finish(Outcome("done"))
    [message] = caplog.messages
    assert message.endswith(": 3")


@pytest.mark.parametrize(("state", "patience"), [("done", 0.3), ("preempted", 0.1), ("failed", 0.1)])
def test_a_slow_one_is_waited_for_at_the_end_alone_and_for_a_limited_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, state: str, patience: float
) -> None:
    monkeypatch.setattr(tracker, "STOPPED_PATIENCE", 0.1)
    gate = threading.Event()
    start = time.monotonic()
    background = InBackground("x", lambda: Recorder(gate=gate), patience=0.3)
    for step in range(100):
        background.log({"step": step})
    assert time.monotonic() - start < 0.1
    background.finish(Outcome(state))
    assert patience <= time.monotonic() - start < 5
    gate.set()
    background.thread.join(10)
    [message] = caplog.messages
    assert "has not taken everything" in message


@pytest.mark.parametrize(
    ("error", "state"),
    [(Preempted("SIGTERM"), "preempted"), (CheckError("x"), "failed"), (KeyboardInterrupt(), "failed")],
)
def test_the_tracker_learns_how_a_run_that_stops_early_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException, state: str
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(choose, "start", lambda config, directory: recorder)
    with pytest.raises(type(error)), choose.tracking(configure(), tmp_path, is_main=True):
        raise error
    assert recorder.given == [Outcome(state)]


def test_only_the_main_rank_is_tracked(tmp_path: Path) -> None:
    with choose.tracking(configure("tracker=wandb_offline"), tmp_path, is_main=False) as given:
        assert given is UNTRACKED
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tensorboard_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure("tracker=tensorboard")
    choose.check_installed(config)
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tracker=tensorboard needs .* pip install tensorboard"):
        choose.check_installed(config)
    choose.check_installed(configure("tracker=none"))


def test_a_rows_numbers_are_sorted_into_sections() -> None:
    expected = {"step": 3, "rollout/kl": 0.25, "evaluation/win_rate": 55.0, "throughput/samples_per_second": 40.0}
    assert numbers(ROW) == expected


def test_the_configuration_is_logged_without_the_tracker() -> None:
    found = plain(configure("tracker=wandb_offline", "lora.r=4"))
    assert "tracker" not in found
    assert found["lora"]["r"] == 4
    assert json.loads(json.dumps(found)) == found


def test_cells_of_a_response() -> None:
    row = {"instruction": "i", "reference": "a", "response": "b", "preferences": [2.0, None, 1.0, 1.5]}
    row |= {"score": 0.5, "correct": 1, "wrong": None, "facts": []}
    assert response_cells(row) == ["i", "a", "b", 1.5, 0.5, 1, None]
    assert response_cells(row | {"preferences": None})[3] is None
    assert response_cells(row | {"preferences": [None]})[3] is None


def test_an_id_stays_with_its_directory(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first = stable_id(tmp_path)
    assert stable_id(tmp_path) == first
    assert stable_id(tmp_path / "other") != first


def test_tracker_and_name_do_not_change_a_runs_identity(tmp_path: Path) -> None:
    overrides = ["regularizer=js", "tracker=wandb", "tracker.project=p", "+tracker.x=1", "++tracker.y=2", "name=a"]
    assert run_name(overrides) == "regularizer=js"
    directory = RunDirectory(tmp_path / "run")
    directory.prepare(configure("tracker=none"))
    again = configure("tracker=wandb", "tracker.project=other", "name=first")
    directory.prepare(again)
    assert directory.config() == again
    with pytest.raises(ConfigError, match=r"another configuration(?s:.*)\+seed: 1"):
        directory.prepare(configure("tracker=wandb", "seed=1"))


def test_a_finished_runs_configuration_stays_as_it_was(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    directory.prepare(configure("tracker=none"))
    directory.set_status("done", 3)
    directory.prepare(configure("tracker=wandb"))
    assert directory.config().tracker.name == "none"
