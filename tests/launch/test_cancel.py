"""Stopping runs: the right process, and no other; what is set down, and what is said."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from rlhf.launch.cancel import cancel
from rlhf.launch.job import worker, write_local_job
from rlhf.launch.launchers import read_runs
from rlhf.process.identity import identity
from rlhf.storage.lease import lease_holder
from rlhf.storage.rundir import RunDirectory
from rlhf.storage.runs import read_run
from tests.launch.processes import fake_run, told_starter, until
from tests.made_up import made_up


def cancelled(*paths: Path, patience: float = 20.0) -> list[str]:
    return list(cancel(read_runs(paths), patience))


def marker(pid: int, host: str) -> str:
    return f"filelock/2\npid={pid}\nhost={host}\nmode=lease\n"


def test_a_run_without_a_launcher_is_stopped_by_its_lease(tmp_path: Path) -> None:
    process = fake_run(tmp_path / "long")
    held = lease_holder(tmp_path / "long")
    assert held is not None
    assert held.pid == process.pid
    assert cancelled(tmp_path / "long") == [f"cancelled at step 2: {tmp_path / 'long'}"]
    assert process.wait(10) == 143
    status = RunDirectory(tmp_path / "long").status
    assert (status["state"], status["step"]) == ("cancelled", 2)


def test_a_run_that_keeps_on_saving_is_left_to_it(tmp_path: Path) -> None:
    process = fake_run(tmp_path / "deaf")
    (line,) = cancelled(tmp_path / "deaf", patience=1.0)
    assert line.startswith("asked to stop, and still saving")
    assert read_run(tmp_path / "deaf").state == "running"
    process.kill()
    process.wait()


def test_a_local_sweep_is_cancelled_whole(tmp_path: Path) -> None:
    starter = told_starter(tmp_path, ["a=long", "b=long"], parallel=1)
    until(lambda: read_run(tmp_path / "a=long").state == "running")
    lines = cancelled(tmp_path / "a=long", tmp_path / "b=long")
    assert lines == [f"cancelled before it began: {tmp_path / 'b=long'}", f"cancelled at step 2: {tmp_path / 'a=long'}"]
    assert starter.wait(30) == 0
    assert [read_run(tmp_path / name).state for name in ("a=long", "b=long")] == ["cancelled"] * 2


def test_a_process_that_is_still_starting_is_stopped_too(tmp_path: Path) -> None:
    process = subprocess.Popen(["sleep", "60"])
    write_local_job(made_up(tmp_path / "run", "pending"), process.pid, slot=0)
    assert cancelled(tmp_path / "run") == [f"cancelled at step 0: {tmp_path / 'run'}"]
    assert process.wait(10) == -signal.SIGTERM


def test_a_number_alone_is_never_signalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signalled: list[int] = []
    monkeypatch.setattr(psutil.Process, "send_signal", lambda process, number: signalled.append(process.pid))
    reused = {"launcher": "local", **identity(os.getpid()), "started": 5.0, "log": "x", "slot": 0, "time": 2000.0}
    path = made_up(tmp_path / "run", job=reused, alive=True)
    for text in ("", "torn", marker(os.getpid(), "node17"), marker(2**22 + 1, os.uname().nodename)):
        (path / ".lock").write_text(text)
        (line,) = cancelled(path)
        assert line.startswith(f"not cancelled: {path}: no process of it is found on ")
    assert signalled == []
    assert read_run(path).state == "running"


def test_a_lease_last_touched_before_the_process_began_is_not_its_own(tmp_path: Path) -> None:
    path = made_up(tmp_path / "run", alive=True)
    (path / ".lock").write_text(marker(os.getpid(), os.uname().nodename))
    assert worker(read_run(path)) is not None
    before = psutil.Process().create_time() - 10
    os.utime(path / ".lock", (before, before))
    assert worker(read_run(path)) is None


def test_what_has_ended_is_left_as_it_is(tmp_path: Path) -> None:
    for state in ("failed", "preempted", "cancelled"):
        path = made_up(tmp_path / state, state, 3, "why")
        before = (path / "status.json").read_text()
        assert cancelled(path) == []
        assert (path / "status.json").read_text() == before


@pytest.fixture
def scancel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scancel that notes what it is asked, and where."""
    program, asked = tmp_path / "bin" / "scancel", tmp_path / "asked"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return asked


def slurm_run(path: Path, job_id: str, state: str = "pending", alive: bool = False) -> Path:
    job = {"launcher": "slurm", "job_id": job_id, "log": "x"}
    return made_up(path, state, 2 if alive else None, time=time.time(), job=job, alive=alive)


def test_slurms_jobs_are_cancelled_in_one_call(tmp_path: Path, scancel: Path) -> None:
    waiting = slurm_run(tmp_path / "a", "12_0")
    running = slurm_run(tmp_path / "b", "12_1", "running", alive=True)
    told = cancel([read_run(waiting), read_run(running)], 20.0)
    assert next(told) == f"cancelled before it began: {waiting}"
    (running / ".lock").unlink()  # as the run ends
    RunDirectory(running).set_status("preempted", 5)
    assert list(told) == [f"cancelled at step 5: {running}"]
    assert scancel.read_text() == "12_0 12_1\n"
    assert [read_run(path).state for path in (waiting, running)] == ["cancelled"] * 2


def test_without_scancel_nothing_is_set_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = slurm_run(tmp_path / "a", "12_0")
    (line,) = cancelled(path)
    assert line.startswith(f"not cancelled: {path}: scancel is not here")
    assert line.endswith("scancel 12_0")
    assert read_run(path).state == "pending"
