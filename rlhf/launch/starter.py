"""Start a local sweep's runs, as slots come free: `python -m rlhf.launch.starter SWEEP`, in the background.

A process of its own, so that a sweep outlives the terminal it was started from. Runs outlive even this process: each
slot has a worker (worker.py), which does the sweep's runs one after another, or a group of processes for each run.
Imports no torch.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import IO, Any

from filelock import SoftFileLease, Timeout

from rlhf.launch.job import JOB_FILE, LOG, begun, stop, worker, write_local_job
from rlhf.launch.polling import rest
from rlhf.launch.prepared import stages_of
from rlhf.launch.slots import Settings, cores, environment, slots, visible_gpus
from rlhf.process.signals import ASKS
from rlhf.storage.files import LEASE_SECONDS
from rlhf.storage.lease import LEASE
from rlhf.storage.rundir import RunDirectory
from rlhf.storage.runs import read_run

POLL_SECONDS = 0.3
STOPPED = {128 + number for number in ASKS} | {-number for number in ASKS}
"""What a run ends with that was asked to stop."""

PYTHON = (sys.executable, "-m")
WORKER = (*PYTHON, "rlhf.resume", "--worker")


def command(run: Path, processes: int) -> list[str]:
    """The processes of a run that has several."""
    world = ("torch.distributed.run", "--standalone", f"--nproc-per-node={processes}")
    return [*PYTHON, *world, "-m", "rlhf.resume", str(run)]


class Place:
    """A slot with its process and the run that it has; `stopped`: the run has been asked to stop.

    `slot` goes into the run's job.json, with the process; an empty one leaves the job that job.json names.
    """

    def __init__(self, slot: dict[str, Any], processes: int, environment: dict[str, str]) -> None:
        self.slot, self.processes, self.environment = slot, processes, environment
        self.process: subprocess.Popen[bytes] | None = None
        self.run: Path | None = None
        self.since, self.stopped = 0.0, False

    def start(self, run: Path) -> None:
        self.run, self.since, self.stopped = run, time.time(), False
        if self.processes > 1:
            self.process = self._popen(command(run, self.processes), subprocess.DEVNULL, None)
            write_local_job(run, self.process.pid, **self.slot)
            return
        if not self.lives():
            self.process = self._popen(WORKER, subprocess.PIPE, subprocess.PIPE)
        assert self.process is not None
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has just died, as `status` is about to find
            self.process.stdin.write(json.dumps([str(run), self.slot]).encode() + b"\n")

    def _popen(self, command: list[str] | tuple[str, ...], stdin: int, stdout: int | None) -> subprocess.Popen[bytes]:
        assert self.run is not None
        with (self.run / LOG).open("ab") as log:
            return subprocess.Popen(
                command,
                env=self.environment,
                stdin=stdin,
                stdout=stdout or log,
                stderr=log,
                start_new_session=True,
                bufsize=0,
            )

    def lives(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def answers(self) -> IO[bytes] | None:
        """What a worker says of its runs' ends; other processes say nothing."""
        return self.process.stdout if self.process else None

    def status(self) -> int | None:
        """The exit status of the run, or of the process that has died over it; None while it goes on."""
        assert self.process is not None
        answers = self.answers
        if answers is not None and select.select([answers], [], [], 0)[0] and (line := answers.readline()):
            return int(line)
        return self.process.poll()

    def ask_to_stop(self) -> None:
        """Have the run save and end, once; one that has not begun is set down as cancelled, and passed over."""
        assert self.run is not None
        state = read_run(self.run, whole=False)
        if begun(state):
            self.stopped = self.stopped or stop(state)
        elif state.state == "pending":
            set_cancelled(self.run)

    def kill(self) -> None:
        if self.lives():
            assert self.process is not None
            os.killpg(self.process.pid, signal.SIGKILL)

    def collect(self) -> None:
        """Record the end of its run, once that has ended; the place is then free."""
        if self.run and (status := self.status()) is not None:
            set_down(self.run, self.since, status)
            self.run = None

    def dismiss(self) -> None:
        """Have an idle worker end."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()


class Starter:
    """Starts runs as slots come free, and sets down the end of those that could not do so themselves.

    SIGTERM has all of them save and end, a second one kills them.
    """

    def __init__(self, sweep: Path, runs: list[Path], settings: Settings) -> None:
        self.sweep, self.waiting = sweep, runs
        room, processes, threads = (
            slots(settings, visible_gpus(), cores()),
            settings["gpus_per_run"],
            settings["threads"],
        )
        self.places = [Place(asdict(slot), processes, environment(slot, threads)) for slot in room]
        self.asked = 0

    def work(self) -> None:
        """Until all have ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)
        while self.waiting or any(place.lives() or place.run for place in self.places):
            began = time.process_time()
            for place in self.places:
                place.collect()
            if self.asked:
                self._stop()
            self._start()
            rest(POLL_SECONDS, began, [answers for place in self.places if place.run and (answers := place.answers)])

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.asked += 1

    def _stop(self) -> None:
        for run in self.waiting:
            set_cancelled(run)
        self.waiting = []
        for place in self.places:
            if self.asked > 1:
                place.kill()
            elif place.run and not place.stopped:
                place.ask_to_stop()

    def _start(self) -> None:
        free = [place for place in self.places if place.run is None]
        taken = self._taken_by_others() if free and self.waiting else set()
        for place in free:
            while place.run is None and self.waiting and place.slot["slot"] not in taken:
                run = self._next()
                if RunDirectory(run).state == "pending":  # else it has been cancelled, or somebody has started it
                    place.start(run)
            if place.run is None and not self.waiting:
                place.dismiss()

    def _next(self) -> Path:
        """The first run that waits, of those whose stages no other run is building if there are any."""
        runs = [place.run for place in self.places if place.run]
        building = {stages_of(run) for run in runs if RunDirectory(run).status.get("step") is None} - {None}
        free = (number for number, run in enumerate(self.waiting) if not building or stages_of(run) not in building)
        return self.waiting.pop(next(free, 0))

    def _taken_by_others(self) -> set[int]:
        """Slots of this sweep's runs that an earlier launcher has started, and that go on."""
        own = {place.run for place in self.places}
        runs = [
            read_run(file.parent, whole=False) for file in self.sweep.glob(f"*/{JOB_FILE}") if file.parent not in own
        ]
        return {run.job["slot"] for run in runs if "slot" in run.job and worker(run)}


