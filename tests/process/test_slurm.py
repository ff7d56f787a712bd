"""Which of a step's tasks this is, and when a job goes back into the queue."""

import os
from pathlib import Path

import pytest

from rlhf.process.slurm import name_task, requeue

TASK = {
    "SLURM_JOB_ID": "70001",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_NODELIST": "gpu[07-08]",
    "SLURM_JOB_NUM_NODES": "2",
}


def test_a_task_is_named_in_torchs_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    environ = dict(TASK)
    name_task(environ)
    added = {name: value for name, value in environ.items() if name not in TASK}
    assert added == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": "22001",  # 12000 + 70001 modulo 20000
    }


@pytest.mark.parametrize(
    "environ",
    [{}, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, {**TASK, "SLURM_STEP_NUM_TASKS": "1"}, {**TASK, "RANK": "0"}],
    ids=["no SLURM", "no step", "one task", "torchrun"],
)
def test_others_are_left_as_they_are(environ: dict[str, str]) -> None:
    before = dict(environ)
    name_task(environ)
    assert environ == before


def fake_scontrol(folder: Path, state: str, monkeypatch: pytest.MonkeyPatch, restarts: int = 0) -> Path:
    """A scontrol that tells the job's state, and writes down what else it is asked for."""
    log = folder / "asked"
    script = folder / "scontrol"
    told = f"JobId=7 JobName=x JobState={state} Reason=None Requeue=1 Restarts={restarts}"
    script.write_text(f'#!/bin/sh\nif [ "$1" = show ]; then echo "{told}"; else echo "$@" >> {log}; fi\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    return log


def test_a_running_job_is_queued_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = fake_scontrol(tmp_path, "RUNNING", monkeypatch)
    assert requeue() == "RUNNING"
    assert log.read_text() == "requeue 7\n"


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED"])
def test_a_cancelled_one_is_not(state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = fake_scontrol(tmp_path, state, monkeypatch)
    assert requeue() == state
    assert not log.exists()


def test_one_that_slurm_has_queued_again_itself_is_no_cancelled_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after its node has failed: this process is of an earlier start than the last."""
    log = fake_scontrol(tmp_path, "COMPLETING", monkeypatch, restarts=2)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert requeue() == "REQUEUED"
    assert not log.exists()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert requeue() == "COMPLETING"


def test_without_slurm_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert requeue() is None
