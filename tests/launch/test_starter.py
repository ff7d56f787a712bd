"""Starting a sweep's runs on this machine: one after another in a slot's worker, their stopping, their ends."""

import signal
import time
from pathlib import Path

import pytest

from rlhf.compose import load_config
from rlhf.launch.job import worker
from rlhf.launch.prepared import stages_of
from rlhf.launch.starter import Starter, command, set_down
from rlhf.storage.files import read_json
from rlhf.storage.lease import lease_holder
from rlhf.storage.rundir import RunDirectory
from rlhf.storage.runs import read_run
from tests.launch.processes import fake_run, process_of, states, told_starter, until
from tests.made_up import made_up


def test_a_run_of_several_processes_has_a_world_of_its_own() -> None:
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "rlhf.resume", "r"]
    assert command(Path("r"), 2)[1:] == several


@pytest.mark.parametrize("gpus_per_run", [1, 2])
def test_failures_cost_the_others_nothing(tmp_path: Path, gpus_per_run: int) -> None:
    names = ["a=bad", "b=mute", "c=refused", "d=quick", "e=quick"]
    env = {"CUDA_VISIBLE_DEVICES": "4,6,7,8", "SLURM_JOB_ID": "7"}
    starter = told_starter(tmp_path, names, env=env, gpus_per_run=gpus_per_run)
    assert starter.wait(60) == 0
    ends = {"a=bad": "failed", "b=mute": "failed", "c=refused": "failed", "d=quick": "done", "e=quick": "done"}
    assert states(tmp_path) == ends
    bad, mute, refused = (RunDirectory(tmp_path / name).status for name in names[:3])
    assert (bad["reason"], bad["step"]) == ("out of luck", 2)
    assert mute["reason"] == "ended with status 1; its last words: Segmentation fault, as it were"
    assert refused["reason"] == "not allowed"
    logs = [(tmp_path / name / "output.log").read_text() for name in names]
    assert logs[0].startswith("at work\nTraceback")
    assert (
        logs[1:] == ["at work\nSegmentation fault, as it were\n", "at work\nerror: not allowed\n"] + ["at work\n"] * 2
    )
    metrics = [read_json(tmp_path / name / "metrics.json") for name in names[3:]]
    job = read_json(tmp_path / "d=quick" / "job.json")
    devices = ("4", "6") if gpus_per_run == 1 else ("4,6", "7,8")
    assert {found["CUDA_VISIBLE_DEVICES"] for found in metrics} | {job["devices"]} <= set(devices)
    assert [(found["OMP_NUM_THREADS"], found["SLURM_JOB_ID"]) for found in metrics] == [("3", None)] * 2
    assert (job["launcher"], job["log"]) == ("local", "d=quick/output.log")


@pytest.mark.parametrize(("gpus_per_run", "processes"), [(1, 2), (2, 4)])
def test_a_process_does_one_run_after_another_until_it_fails(tmp_path: Path, gpus_per_run: int, processes: int) -> None:
    """A run that the user's settings refuse costs its process nothing, any other error does."""
    names = ["a=quick", "b=refused", "c=bad", "d=quick"]
    starter = told_starter(tmp_path, names, parallel=1, gpus_per_run=gpus_per_run, env={"CUDA_VISIBLE_DEVICES": ""})
    assert starter.wait(60) == 0
    numbers = [read_json(tmp_path / name / "job.json")["job_id"] for name in names]
    assert len(set(numbers)) == processes
    assert (numbers[0] == numbers[2], numbers[2] == numbers[3]) == (gpus_per_run == 1, False)


def test_a_process_that_is_killed_costs_the_run_that_it_was_doing(tmp_path: Path) -> None:
    starter = told_starter(tmp_path, ["a=quick", "b=long", "c=quick"], parallel=1)
    until(lambda: states(tmp_path)["b=long"] == "running")
    process_of(tmp_path / "b=long").kill()
    assert starter.wait(60) == 0
    assert states(tmp_path) == {"a=quick": "done", "b=long": "failed", "c=quick": "done"}
    reason = RunDirectory(tmp_path / "b=long").status["reason"]
    assert reason.startswith("killed by SIGKILL")
    assert reason.endswith("its last words: at work")


def test_a_process_is_no_longer_that_of_a_run_that_has_ended(tmp_path: Path) -> None:
    """Nor does what asks that run to stop reach the next one."""
    starter = told_starter(tmp_path, ["a=long", "b=long"], parallel=1)
    until(lambda: states(tmp_path)["a=long"] == "running")
    process = process_of(tmp_path / "a=long")
    process.terminate()
    until(lambda: states(tmp_path) == {"a=long": "preempted", "b=long": "running"})
    assert process_of(tmp_path / "b=long") == process
    assert worker(read_run(tmp_path / "a=long")) is None
    RunDirectory(tmp_path / "a=long").set_status("pending", 2)  # as a launcher does that takes it on again
    assert worker(read_run(tmp_path / "a=long")) is None
    assert worker(read_run(tmp_path / "b=long")) == process
    process.terminate()
    assert starter.wait(60) == 0
    assert states(tmp_path)["b=long"] == "preempted"


def test_asked_to_stop_the_runs_save_and_the_rest_never_begins(tmp_path: Path) -> None:
    starter = told_starter(tmp_path, ["a=long", "b=long", "c=quick"])
    until(lambda: list(states(tmp_path).values()).count("running") == 2)
    starter.send_signal(signal.SIGTERM)
    assert starter.wait(60) == 0
    assert states(tmp_path) == {"a=long": "preempted", "b=long": "preempted", "c=quick": "cancelled"}


