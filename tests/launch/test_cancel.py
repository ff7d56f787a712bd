"""Stopping runs: the right process, and no other; what is set down, and what is said."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from rlhf.launch.cancel import cancel
from rlhf.launch.job import LOG, worker, write_local_job
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
    path = made_up(tmp_path / "run", "pending")
    with sleeping(path / LOG) as process:
        write_local_job(path, process.pid, slot=0)
        assert cancelled(path) == [f"cancelled at step 0: {path}"]
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


@contextmanager
def sleeping(output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of Python that writes to a file, and nothing else of this project's."""
    with output.open("ab") as file:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_process_that_files_name_but_that_is_not_at_work_there_is_never_signalled(tmp_path: Path) -> None:
    """Neither by a lease that names it, nor by a job.json that knows its very start."""
    held, started = made_up(tmp_path / "held", alive=True), made_up(tmp_path / "started", "pending")
    with sleeping(tmp_path / "elsewhere") as process:
        (held / ".lock").write_text(marker(process.pid, os.uname().nodename))
        write_local_job(held, process.pid, slot=0)
        write_local_job(started, process.pid, slot=0)
        assert [line.partition(":")[0] for line in cancelled(held, started)] == ["not cancelled"] * 2
        assert process.poll() is None
        for text in (f"{10**30}", "1e9", "-1", "None"):
            (held / ".lock").write_text(marker(0, os.uname().nodename).replace("pid=0", f"pid={text}"))
            assert worker(read_run(held)) is None


def test_what_has_ended_is_left_as_it_is(tmp_path: Path) -> None:
    for state in ("failed", "preempted", "cancelled"):
        path = made_up(tmp_path / state, state, 3, "why")
        before = (path / "status.json").read_text()
        assert cancelled(path) == []
        assert (path / "status.json").read_text() == before


@pytest.fixture
def scancel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scancel that notes what it is asked; a squeue with two jobs of a sweep in `tmp_path`, and somebody else's."""
    asked, folder = tmp_path / "asked", tmp_path / "bin"
    own, other = tmp_path / "slurm" / "submission.sh", tmp_path / "other" / "slurm" / "submission.sh"
    jobs = "".join(
        f"{job}|RUNNING|node1||None|{script}\n" for job, script in (("12_0", own), ("12_1", own), ("13", other))
    )
    folder.mkdir()
    texts = {
        "scancel": f'echo "$@" >> {asked}',
        "squeue": f"cat <<END\n{jobs}END",
        "scontrol": "echo ClusterName = here",
    }
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
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


@pytest.mark.parametrize("job_id", ["13", "14", "--user=root", "12_0,13", "12_0 13"])
def test_a_job_that_is_not_this_sweeps_is_never_cancelled(tmp_path: Path, scancel: Path, job_id: str) -> None:
    foreign = slurm_run(tmp_path / "a", job_id)
    (line,) = cancel([read_run(foreign)], 1.0)
    assert line.startswith(f"not cancelled: {foreign}: job.json names job {job_id!r}")
    assert not scancel.exists()
    assert read_run(foreign).state == "pending"


def test_without_scancel_nothing_is_set_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = slurm_run(tmp_path / "a", "12_0")
    (line,) = cancelled(path)
    assert line.startswith(f"not cancelled: {path}: squeue is not here")
    assert read_run(path).state == "pending"
