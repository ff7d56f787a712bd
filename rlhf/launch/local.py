"""A sweep on this machine's GPUs or cores: so many runs at a time, each with its own log.

The runs are started by a background process (starter.py); here it is put to work, followed, and asked to stop.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rlhf.console import console
from rlhf.errors import Preempted
from rlhf.launch.job import begun, stop, write_local_job
from rlhf.launch.slots import cores, slots, visible_gpus
from rlhf.launch.sweep import SweepError, SweepLauncher
from rlhf.process.identity import has_ended
from rlhf.storage.runs import GONE, RunState, lost


class LocalLauncher(SweepLauncher):
    """`hydra/launcher=local`; its keys are those of conf/hydra/launcher/local.yaml."""

    name = "local"
    poll_seconds = 1.0
    starter: subprocess.Popen[str] | None = None

    def check(self) -> None:
        slots(self.settings, visible_gpus(), cores())

    def processes(self) -> int:
        return int(self.settings["gpus_per_run"])

    def submit(self, sweep: Path, runs: list[Path]) -> None:
        """Start the process that starts the runs; it begins when it has read them from stdin. job.json names it."""
        command = [sys.executable, "-m", "rlhf.launch.starter", str(sweep)]
        with (sweep / "launcher.log").open("ab") as log:
            self.starter = subprocess.Popen(
                command,
                cwd=self.directory,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                encoding="utf-8",
                start_new_session=True,
            )
        for run in runs:
            write_local_job(run, self.starter.pid)
        assert self.starter.stdin is not None
        try:
            with self.starter.stdin as stdin:
                json.dump([[str(run) for run in runs], self.settings], stdin)
        except BrokenPipeError as error:
            raise SweepError(f"the process that starts the runs has ended; see {sweep / 'launcher.log'}") from error

    def interrupted(self, sweep: Path, runs: list[Path]) -> None:
        """Have the runs save and end, and wait for it; asked again meanwhile, end them at once."""
        if self.starter is None:  # it is another launcher's sweep, and stays so
            super().interrupted(sweep, runs)
            return
        console.print("stopping: the runs save and end; Ctrl-C again kills them")
        while self.starter.poll() is None:
            try:
                self.starter.terminate()
                self.starter.wait()
            except (KeyboardInterrupt, Preempted):
                console.print("killing them")
        console.print("stopped; the same command goes on from there")

    @staticmethod
    def refine(runs: Sequence[RunState], again: bool = False) -> list[RunState]:
        return [lost(run, GONE) if run.state == "pending" and run.job and has_ended(run.job) else run for run in runs]

    @staticmethod
    def stop(runs: Sequence[RunState]) -> dict[Path, str]:
        reason = f"no process of it is found on {socket.gethostname()}"
        return {run.path: reason for run in runs if begun(run) and not stop(run)}