def test_asked_to_stop_before_a_run_has_begun_it_never_does(tmp_path: Path) -> None:
    starter = told_starter(tmp_path, ["a=long"])
    until(lambda: (tmp_path / "a=long" / "output.log").exists())  # its process is starting
    starter.send_signal(signal.SIGTERM)
    assert starter.wait(60) == 0
    assert states(tmp_path)["a=long"] in ("cancelled", "preempted")


def test_asked_twice_the_runs_are_killed(tmp_path: Path) -> None:
    starter = told_starter(tmp_path, ["a=deaf"])
    until(lambda: states(tmp_path)["a=deaf"] == "running")
    until(lambda: "at work" in (tmp_path / "a=deaf" / "output.log").read_text())
    time.sleep(0.5)
    starter.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    assert starter.poll() is None  # it waits for the run to save
    starter.send_signal(signal.SIGTERM)
    assert starter.wait(60) == 0
    status = RunDirectory(tmp_path / "a=deaf").status
    assert (status["state"], status["step"]) == ("failed", 2)
    assert status["reason"].startswith("killed by SIGKILL")
    assert not (tmp_path / "a=deaf" / ".lock").exists()  # so that it can be started again at once


def test_a_place_is_free_only_once_the_run_of_a_killed_starter_has_ended(tmp_path: Path) -> None:
    """The run goes on, and its process ends with it."""
    first = told_starter(tmp_path, ["a=long", "c=quick"], parallel=1)
    until(lambda: states(tmp_path)["a=long"] == "running")
    first.kill()
    first.wait()
    process = process_of(tmp_path / "a=long")
    assert lease_holder(tmp_path / "a=long") == process
    second = told_starter(tmp_path, ["b=quick"], parallel=1)
    time.sleep(2.0)
    assert states(tmp_path) == {"a=long": "running", "b=quick": "pending", "c=quick": "pending"}
    process.terminate()
    assert second.wait(60) == 0
    assert states(tmp_path) == {"a=long": "preempted", "b=quick": "done", "c=quick": "pending"}
    until(lambda: not process.is_running())


def test_what_is_cancelled_or_started_elsewhere_is_passed_over(tmp_path: Path) -> None:
    elsewhere = fake_run(tmp_path / "b=long")
    starter = told_starter(tmp_path, ["a=long", "c=quick"], parallel=1)
    RunDirectory(tmp_path / "c=quick").set_status("cancelled")
    until(lambda: states(tmp_path)["a=long"] == "running")
    process_of(tmp_path / "a=long").terminate()
    assert starter.wait(60) == 0
    assert states(tmp_path) == {"a=long": "preempted", "b=long": "running", "c=quick": "cancelled"}
    elsewhere.terminate()
    elsewhere.wait()


@pytest.mark.parametrize(
    ("state", "at", "code", "end"),
    [
        ("running", 2000.0, 1, "failed"),
        ("pending", 500.0, 1, "failed"),  # it ended before it could say anything
        ("pending", 500.0, -signal.SIGTERM, "preempted"),
        ("running", 2000.0, 143, "preempted"),
        ("pending", 2000.0, 1, "pending"),  # submitted again since
        ("preempted", 2000.0, 143, "preempted"),
        ("cancelled", 2000.0, 143, "cancelled"),
        ("done", 2000.0, 0, "done"),
    ],
)
def test_only_an_end_that_is_untold_is_set_down(tmp_path: Path, state: str, at: float, code: int, end: str) -> None:
    path = made_up(tmp_path / "run", state, 3, "why", time=at)
    (path / "output.log").write_text("")
    set_down(path, 1000.0, code)
    status = RunDirectory(path).status
    assert (status["state"], status["step"]) == (end, 3)
    assert (status["reason"] == "why") == (state == end)


def test_a_run_that_another_process_has_taken_over_is_left_alone(tmp_path: Path) -> None:
    other = fake_run(tmp_path / "long")
    (tmp_path / "long" / "output.log").write_text("")
    set_down(tmp_path / "long", time.time(), 1)
    assert RunDirectory(tmp_path / "long").state == "running"
    other.terminate()
    other.wait()


def test_a_run_is_put_off_while_another_builds_the_stages_that_it_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf.launch.starter.stages_of", lambda run: run.name[0])
    first, *others = (made_up(tmp_path / name, "pending") for name in ("a1", "a2", "a3", "b1"))
    starter = Starter(tmp_path, others, {"parallel": 2, "gpus_per_run": 1, "threads": 1})
    starter.places[0].run = first
    assert starter._next().name == "b1"
    assert starter._next().name == "a2"  # where nothing else is left to do it waits for them
    RunDirectory(first).set_status("running", 0)
    assert [path.name for path in starter.waiting] == ["a3"]
    starter.waiting.append(made_up(tmp_path / "b2", "pending"))
    assert starter._next().name == "a3"


def test_runs_share_stages_by_what_their_settings_say(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("js", "kl", "other", "torn")]
    for run, overrides in zip(runs, (["regularizer=js"], ["regularizer=kl"], ["data.seed=5"], []), strict=True):
        RunDirectory(run).prepare(load_config("experiment=smoke", *overrides))
    (runs[3] / "config.yaml").write_text("{")
    found = [stages_of(run) for run in runs]
    assert found[0] == found[1] != found[2]
    assert found[3] is None