def set_cancelled(run: Path) -> None:
    RunDirectory(run).set_status("cancelled", reason="the sweep was stopped before it began")


def set_down(run: Path, since: float, code: int) -> None:
    """Record the end of a run that did not do so itself; nothing where another launcher or process has it by now.

    `since` is when the process was given the run, `code` its exit status.
    """
    directory = RunDirectory(run)
    try:
        with SoftFileLease(run / LEASE, lease_duration=LEASE_SECONDS).acquire(timeout=0):
            status = directory.status
            unrecorded = status["state"] == "running" or (
                status["state"] == "pending" and (status["time"] or 0.0) < since
            )
            if unrecorded:
                stopped = code in STOPPED
                directory.set_status("preempted" if stopped else "failed", status["step"], ending(run, code))
    except Timeout:
        return


def ending(run: Path, code: int) -> str:
    """How a process has ended, and what it said last."""
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    hint = " (by hand, or for want of memory)" if code == -signal.SIGKILL else ""
    said = (run / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(said) if line.strip()), "")
    return f"{how}{hint}{f'; its last words: {last}' if last else ''}"


def main() -> None:
    given = sys.stdin.read()
    if given:  # else the launcher has ended before it could name the runs
        runs, settings = json.loads(given)
        Starter(Path(sys.argv[1]), [Path(run) for run in runs], settings).work()


if __name__ == "__main__":
    main()
