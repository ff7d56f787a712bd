"""Starting a sweep's runs on this machine: room for them, their surroundings, their ends."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlhf.errors import ConfigError
from rlhf.launch.starter import Child, Slot, command, environment, set_down, slots, visible_gpus
from rlhf.storage.files import read_json
from rlhf.storage.rundir import RunDirectory
from rlhf.storage.runs import read_run
from tests.launch.processes import fake_run, told_starter, until
from tests.made_up import made_up

SETTINGS = {"parallel": None, "gpus_per_run": 1, "threads": 1}


def sets(settings: dict[str, Any], gpus: str, cores: int = 8) -> list[str | None]:
    found = slots(SETTINGS | settings, list(gpus), cores)
    assert [slot.number for slot in found] == list(range(len(found)))
    return [slot.devices for slot in found]


def test_one_run_per_set_of_gpus() -> None:
    assert sets({}, "0123") == ["0", "1", "2", "3"]
    assert sets({"gpus_per_run": 2}, "0123") == ["0,1", "2,3"]
    assert sets({"gpus_per_run": 2}, "01234") == ["0,1", "2,3"]  # one that makes no set stays idle
    assert sets({"parallel": 1}, "01") == ["0"]
    assert sets({"parallel": 3}, "01") == ["0", "1", "0"]  # runs may share a GPU


def test_as_many_runs_as_cores_allow() -> None:
    assert sets({}, "") == [None] * 8
    assert sets({"threads": 3}, "") == [None] * 2
    assert sets({"threads": 2, "gpus_per_run": 2}, "") == [None] * 2
    assert sets({"threads": 64}, "") == [None]
    assert sets({"parallel": 3, "threads": 64}, "") == [None] * 3


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"parallel": 0}, "hydra.launcher.parallel=0 is not allowed"),
        ({"threads": None}, "hydra.launcher.threads=None is not allowed"),
        ({"gpus_per_run": 1.5}, "hydra.launcher.gpus_per_run=1.5 is not allowed"),
        ({"threads": "many"}, "hydra.launcher.threads=many is not allowed"),
        ({"gpus_per_run": 3}, "hydra.launcher.gpus_per_run=3 is not allowed: only 2 GPUs are visible here"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        sets(settings, "01")


@pytest.mark.parametrize(
    ("named", "gpus"), [("2,3", ["2", "3"]), ("GPU-8f, 1", ["GPU-8f", "1"]), ("", []), ("-1", []), ("1,-1", ["1"])]
)
def test_gpus_that_the_environment_names(monkeypatch: pytest.MonkeyPatch, named: str, gpus: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == gpus


def test_gpus_that_nvidia_smi_lists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    listed = (
        "GPU 0: NVIDIA H100 (UUID: GPU-1)\\n  MIG 1g.10gb Device 0: (UUID: MIG-2)\\nGPU 1: NVIDIA H100 (UUID: GPU-3)"
    )
    program.write_text(f"#!/bin/sh\n[ \"$1\" = -L ] && printf '{listed}\\n'\n")
    program.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert visible_gpus() == []


def test_a_surrounding_job_stays_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    outer = {"SLURM_JOB_ID": "7", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node1"}
    for name, value in (outer | {"HF_HOME": "/data", "MY_RANK": "1"}).items():
        monkeypatch.setenv(name, value)
    found = environment(Slot(1, "2,3"), threads=5)
    assert not outer.keys() & found.keys()
    kept = {"HF_HOME": "/data", "MY_RANK": "1", "CUDA_VISIBLE_DEVICES": "2,3", "OMP_NUM_THREADS": "5"}
    assert kept.items() <= found.items()


def test_a_run_of_several_processes_has_a_world_of_its_own() -> None:
    assert command(Path("r"), 1)[1:] == ["-m", "rlhf.resume", "r"]
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "rlhf.resume", "r"]
    assert command(Path("r"), 2)[1:] == several


def states(sweep: Path) -> dict[str, str]:
    return {path.parent.name: read_run(path.parent).state for path in sweep.glob("*/status.json")}


def test_failures_cost_the_others_nothing(tmp_path: Path) -> None:
    names = ["a=bad", "b=mute", "c=quick", "d=quick"]
    starter = told_starter(tmp_path, names, env={"CUDA_VISIBLE_DEVICES": "4,6", "SLURM_JOB_ID": "7"})
    assert starter.wait(60) == 0
    assert states(tmp_path) == {"a=bad": "failed", "b=mute": "failed", "c=quick": "done", "d=quick": "done"}
    bad, mute = RunDirectory(tmp_path / "a=bad").status, RunDirectory(tmp_path / "b=mute").status
    assert (bad["reason"], bad["step"]) == ("out of luck", 2)
    assert mute["reason"] == "ended with status 1; its last words: Segmentation fault, as it were"
    assert (tmp_path / "a=bad" / "output.log").read_text().startswith("at work\nTraceback")
    metrics = [read_json(tmp_path / name / "metrics.json") for name in ("c=quick", "d=quick")]
    assert {found["CUDA_VISIBLE_DEVICES"] for found in metrics} <= {"4", "6"}
    assert [(found["OMP_NUM_THREADS"], found["SLURM_JOB_ID"]) for found in metrics] == [("3", None)] * 2
    job = read_json(tmp_path / "c=quick" / "job.json")
    assert (job["launcher"], job["log"]) == ("local", "c=quick/output.log")
    assert job["devices"] in ("4", "6")


def test_asked_to_stop_the_runs_save_and_the_rest_never_begins(tmp_path: Path) -> None:
    starter = told_starter(tmp_path, ["a=long", "b=long", "c=quick"])
    until(lambda: list(states(tmp_path).values()).count("running") == 2)
    starter.send_signal(signal.SIGTERM)
    assert starter.wait(60) == 0
    assert states(tmp_path) == {"a=long": "preempted", "b=long": "preempted", "c=quick": "cancelled"}


def test_asked_twice_the_runs_are_killed(tmp_path: Path) -> None:
    starter = told_starter(tmp_path, ["a=deaf"])
    until(lambda: states(tmp_path)["a=deaf"] == "running")
    starter.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    assert starter.poll() is None  # it waits for the run to save
    starter.send_signal(signal.SIGTERM)
    assert starter.wait(60) == 0
    status = RunDirectory(tmp_path / "a=deaf").status
    assert (status["state"], status["step"]) == ("failed", 2)
    assert status["reason"].startswith("killed by SIGKILL")
    assert not (tmp_path / "a=deaf" / ".lock").exists()  # so that it can be started again at once


def test_a_killed_starter_leaves_its_runs_at_work_and_to_be_found(tmp_path: Path) -> None:
    starter = told_starter(tmp_path, ["a=long"], parallel=1)
    until(lambda: states(tmp_path)["a=long"] == "running")
    starter.kill()
    starter.wait()
    job = read_json(tmp_path / "a=long" / "job.json")
    process = psutil.Process(int(job["job_id"]))
    assert str(tmp_path / "a=long") in process.cmdline()
    assert states(tmp_path)["a=long"] == "running"
    process.terminate()
    until(lambda: states(tmp_path)["a=long"] == "preempted")


def test_a_place_is_free_only_once_an_earlier_starters_run_has_ended(tmp_path: Path) -> None:
    first = told_starter(tmp_path, ["a=long"], parallel=1)
    until(lambda: states(tmp_path)["a=long"] == "running")
    first.kill()
    first.wait()
    second = told_starter(tmp_path, ["b=quick"], parallel=1)
    time.sleep(2.0)
    assert states(tmp_path) == {"a=long": "running", "b=quick": "pending"}
    psutil.Process(int(read_json(tmp_path / "a=long" / "job.json")["job_id"])).terminate()
    assert second.wait(60) == 0
    assert states(tmp_path) == {"a=long": "preempted", "b=quick": "done"}


def test_what_is_cancelled_or_started_elsewhere_is_passed_over(tmp_path: Path) -> None:
    elsewhere = fake_run(tmp_path / "b=long")
    starter = told_starter(tmp_path, ["a=long", "c=quick"], parallel=1)
    RunDirectory(tmp_path / "c=quick").set_status("cancelled")
    until(lambda: states(tmp_path)["a=long"] == "running")
    psutil.Process(int(read_json(tmp_path / "a=long" / "job.json")["job_id"])).terminate()
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
    with subprocess.Popen(["true"]) as process:
        set_down(Child(path, process, {"time": 1000.0}), code)
    status = RunDirectory(path).status
    assert (status["state"], status["step"]) == (end, 3)
    assert (status["reason"] == "why") == (state == end)


def test_a_run_that_another_process_has_taken_over_is_left_alone(tmp_path: Path) -> None:
    other = fake_run(tmp_path / "long")
    (tmp_path / "long" / "output.log").write_text("")
    with subprocess.Popen(["true"]) as process:
        set_down(Child(tmp_path / "long", process, {"time": time.time()}), 1)
    assert RunDirectory(tmp_path / "long").state == "running"
    other.terminate()
    other.wait()
