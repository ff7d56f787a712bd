"""Which of a step's tasks this is, and when a job goes back into the queue."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.process import slurm
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


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a scontrol of job 7's, as that of `fields`; it fails the first `failures` times, and notes its calls."""

    def make(failures: int = 0, **fields: str) -> Path:
        told = " ".join(
            f"{name}={value}" for name, value in ({"JobState": "RUNNING", "Restarts": "0"} | fields).items()
        )
        asked, script = tmp_path / "asked", tmp_path / "scontrol"
        lines = [
            "#!/bin/sh",
            f'echo "$@" >> {asked}',
            f"[ $(wc -l < {asked}) -le {failures} ] && echo 'Unable to contact slurm controller' >&2 && exit 1",
            f'[ "$1" = show ] && echo "JobId=7 {told}"',
            "exit 0",
        ]
        script.write_text("\n".join(lines) + "\n")
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setattr(slurm, "RETRY_SECONDS", 0.0)
        return asked

    return make


AT = "2026-11-27T06:34:37"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "requeued"),
        ({"JobState": "COMPLETING"}, "cancelled"),
        ({"JobState": "COMPLETING", "StartTime": AT, "PreemptTime": "None"}, "cancelled"),
        ({"JobState": "CANCELLED"}, "cancelled"),
        ({"JobState": "COMPLETING", "StartTime": AT, "PreemptTime": "2026-11-27T06:34:39"}, "requeued"),
        ({"JobState": "COMPLETING", "StartTime": AT, "PreemptTime": "2026-11-26T23:00:00"}, "cancelled"),  # long ago
        ({"JobState": "COMPLETING", "Restarts": "1"}, "queued"),  # by SLURM itself, as after its node has failed
        ({"JobState": "PENDING"}, "queued"),
    ],
)
def test_a_job_goes_back_into_the_queue_unless_somebody_cancels_it(
    job: Callable[..., Path], fields: dict[str, str], expected: str
) -> None:
    asked = job(**fields)
    assert requeue() == ("queued" if expected == "requeued" else expected, "")
    assert asked.read_text() == "show job 7\n" + ("requeue 7\n" if expected == "requeued" else "")


def test_a_start_after_slurm_has_queued_a_job_again_knows_of_it(
    job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    job(JobState="COMPLETING", Restarts="2")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert requeue() == ("cancelled", "")


def test_an_arrays_element_asks_for_itself_alone(job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The last element's job has the id of the whole array."""
    asked = job()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    requeue()
    assert asked.read_text() == "show job 7_3\nrequeue 7_3\n"


def test_a_controller_that_is_away_is_asked_again_for_a_minute(
    job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert job(failures=2).exists() is False
    assert requeue() == ("queued", "")
    monkeypatch.setattr(slurm, "PATIENCE", -1.0)
    job(failures=9)
    assert requeue() == ("left", "Unable to contact slurm controller")


def test_where_there_is_no_scontrol_the_job_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert requeue() == ("left", "scontrol is not on this machine's PATH")
    monkeypatch.delenv("SLURM_JOB_ID")
    assert requeue() == ("none", "")
