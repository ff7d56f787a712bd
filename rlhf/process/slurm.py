"""A run inside a SLURM job: its task as torch's rank, its exec from submitit's task, and requeueing the job."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import MutableMapping
from typing import NoReturn

from rlhf.process.signals import block_until_handled

log = logging.getLogger(__name__)

FIRST_PORT, PORTS = 12000, 20000
"""Where a job's tasks meet, below the ports that systems hand out; a job's own port follows from its id."""


def name_task(environ: MutableMapping[str, str]) -> None:
    """Say in torch's terms which of a SLURM step's tasks this is, unless it has been said.

    Without this, each of them would take itself for the only one.
    """
    tasks = environ.get("SLURM_STEP_NUM_TASKS", "1")
    if "RANK" in environ or tasks == "1":
        return

    from submitit.slurm.slurm import SlurmJobEnvironment  # only here: importing it takes a while

    environ["RANK"], environ["WORLD_SIZE"] = environ["SLURM_PROCID"], tasks
    environ["LOCAL_RANK"] = environ["SLURM_LOCALID"]
    environ["MASTER_ADDR"] = SlurmJobEnvironment().hostnames[0]
    environ["MASTER_PORT"] = str(FIRST_PORT + int(environ["SLURM_JOB_ID"]) % PORTS)


def is_main_task() -> bool:
    """Name this process's task, and return whether it is the one of its run that writes and prints."""
    name_task(os.environ)
    return os.environ.get("RANK", "0") == "0"


def become(module: str, run: str) -> NoReturn:
    """Turn this process, a SLURM task, into `python -m MODULE RUN`.

    The run then has the task's process id, so SLURM's signals reach it and its exit status is the task's; the signal
    handlers that submitit has set are gone, for a new program starts with none.
    """
    block_until_handled()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-u", "-m", module, run])


def requeue() -> str | None:
    """Put this process's SLURM job back into the queue, unless it is being cancelled; returns the state it was in.

    A job that is cancelled is COMPLETING or CANCELLED by the time that its processes get the signal, and so is one that
    SLURM itself puts back after its node has failed: REQUEUED is returned for that, seen by its restarts. One that is
    preempted, or near its time limit, is RUNNING. None where this is no SLURM job.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return None
    shown = _scontrol("show", "job", job).stdout
    restarts = re.search(r"Restarts=(\d+)", shown)
    if restarts and int(restarts[1]) > int(os.environ.get("SLURM_RESTART_COUNT", "0")):
        return "REQUEUED"
    found = re.search(r"JobState=(\w+)", shown)
    state = found[1] if found else "UNKNOWN"
    if state == "RUNNING":
        asked = _scontrol("requeue", job)
        log.info(f"SLURM job {job}: " + (asked.stderr.strip() or "back in the queue"))
    return state


def _scontrol(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["scontrol", *arguments], capture_output=True, text=True, check=False)
