"""A run without training: `python -m tests.launch.fake_run RUN` does to its directory what a run does.

The directory's name says how it goes: `quick` is done at once, `long` goes on until it is stopped, `bad` fails with a
reason, `refused` by the user's fault, `mute` takes its process along, `deaf` ignores SIGTERM.
"""

import os
import signal
import sys
import time
from pathlib import Path

from rlhf.console import command
from rlhf.errors import UserError
from rlhf.launch.worker import serve
from rlhf.process.signals import StopSignals
from rlhf.storage.files import write_json
from rlhf.storage.lease import take_lease
from rlhf.storage.rundir import RunDirectory


def work(directory: RunDirectory) -> None:
    name = directory.path.name
    if "mute" in name:
        print("Segmentation fault, as it were", flush=True)
        os._exit(1)
    if "bad" in name:
        raise ValueError("out of luck")
    if "refused" in name:
        raise UserError("not allowed")
    if "deaf" in name:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "quick" not in name:
        time.sleep(60)
    seen = {key: os.environ.get(key) for key in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "SLURM_JOB_ID")}
    metrics = {"win_rate_greedy": 60.0, "win_rate_greedy_se": 1.0, "process": os.getpid()}
    write_json(directory.path / "metrics.json", metrics | seen)
    directory.set_status("done", 3)


def do(path: Path) -> None:
    directory = RunDirectory(path)
    with command(), StopSignals().handled() as stop:
        stop.heed()
        directory.lease = take_lease(path)
        with directory.outcome_recorded():
            print("at work", flush=True)
            directory.set_status("running", 2)
            work(directory)


if __name__ == "__main__":
    if sys.argv[1] == "--worker":
        serve(do)
    else:
        do(Path(sys.argv[1]))
