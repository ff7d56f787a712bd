"""A run inside a SLURM job: its task as torch's rank, and requeueing the job."""

import logging
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, MutableMapping

log = logging.getLogger(__name__)

FIRST_PORT, PORTS = 12000, 20000
"""Where a job's tasks meet, below the ports that systems hand out; a job's own port follows from its id."""

PATIENCE, RETRY_SECONDS, ANSWER_SECONDS = 60.0, 5.0, 20.0
"""How long SLURM is asked to put a job back, how often, and for how long each time: it may be away for a minute."""


SHARED = "RLHF_SHARED_JOB"
"""Set for runs that share a job: what serves them queues it again, once all of them have saved."""

GPU_SHARE = "RLHF_GPU_SHARE"
"""Which part of a GPU's memory is a process's, where several use it."""


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


def requeue() -> tuple[str, str]:
    """Put this process's SLURM job back into the queue, unless it is being cancelled.

    Returns what has become of it, one of `none` (this is no SLURM job), `queued`, `cancelled` and `left`, and for the
    last why it could not be put back: scontrol is not here, as in a container, or SLURM has not answered in a minute.

    A job that is cancelled is COMPLETING by the time that its processes get the signal, and so is one that is preempted
    by being cancelled (PreemptMode=CANCEL), which has a time of preemption, or that SLURM itself puts back after its
    node has failed, which has more restarts than this process knows of.
    """
    if "SLURM_JOB_ID" not in os.environ:
        return "none", ""
    job, problem = own_job(os.environ), "scontrol is not on this machine's PATH"
    deadline = time.monotonic() + PATIENCE
    while shutil.which("scontrol"):
        shown = _scontrol("show", "job", job)
        if shown.returncode == 0:
            state = _state(shown.stdout, int(os.environ.get("SLURM_RESTART_COUNT", "0")))
            if state != "runs":
                return state, ""
            shown = _scontrol("requeue", job)
            if shown.returncode == 0:
                log.info(f"SLURM job {job}: back in the queue")
                return "queued", ""
        problem = shown.stderr.strip() or f"scontrol ended with status {shown.returncode}"
        if time.monotonic() > deadline:
            break
        time.sleep(RETRY_SECONDS)
    log.info(f"SLURM job {job} could not be put back into the queue: {problem}")
    return "left", problem


def own_job(environ: Mapping[str, str]) -> str:
    """The id of this process's job, as 123_4 in an array: an array's own id is also its last job's, and names them all.

    What is asked for by that id happens to every job of the array, also to those that are done.
    """
    array = environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{environ['SLURM_ARRAY_TASK_ID']}" if array else environ["SLURM_JOB_ID"]


def _state(shown: str, restarts: int) -> str:
    """By `scontrol show job`: `queued` already, `cancelled`, or it `runs` as far as putting it back is concerned."""
    fields = dict(word.split("=", 1) for word in shown.split() if "=" in word)
    if int(fields.get("Restarts", "0")) > restarts or fields.get("JobState") == "PENDING":
        return "queued"
    preempted = fields.get("PreemptTime", "None")
    if fields.get("JobState") == "RUNNING" or (preempted != "None" and preempted >= fields.get("StartTime", "")):
        return "runs"
    return "cancelled"


def _scontrol(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["scontrol", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
