"""Several runs in one job: fake runs (fake_run.py) by real workers."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from rlhf.launch import element, shared
from rlhf.launch.shared import environments
from rlhf.storage.files import read_json, write_json
from rlhf.storage.rundir import RunDirectory
from tests.launch.processes import python, states, until
from tests.made_up import made_up


def sheet(folder: Path, *names: str, per_gpu: int = 1) -> Path:
    job = {"launcher": "slurm", "job_id": "7_0"}
    runs = [str(made_up(folder / name, "pending", job=job)) for name in names]
    write_json(folder / "sheet.json", {"module": "rlhf.resume", "elements": [runs], "per_gpu": per_gpu})
    return folder / "sheet.json"


def started(file: Path) -> "subprocess.Popen[str]":
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    return python("tests.launch.fake_shared", file, 0, env=hidden)


def test_an_element_becomes_its_run_or_what_serves_its_runs(tmp_path: Path) -> None:
    write_json(tmp_path / "s.json", {"module": "rlhf.resume", "elements": [["a"], ["b", "c"]], "per_gpu": 1})
    assert element.command(tmp_path / "s.json", 0) == ["-m", "rlhf.resume", "a"]
    assert element.command(tmp_path / "s.json", 1) == ["-m", "rlhf.launch.shared", str(tmp_path / "s.json"), "1"]


def test_one_failed_run_costs_no_other_and_one_process_does_the_rest(tmp_path: Path) -> None:
    assert started(sheet(tmp_path, "quick=1", "bad", "mute", "quick=2")).wait(60) == 1
    assert states(tmp_path) == {"quick=1": "done", "bad": "failed", "mute": "failed", "quick=2": "done"}
    assert read_json(tmp_path / "quick=1" / "job.json")["launcher"] == "slurm"  # as it was: the job, not the process
    assert "out of luck" in RunDirectory(tmp_path / "bad").status["reason"]


def test_a_job_that_is_stopped_leaves_what_is_left_to_the_next(tmp_path: Path) -> None:
    file = sheet(tmp_path, "quick=1", "long=1", "long=2", "quick=2", per_gpu=2)
    process = started(file)
    until(lambda: RunDirectory(tmp_path / "long=2").state == RunDirectory(tmp_path / "long=1").state == "running")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert states(tmp_path) == {"quick=1": "done", "long=1": "preempted", "long=2": "preempted", "quick=2": "pending"}
    for name in ("long=1", "long=2"):
        RunDirectory(tmp_path / name).set_status("cancelled")
    assert started(file).wait(60) == 0
    assert states(tmp_path)["quick=2"] == "done"


def test_each_process_has_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = environments(["2", "3"], cores=8, per_gpu=2)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["2", "3", "2", "3"]
    assert {(each["RLHF_GPU_SHARE"], each["OMP_NUM_THREADS"]) for each in found} == {("0.5", "2")}
    (alone,) = environments([], cores=8, per_gpu=1)
    assert "RLHF_GPU_SHARE" not in alone


@pytest.mark.parametrize("there", [True, False])
def test_mps_is_started_where_the_site_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    if there:
        program = tmp_path / shared.MPS
        program.write_text(
            f'#!/bin/sh\n[ "$1" = -d ] && echo "start $CUDA_MPS_PIPE_DIRECTORY" || cat >> {tmp_path}/said\n'
        )
        program.chmod(0o755)
    with shared.mps(True) as found:
        assert (set(found) == {"CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"}) is there
    assert (tmp_path / "said").exists() is there
    with shared.mps(False) as found:
        assert found == {}
