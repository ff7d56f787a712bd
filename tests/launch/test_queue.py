"""What squeue adds to the run directories, and that nothing is lost where it is silent."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.launch.queue import refine, squeue
from rlhf.storage.runs import RunState, read_run
from tests.made_up import made_up


class Program:
    """A squeue that answers as told, and notes how it was called."""

    def __init__(self, folder: Path) -> None:
        self.path, self.called = folder / "squeue", folder / "called"
        folder.mkdir()

    def answers(self, out: str, err: str = "", code: int = 0) -> None:
        lines = ["#!/bin/sh", f'echo "$@" >> {self.called}', f"printf '{out}'", f"printf '{err}' >&2", f"exit {code}"]
        self.path.write_text("\n".join(lines) + "\n")
        self.path.chmod(0o755)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return Program(tmp_path / "bin")


def run(path: Path, job_id: str, state: str = "pending", **options: object) -> RunState:
    job = {"launcher": "slurm", "job_id": job_id, "log": "x"}
    return replace(read_run(made_up(path, "pending", 7, job=job)), state=state)


def told(runs: list[RunState]) -> list[tuple[str, str | None]]:
    return [(run.state, run.reason) for run in refine(runs)]


def test_waiting_runs_are_told_apart_in_one_call(tmp_path: Path, program: Program) -> None:
    program.answers("12_0|PENDING|Resources\\n12_1|RUNNING|None\\n 34|CONFIGURING|None\\n12_2|PENDING|BeginTime\\n")
    runs = [run(tmp_path / name, job) for name, job in (("a", "12_0"), ("b", "12_1"), ("c", "34"), ("d", "12_3"))]
    runs += [run(tmp_path / "e", "12_2", "preempted"), run(tmp_path / "f", "12_4", "preempted")]
    assert told(runs) == [
        ("pending", "Resources"),
        ("running", "starting"),
        ("running", "starting"),
        ("lost", "SLURM has no job 12_3 any more"),
        ("pending", "BeginTime"),  # put back into the queue
        ("preempted", None),
    ]
    assert program.called.read_text().splitlines() == ["--noheader --array --format=%i|%T|%r --jobs=12,34"]


def test_a_requeued_job_is_not_lost(tmp_path: Path, program: Program) -> None:
    program.answers("12_0|PENDING|BeginTime\\n")
    assert told([run(tmp_path / "a", "12_0", "lost")]) == [("pending", "BeginTime")]


def test_a_run_that_ended_meanwhile_is_not_lost(tmp_path: Path, program: Program) -> None:
    program.answers("")
    before = run(tmp_path / "a", "12_0")
    made_up(tmp_path / "a", "failed", 9, "why")
    assert told([before]) == [("failed", "why")]


def test_others_are_not_asked_about(tmp_path: Path, program: Program) -> None:
    program.answers("")
    local = read_run(made_up(tmp_path / "a", "preempted", job={"launcher": "local", "job_id": "12"}))
    runs = [local, run(tmp_path / "b", "12_0", "done"), run(tmp_path / "c", "12_1", "failed")]
    assert refine(runs) == runs
    assert not program.called.exists()


def test_jobs_that_slurm_has_forgotten_are_in_no_queue(program: Program) -> None:
    program.answers("", "slurm_load_jobs error: Invalid job id specified", 1)
    assert squeue(["12_0"]) == {}


@pytest.mark.parametrize("how", ["absent", "fails", "hangs"])
def test_a_silent_squeue_changes_nothing(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    runs = [run(tmp_path / "a", "12_0"), run(tmp_path / "b", "12_1", "lost")]
    if how == "absent":
        monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    elif how == "fails":
        program.answers("", "Unable to contact slurm controller", 1)
    else:
        program.path.write_text("#!/bin/sh\nexec sleep 60\n")
        program.path.chmod(0o755)
        monkeypatch.setattr("rlhf.launch.queue.TIMEOUT", 0.3)
    assert refine(runs) == runs
