"""Stop runs wherever they are: by scancel where SLURM has them, by a signal on this machine.

No process is signalled for its number alone: it must have touched the run's lease, or be what a launcher has started.
"""

import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from rlhf.launch.queue import ask
from rlhf.process.identity import find
from rlhf.storage.rundir import RunDirectory
from rlhf.storage.runs import LEFT_TO_DO, RunState, holds_lease, read_run

PATIENCE = 60.0
"""Seconds that stopped runs have to save and end in, while `cancel` waits."""

POLL_SECONDS = 0.2


def cancel(runs: Sequence[RunState], patience: float = PATIENCE) -> Iterator[str]:
    """Stop those that run or wait, and set them down as cancelled; yields what was done, a line per run.

    A run that is still saving when patience ends is left to it, and will stand as preempted.
    """
    active = [run for run in runs if run.state in LEFT_TO_DO]
    refused = scancel([run for run in active if run.job.get("launcher") == "slurm"])
    stopping: list[RunState] = []
    for run in active:
        if refused and run.job.get("launcher") == "slurm":
            yield f"not cancelled: {run.path}: {refused}"
        elif not has_begun(run):  # a local launcher passes over it from now on
            mark(run)
            yield f"cancelled before it began: {run.path}"
        elif run.job.get("launcher") == "slurm" or stop(run.path, run.job):
            stopping.append(run)
        else:
            yield f"not cancelled: {run.path}: no process of it is found on {socket.gethostname()}"
    yield from _ended(stopping, time.monotonic() + patience)


def has_begun(run: RunState) -> bool:
    """Whether there may be a process: one that still imports what it needs stands as pending, with its place."""
    return run.state == "running" or "slot" in run.job


def _ended(stopping: list[RunState], deadline: float) -> Iterator[str]:
    while stopping and time.monotonic() < deadline:
        for run in list(stopping):
            now = read_run(run.path)
            if holds_lease(run.path) or worker(run.path, now.job):
                continue
            stopping.remove(run)
            if now.state in ("done", "failed"):
                yield f"{now.state} before it could be cancelled: {run.path}"
            else:
                mark(now)
                yield f"cancelled at step {now.step or 0}: {run.path}"
        time.sleep(POLL_SECONDS)
    for run in stopping:
        yield f"asked to stop, and still saving; it will stand as preempted: {run.path}"


def mark(run: RunState) -> None:
    RunDirectory(run.path).set_status("cancelled", run.step, "cancelled by python -m rlhf.status --cancel")


def scancel(runs: Sequence[RunState]) -> str | None:
    """Ask SLURM to cancel the jobs of these runs; returns what went wrong."""
    if not runs:
        return None
    command = ["scancel", *(str(run.job["job_id"]) for run in runs)]
    answer = ask(command)
    if answer is None:
        return f"scancel is not here, or gives no answer; where it is: {subprocess.list2cmdline(command)}"
    return answer.stderr.strip() or "scancel failed" if answer.returncode != 0 else None


def stop(run: Path, job: Mapping[str, Any]) -> bool:
    """Ask a run's process here to save and end; false where there is none."""
    process = worker(run, job)
    if process is None:
        return False
    try:
        process.send_signal(signal.SIGTERM)
    except psutil.NoSuchProcess:  # it has just ended by itself
        return True
    return True


def worker(run: Path, job: Mapping[str, Any]) -> psutil.Process | None:
    """The process that does a run's work here: the one that holds its lease, else the one that a launcher has started.

    Of several that share a run, the first holds the lease, and tells the others.
    """
    return lease_holder(run) or (find(job) if "slot" in job else None)


def lease_holder(run: Path) -> psutil.Process | None:
    """The process of this machine that holds a run's lease: it lived already when the lease was last touched."""
    try:
        text, touched = (run / ".lock").read_text(), (run / ".lock").stat().st_mtime
        marker = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        if marker["host"].partition("?")[0] != socket.gethostname():
            return None
        process = psutil.Process(int(marker["pid"]))
        lives = process.create_time() <= touched and process.status() != psutil.STATUS_ZOMBIE
        return process if lives else None
    except (OSError, KeyError, ValueError, psutil.Error):
        return None
