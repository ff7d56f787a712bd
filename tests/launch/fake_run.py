"""A run without training: `python -m tests.launch.fake_run RUN` does to its directory what a run does.

The directory's name says how it goes: `quick` is done at once, `long` goes on until it is stopped, `bad` fails with a
reason, `mute` ends without one, `deaf` ignores SIGTERM.
"""

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from filelock import SoftFileLease

from rlhf.errors import Preempted
from rlhf.storage.files import write_json
from rlhf.storage.rundir import LEASE_SECONDS, RunDirectory


def receive(number: int, frame: FrameType | None) -> None:
    raise Preempted("SIGTERM")


def go(directory: RunDirectory) -> None:
    name = directory.path.name
    if "mute" in name:
        sys.exit("Segmentation fault, as it were")
    if "bad" in name:
        raise ValueError("out of luck")
    if "quick" not in name:
        time.sleep(60)
    seen = {key: os.environ.get(key) for key in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "SLURM_JOB_ID")}
    write_json(directory.path / "metrics.json", {"win_rate_greedy": 60.0, "win_rate_greedy_se": 1.0} | seen)
    directory.set_status("done", 3)


def main() -> None:
    directory = RunDirectory(Path(sys.argv[1]))
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in directory.path.name else receive)
    with SoftFileLease(directory.path / ".lock", lease_duration=LEASE_SECONDS):
        directory.set_status("running", 2)
        print("at work", flush=True)
        try:
            go(directory)
        except ValueError as error:
            directory.set_status("failed", 2, str(error))
            raise
        except Preempted as stop:
            directory.set_status("preempted", 2, str(stop))
            raise


if __name__ == "__main__":
    main()
