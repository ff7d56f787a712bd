"""What SLURM's queue says of runs that have been submitted to it; where there is no SLURM, nothing."""

import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import replace

from rlhf.storage.runs import RunState, read_run

TIMEOUT = 5.0
"""Seconds that a command of SLURM may take."""

Queue = dict[str, tuple[str, str]]
"""Job ids, of arrays with the element (123_4), to SLURM's state and reason."""


def refine(runs: Sequence[RunState]) -> list[RunState]:
    """The runs, those that wait for SLURM or are lost to it told apart by one call of squeue, if it can be made."""
    asked = [run for run in runs if waits_for_slurm(run)]
    queue = squeue(str(run.job["job_id"]) for run in asked) if asked else None
    if queue is None:
        return list(runs)
    return [_refined(run, queue) if waits_for_slurm(run) else run for run in runs]


def waits_for_slurm(run: RunState) -> bool:
    known = run.job.get("launcher") == "slurm" and "job_id" in run.job
    return known and run.state in ("pending", "preempted", "lost")


def _refined(run: RunState, queue: Queue) -> RunState:
    job = str(run.job["job_id"])
    if job in queue:
        state, reason = queue[job]
        waits = state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED")
        return replace(run, state="pending" if waits else "running", reason=reason if waits else "starting")
    if run.state != "pending":
        return run
    run = read_run(run.path)  # it may have started and ended while the queue was asked for
    return replace(run, state="lost", reason=f"SLURM has no job {job} any more") if run.state == "pending" else run


def squeue(job_ids: Iterable[str]) -> Queue | None:
    """What the queue holds of these jobs; None where it can't be asked."""
    arrays = sorted({job.partition("_")[0] for job in job_ids})
    command = ["squeue", "--noheader", "--array", "--format=%i|%T|%r", f"--jobs={','.join(arrays)}"]
    answer = ask(command)
    if answer is None:
        return None
    if answer.returncode != 0:  # what SLURM says of a job that ended long ago
        return {} if "Invalid job id" in answer.stderr else None
    rows = [line.strip().split("|", 2) for line in answer.stdout.splitlines()]
    return {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}


def ask(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    """A command of SLURM's; None where there is none, or it gives no answer in time."""
    if shutil.which(command[0]) is None:
        return None
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
