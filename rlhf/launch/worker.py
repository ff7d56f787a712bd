"""A process that does one run after another, so that they share what is imported and loaded.

It reads a line of JSON per run from stdin: the run's directory and slot, an empty one within a SLURM job. It writes a
line with the run's exit status to stdout once the run has ended. The run's own output goes to its own log.
"""

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rlhf.launch.job import LOG, write_local_job
from rlhf.process.signals import awaited, ignore
from rlhf.storage.rundir import RunDirectory

TO_DO = ("pending", "preempted", "running")
"""States of runs that a job goes on with; of one that is said to run, the lease decides whether it does."""


def serve(do: Callable[[Path], object]) -> None:
    """Do the runs that stdin names, until it is closed; an error that is not the user's ends this process.

    Signals that ask a run to stop are ignored between two runs.
    """
    asked, answers = os.fdopen(os.dup(0)), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    ignore()
    for line in asked:
        path, slot = json.loads(line)
        run, status = Path(path), 0
        with awaited():  # from here on job.json names this process, which may be signalled
            with (run / LOG).open("ab") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            if slot:
                write_local_job(run, os.getpid(), **slot)
            startable = ("pending",) if slot else TO_DO  # else it was cancelled, or somebody has started it by hand
            if RunDirectory(run).state in startable:
                status = exit_status(do, run)
        with suppress(BrokenPipeError):  # the starter is gone, and stdin at its end
            os.write(answers, f"{status}\n".encode())


def exit_status(do: Callable[[Path], object], run: Path) -> int:
    """Do a run; returns what a process of its own would end with."""
    try:
        do(run)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
