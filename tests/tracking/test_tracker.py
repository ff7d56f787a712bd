"""Trackers through their interface: what they are told, and that nothing of theirs touches the run."""

import json
import threading
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlhf.compose import run_name
from rlhf.errors import CheckError, ConfigError, Preempted
from rlhf.storage.rundir import RunDirectory
from rlhf.tracking import choose as tracking_module
from rlhf.tracking import tracker
from rlhf.tracking.choose import check_installed, tracking
from rlhf.tracking.tracker import (
    UNTRACKED,
    InBackground,
    Outcome,
    numbers,
    overrides_of,
    plain,
    response_cells,
    stable_id,
    sweep_of,
)
from tests.configure import configure

ROW = {"step": 3, "rollout/kl": 0.25, "win_rate": 55.0, "samples_per_second": 40.0, "judge_problem": None, "note": "x"}


class Recorder:
    """Writes down what it is told, in what thread; `log` may fail, or take its time."""

    def __init__(self, error: Exception | None = None, gate: threading.Event | None = None) -> None:
        self.told: list[Any] = []
        self.error, self.gate, self.threads = error, gate, set[str]()

    def log(self, row: Any) -> None:
        if self.gate is not None:
            self.gate.wait(30)
        if self.error is not None:
            raise self.error
        self.threads.add(threading.current_thread().name)
        self.told.append(row)

    def responses(self, step: int, rows: list[Any]) -> None:
        self.told.append((step, rows))

    def finish(self, outcome: Outcome) -> None:
        self.told.append(outcome)


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    file = StringIO()
    monkeypatch.setattr(tracker, "console", Console(file=file, soft_wrap=True))
    return file


def test_all_is_told_in_order_and_in_another_thread(console: StringIO) -> None:
    recorder = Recorder()
    background = InBackground("x", lambda: recorder, patience=30.0)
    background.log({"step": 0})
    background.responses(0, [{"a": 1}])
    background.log({"step": 1})
    background.finish(Outcome("done", {"win_rate": 50.0}))
    assert recorder.told == [{"step": 0}, (0, [{"a": 1}]), {"step": 1}, Outcome("done", {"win_rate": 50.0})]
    assert recorder.threads == {"tracker x"}
    assert console.getvalue() == ""


def test_a_tracker_that_fails_is_said_once_and_told_no_more(console: StringIO) -> None:
    recorder = Recorder(error=OSError("disk\nfull"))
    background = InBackground("x", lambda: recorder, patience=30.0)
    for step in range(3):
        background.log({"step": step})
    background.thread.join(10)
    background.log({"step": 3})
    background.finish(Outcome("done"))
    assert recorder.told == []
    assert console.getvalue() == "tracker=x is dropped, and the run goes on without: disk full\n"


def test_one_that_can_not_even_be_made_is_dropped(console: StringIO) -> None:
    def make() -> Recorder:
        raise SystemExit(3)

    background = InBackground("x", make, patience=30.0)
    background.finish(Outcome("done"))
    assert console.getvalue() == "tracker=x is dropped, and the run goes on without: 3\n"


@pytest.mark.parametrize(("state", "patience"), [("done", 0.3), ("preempted", 0.1), ("failed", 0.1)])
def test_a_slow_one_is_never_waited_for_but_a_while_at_the_end(
    console: StringIO, monkeypatch: pytest.MonkeyPatch, state: str, patience: float
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
    assert "has not taken everything" in console.getvalue()
    gate.set()
    background.thread.join(10)
    assert console.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    ("error", "state"),
    [(Preempted("SIGTERM"), "preempted"), (CheckError("x"), "failed"), (KeyboardInterrupt(), "failed")],
)
def test_how_a_run_that_stops_early_ended_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException, state: str
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(tracking_module, "start", lambda config, directory: recorder)
    with pytest.raises(type(error)), tracking(configure(), tmp_path, is_main=True):
        raise error
    assert recorder.told == [Outcome(state)]


def test_only_the_main_rank_tells(tmp_path: Path) -> None:
    with tracking(configure("tracker=wandb_offline"), tmp_path, is_main=False) as told:
        assert told is UNTRACKED
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tensorboard_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure("tracker=tensorboard")
    check_installed(config)
    monkeypatch.setattr(tracking_module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tracker=tensorboard needs .* pip install 'rlhf\[tensorboard\]'"):
        check_installed(config)
    check_installed(configure("tracker=none"))


def test_the_default_is_wandb_offline() -> None:
    from tests.configure import composed

    assert composed().tracker.name == "wandb_offline"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tracker.patience=0", "tracker.patience=0.0 is not allowed: must be greater than 0"),
        ("tracker.responses=-1", "tracker.responses=-1 is not allowed: must be 0 or greater"),
        ("tracker.project=a/b", "tracker.project=a/b is not allowed: a name without"),
    ],
)
def test_settings_out_of_range_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configure("tracker=wandb", override)


def test_a_rows_numbers_are_sorted_into_sections() -> None:
    expected = {"step": 3, "rollout/kl": 0.25, "evaluation/win_rate": 55.0, "throughput/samples_per_second": 40.0}
    assert numbers(ROW) == expected


def test_the_configuration_is_told_plainly_and_without_the_tracker() -> None:
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


def test_a_runs_sweep_and_overrides_are_read_off_its_place(tmp_path: Path) -> None:
    run = tmp_path / "regs" / "lora.target_modules=-a,b,regularizer=js,seed=0"
    run.mkdir(parents=True)
    assert sweep_of(run) is None
    (run.parent / "multirun.yaml").touch()
    assert sweep_of(run) == "regs"
    assert overrides_of(run) == ["lora.target_modules=-a,b", "regularizer=js", "seed=0"]


def test_who_follows_a_run_makes_no_other_run_of_it(tmp_path: Path) -> None:
    told = ["regularizer=js", "tracker=wandb", "tracker.project=p", "+tracker.x=1", "++tracker.y=2"]
    assert run_name(told) == "regularizer=js"
    directory = RunDirectory(tmp_path / "run")
    directory.prepare(configure("tracker=none"))
    again = configure("tracker=wandb", "tracker.project=other")
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
