"""SLURM's queue, as squeue shows it, and other commands of SLURM's. No accounting database is asked."""

import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence

WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "SUSPENDED")
OVER = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"),
)
"""SLURM's states of jobs that wait, and of jobs that will not run again."""

JOB_ID = re.compile(r"[0-9]+(_[0-9]+)?")

TIMEOUT = 5.0
"""Seconds that a command of SLURM may take."""

Queue = dict[str, tuple[str, str]]
"""Job ids, of arrays with the element (123_4), to SLURM's state and reason."""


def queue_of(jobs: Iterable[str], told: str = "%r") -> Queue | None:
    """The queue's entries on these jobs' arrays, recently ended ones too; None where squeue gives no answer.

    `told` is squeue's letter for what stands beside the state: the reason, or with %o the script.
    """
    arrays = sorted({base(job) for job in jobs if JOB_ID.fullmatch(job)})
    if not arrays:
        return {}
    command = [
        "squeue",
        "--noheader",
        "--array",
        "--states=all",
        f"--format=%i|%T|{told}",
        f"--jobs={','.join(arrays)}",
    ]
    answer = ask(command)
    if answer is None:
        return None
    if answer.returncode != 0:  # what SLURM says of a job that ended long ago
        return {} if "Invalid job id" in answer.stderr else None
    rows = [line.strip().split("|", 2) for line in answer.stdout.splitlines()]
    found = {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}
    if found:
        return found
    each = [queue_of([array], told) for array in arrays] if len(arrays) > 1 else [None]
    return None if None in each else {}  # an empty answer is none; of a single job that it does not know squeue says so


def ask(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    """A command of SLURM's; None where there is none, or it gives no answer in time."""
    if shutil.which(command[0]) is None:
        return None
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def base(job_id: str) -> str:
    """The id of an array, without the element's number."""
    return job_id.partition("_")[0]
