"""A sweep on this machine's GPUs or cores: so many runs at a time, each a process with its own log.

The runs are started by a background process (starter.py); here it is put to work, followed, and asked to stop.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from rlhf.errors import Preempted
from rlhf.launch.overview import overview
from rlhf.launch.queue import refine
from rlhf.launch.starter import cores, slots, visible_gpus, write_job
from rlhf.launch.sweep import ENDED, SweepError, SweepLauncher, state
from rlhf.launch.watch import watch
from rlhf.process.signals import StopSignals
from rlhf.storage.runs import RunState, read_run

WATCH_SECONDS = 1.0


class LocalLauncher(SweepLauncher):
    """`hydra/launcher=local`; its keys are those of conf/hydra/launcher/local.yaml."""

    name = "local"
    starter: subprocess.Popen[str] | None = None

    def check(self) -> None:
        slots(self.settings, visible_gpus(), cores())

    def processes(self) -> int:
        return int(self.settings["gpus_per_run"])

    def submit(self, sweep: Path, runs: list[Path]) -> None:
        """Start the process that starts the runs; it begins once it is told which, and their job.json names it."""
        command = [sys.executable, "-m", "rlhf.launch.starter", str(sweep)]
        with (sweep / "launcher.log").open("a") as log:
            self.starter = subprocess.Popen(
                command,
                cwd=self.directory,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        for run in runs:
            write_job(run, self.starter.pid)
        assert self.starter.stdin is not None
        try:
            with self.starter.stdin as told:
                json.dump([str(run) for run in runs], told)
        except BrokenPipeError as error:
            raise SweepError(f"the process that starts the runs has ended; see {sweep / 'launcher.log'}") from error

    def lost(self, runs: list[Path]) -> dict[Path, tuple[str, str]]:
        found = read(runs)
        left = {run.path: ("preempted", run.reason or "") for run in found if run.state == "preempted"}
        return left | {run.path: ("failed", f"lost: {run.reason}") for run in found if run.state == "lost"}

    def cancelling(self, sweep: Path, runs: list[Path]) -> str:
        return f"python -m rlhf.status --cancel {sweep}"

    def _follow(self, sweep: Path, runs: list[Path]) -> None:
        console = Console(highlight=False)
        with StopSignals().handled():
            try:
                found = watch(lambda: read(runs), WATCH_SECONDS, console)
            except (KeyboardInterrupt, Preempted):
                if self.starter is None:  # it is another launcher's sweep, and stays so
                    self._tell(sweep, runs)
                else:
                    tell_to_stop(self.starter, console)
                raise
        if console.is_terminal:
            console.print(overview(found, time.time(), console.width), crop=False)
        self._settle([run for run in runs if state(run) not in ENDED])


def tell_to_stop(starter: subprocess.Popen[str], console: Console) -> None:
    """Have the runs save and end, and wait for it; asked again meanwhile, end them at once."""
    console.print("stopping: the runs save and end; Ctrl-C again kills them", soft_wrap=True)
    while starter.poll() is None:
        try:
            starter.terminate()
            starter.wait()
        except (KeyboardInterrupt, Preempted):
            console.print("killing them", soft_wrap=True)
    console.print("stopped; the same command goes on from there", soft_wrap=True)


def read(runs: list[Path]) -> list[RunState]:
    return refine([read_run(run) for run in runs])
