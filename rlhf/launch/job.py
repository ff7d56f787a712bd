"""job.json, which names the launcher that has a run, and the process on this machine that does its work.

No process is signalled for its number alone: it must hold the run's lease open, or its log.
"""

import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from rlhf.process.identity import find, identity, writes_to
from rlhf.storage.files import write_json
from rlhf.storage.lease import lease_holder
from rlhf.storage.runs import RunState

JOB_FILE = "job.json"
LOG = "output.log"
"""In the directory of a run on this machine; each attempt is appended."""


def write_job(run: Path, launcher: str, log: str, **place: Any) -> None:
    """Write a run's job.json: the launcher's name, the log within the sweep's directory, where the run is."""
    write_json(run / JOB_FILE, {"launcher": launcher, **place, "log": log, "time": round(time.time(), 3)})


def write_local_job(run: Path, pid: int, **slot: Any) -> None:
    """The process that will start a run here or, where its `slot` is given, the one that does its work."""
    write_job(run, "local", f"{run.name}/{LOG}", **identity(pid), **slot)


def begun(run: RunState) -> bool:
    """Whether there may be a process at work: one that has not taken the lease yet stands as pending, with its slot."""
    return run.state == "running" or _starting(run)


def worker(run: RunState) -> psutil.Process | None:
    """The process at work on a run here: the holder of its lease or, before there is one, that of job.json.

    A process that serves several runs is no longer a run's when that has ended, though its job.json still names it.
    """
    starting = find(run.job) if _starting(run) else None
    own = starting if starting is not None and writes_to(starting, run.path / LOG) else None
    return lease_holder(run.path) or own


def _starting(run: RunState) -> bool:
    """Whether job.json was written since the run was last taken on."""
    written = run.job.get("time")
    told = isinstance(written, int | float) and written >= (run.time or 0.0)
    return told and run.state == "pending" and "slot" in run.job


def stop(run: RunState) -> bool:
    """Ask a run's process here to save and end; false where there is none."""
    process = worker(run)
    if process is not None:
        with suppress(psutil.NoSuchProcess):  # it has just ended by itself
            process.send_signal(signal.SIGTERM)
    return process is not None
