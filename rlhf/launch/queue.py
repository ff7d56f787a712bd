"""What SLURM knows of jobs, asked for by their ids, whoever has submitted them; no accounting database is needed.

No answer is no news: a job counts as forgotten only where its own cluster says so, to somebody whom it shows that job.
"""

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT", "SUSPENDED")
OF_A_NODE = ("BOOT_FAIL", "LAUNCH_FAILED", "NODE_FAIL", "RECONFIG_FAIL")
OVER = (
    *(*OF_A_NODE, "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "TIMEOUT"),
)
"""SLURM's states of jobs that wait; that have ended by a node's fault; and all that will not run again."""

JOB_ID = re.compile(r"[0-9]+(_[0-9]+)?")

TIMEOUT = 5.0
"""Seconds that a command of SLURM may take."""

MAX_ARRAY_SIZE = 1001
"""SLURM's own, where scontrol does not say."""

FORMAT = "--format=%i|%T|%N|%k|%r|%o"


class Entry(NamedTuple):
    """A job in the queue: SLURM's state, its nodes, and the comment, the reason and the script that are shown of it."""

    state: str
    nodes: str = ""
    comment: str = ""
    reason: str = ""
    script: str = ""

    @property
    def waits(self) -> bool:
        return self.state in WAITING

    @property
    def over(self) -> bool:
        return self.state in OVER


Queue = dict[str, Entry | None]
"""Job ids, of arrays with the element (123_4), to their entries; None: SLURM has forgotten the job for good.

Of a job that is not in it nothing is known.
"""

Job = Mapping[str, Any]
"""What job.json has of one: its `job_id`, its `user` and its `cluster`."""


class Site(NamedTuple):
    """The cluster of this machine, whether it shows everybody's jobs to everybody, and how long its arrays may be."""

    cluster: str
    shows_all: bool
    max_array_size: int


def me() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def site() -> Site | None:
    """None where scontrol gives no answer."""
    try:
        return _site(os.environ.get("SLURM_CONF"), os.environ.get("PATH"))
    except LookupError:
        return None


@cache
def _site(configuration: str | None, path: str | None) -> Site:
    answer = ask(["scontrol", "show", "config"])
    names = "ClusterName|PrivateData|MaxArraySize"
    found = dict(re.findall(rf"^({names})\s*=\s*(\S+)", answer.stdout if answer else "", re.M))
    size = max(1, int(found.get("MaxArraySize", MAX_ARRAY_SIZE)))
    return Site(found["ClusterName"], "jobs" not in found.get("PrivateData", ""), size)


def sees(job: Job, here: Site | None) -> bool:
    """Whether a job that is of this cluster, and is still known to it, would be shown to this account."""
    if here is None or job.get("cluster", here.cluster) != here.cluster:
        return False
    return here.shows_all or job.get("user", me()) == me()


def queue_of(jobs: Iterable[Job]) -> Queue:
    """The queue's entries on these jobs, recently ended ones too; one call per cluster."""
    clusters: dict[str | None, list[Job]] = {}
    for job in jobs:
        if JOB_ID.fullmatch(str(job.get("job_id", ""))):
            clusters.setdefault(job.get("cluster"), []).append(job)
    queue: Queue = {}
    for cluster, own in clusters.items():
        queue |= _ask_for(cluster, own)
    return queue


_forgotten: set[tuple[str | None, str]] = set()
"""Arrays that SLURM will not remember again: they are asked for once."""


def _ask_for(cluster: str | None, jobs: list[Job]) -> Queue:
    left = [job for job in jobs if (cluster, base(job["job_id"])) not in _forgotten]
    forgotten = [job["job_id"] for job in jobs if job not in left]
    if not left:
        return dict.fromkeys(forgotten)
    here, arrays = site(), sorted({base(job["job_id"]) for job in left})
    elsewhere = [f"--clusters={cluster}"] if cluster and here and cluster != here.cluster else []
    rows, unknown = _rows([*elsewhere, f"--jobs={','.join(arrays)}"])
    if rows == {} and len(arrays) > 1:  # it passes over what it does not know; of a single job it says so
        unknown = _rows([*elsewhere, f"--jobs={arrays[0]}"])[1]
    found = rows or {}
    missing = [job["job_id"] for job in left if job["job_id"] not in found and sees(job, here)]
    gone = missing if found or unknown else []  # an empty answer is none
    _forgotten.update((cluster, base(job)) for job in gone if base(job) not in set(map(base, found)))
    return found | dict.fromkeys([*forgotten, *gone])


def _rows(arguments: list[str]) -> tuple[dict[str, Entry] | None, bool]:
    """Jobs by id, None where squeue has not said; and whether it says that it knows no such job."""
    answer = ask(["squeue", "--noheader", "--array", "--states=all", FORMAT, *arguments])
    if answer is None or answer.returncode != 0:
        return None, answer is not None and "Invalid job id" in answer.stderr
    rows = [line.strip().split("|", 5) for line in answer.stdout.splitlines()]
    found = {row[0]: Entry(*row[1:]) for row in rows if len(row) == 6}
    return {job: entry._replace(reason="") if entry.reason == "None" else entry for job, entry in found.items()}, False


def by_comment(user: str) -> dict[str, str] | None:
    """The arrays of an account by the comments that they were submitted with; None where squeue has not said."""
    rows, _ = _rows([f"--user={user}"])
    return None if rows is None else {entry.comment: base(job) for job, entry in rows.items()}


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
