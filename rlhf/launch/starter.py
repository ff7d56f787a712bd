"""What starts a local sweep's runs, as slots come free: `python -m rlhf.launch.starter SWEEP`, in the background.

A process of its own, so that a sweep outlives the terminal it was started from, and each run even this process. Imports
no torch: GPUs are those of CUDA_VISIBLE_DEVICES, or else of `nvidia-smi -L`.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import SoftFileLease, Timeout

from rlhf.launch.cancel import stop, worker
from rlhf.launch.sweep import JOB_FILE, restored, state
from rlhf.process.identity import identity
from rlhf.storage.files import read_json, write_json
from rlhf.storage.rundir import LEASE_SECONDS, RunDirectory
from rlhf.validate import check

LOG = "output.log"
"""In the run's directory; each attempt is appended."""

POLL_SECONDS = 0.3

OF_ANOTHER_JOB = re.compile(r"SLURM_.*|(LOCAL_)?RANK|(LOCAL_)?WORLD_SIZE|MASTER_(ADDR|PORT)")
"""Variables of a job that this sweep may itself be part of, and that would be taken for a run's own."""

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Slot:
    """Room for one run; `devices` as CUDA_VISIBLE_DEVICES has them, None where there is no GPU."""

    number: int
    devices: str | None


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES names, or else the numbers of all GPUs that `nvidia-smi -L` lists."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for part in named.split(",") if (name := part.strip()) not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^GPU (\d+):", listed.stdout, flags=re.MULTILINE)


def cores() -> int:
    """Of those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slots(settings: Settings, gpus: list[str], cores: int) -> list[Slot]:
    """Room for as many runs as `parallel` says, on sets of GPUs in turn; by default one per set, or all cores.

    Raises ConfigError where a key's value can't be used on this machine.
    """
    for key in ("parallel", "gpus_per_run", "threads"):
        value = settings[key]
        ok = (value is None and key == "parallel") or (type(value) is int and value > 0)
        check(ok, f"hydra.launcher.{key}", value, "must be a whole number above 0")
    parallel, size, threads = settings["parallel"], settings["gpus_per_run"], settings["threads"]
    if not gpus:
        return [Slot(number, None) for number in range(parallel or max(1, cores // (size * threads)))]
    check(size <= len(gpus), "hydra.launcher.gpus_per_run", size, f"only {len(gpus)} GPUs are visible here")
    sets = [",".join(gpus[first : first + size]) for first in range(0, len(gpus) - size + 1, size)]
    return [Slot(number, devices) for number, devices in enumerate(islice(cycle(sets), parallel or len(sets)))]


def command(run: Path, processes: int) -> list[str]:
    """What starts a run: one process, or one per GPU."""
    python, script = [sys.executable, "-m"], ["rlhf.resume", str(run)]
    if processes == 1:
        return [*python, *script]
    return [*python, "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", *script]


def environment(slot: Slot, threads: int) -> dict[str, str]:
    """A run's: with its GPUs and threads, without what belongs to a surrounding job."""
    kept = {key: value for key, value in os.environ.items() if not OF_ANOTHER_JOB.fullmatch(key)}
    devices = {} if slot.devices is None else {"CUDA_VISIBLE_DEVICES": slot.devices}
    return kept | devices | {"OMP_NUM_THREADS": str(threads)}


def write_job(run: Path, pid: int, slot: Slot | None = None) -> dict[str, Any]:
    """job.json: the process that starts the run or, once it has a slot, the one that does its work."""
    log = {"log": f"{run.name}/{LOG}"}
    place = {} if slot is None else {"slot": slot.number, "devices": slot.devices}
    job = {"launcher": "local", **identity(pid), **log, "time": round(time.time(), 3), **place}
    write_json(run / JOB_FILE, job)
    return job


@dataclass(frozen=True)
class Child:
    """A run that has been started, its process and what job.json holds of it."""

    run: Path
    process: subprocess.Popen[bytes]
    job: dict[str, Any]


class Starter:
    """Starts runs as slots come free, and sets down the end of those that could not do so themselves.

    SIGTERM has all of them save and end, a second one kills them.
    """

    def __init__(self, sweep: Path, runs: list[Path], settings: Settings) -> None:
        self.sweep, self.waiting, self.settings = sweep, runs, settings
        self.slots = slots(settings, visible_gpus(), cores())
        self.children: dict[int, Child] = {}
        self.asked = 0

    def work(self) -> None:
        """Until all have ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)
        heeded = 0
        while self.waiting or self.children:
            self._collect()
            if self.asked > heeded:
                heeded = self.asked
                self._stop(kill=heeded > 1)
            self._start()
            time.sleep(POLL_SECONDS)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.asked += 1

    def _collect(self) -> None:
        for number, child in list(self.children.items()):
            code = child.process.poll()
            if code is not None:
                del self.children[number]
                set_down(child, code)

    def _stop(self, kill: bool) -> None:
        for run in self.waiting:
            RunDirectory(run).set_status("cancelled", reason="the sweep was stopped before it began")
        self.waiting = []
        for child in self.children.values():
            if kill:
                os.killpg(child.process.pid, signal.SIGKILL)
            else:
                stop(child.run, child.job)

    def _start(self) -> None:
        if not self.waiting or len(self.children) == len(self.slots):
            return
        taken = self.children.keys() | self._taken_by_others()
        for slot in self.slots:
            while slot.number not in taken and self.waiting:
                run = self.waiting.pop(0)
                if state(run) == "pending":  # else it has been cancelled, or somebody has started it by hand
                    self.children[slot.number] = self._child(run, slot)
                    break

    def _taken_by_others(self) -> set[int]:
        """Slots of this sweep's runs that an earlier launcher has started, and that go on."""
        own = {child.run for child in self.children.values()}
        found = set()
        for path in self.sweep.glob(f"*/{JOB_FILE}"):
            with suppress(OSError, ValueError):
                job = read_json(path)
                if "slot" in job and path.parent not in own and worker(path.parent, job):
                    found.add(job["slot"])
        return found

    def _child(self, run: Path, slot: Slot) -> Child:
        with (run / LOG).open("ab") as log:
            process = subprocess.Popen(
                command(run, self.settings["gpus_per_run"]),
                env=environment(slot, self.settings["threads"]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return Child(run, process, write_job(run, process.pid, slot))


def set_down(child: Child, code: int) -> None:
    """The end of a run that its process has not told; nothing where another launcher or process has the run by now."""
    directory = RunDirectory(child.run)
    try:
        with SoftFileLease(child.run / ".lock", lease_duration=LEASE_SECONDS).acquire(timeout=0):
            status = directory.status
            untold = status["state"] == "running" or (
                status["state"] == "pending" and status["time"] < child.job["time"]
            )
            if untold:
                stopped = code in (-signal.SIGTERM, 128 + signal.SIGTERM)
                state = "preempted" if stopped else "failed"
                directory.set_status(state, status["step"], ending(child.run, code))
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
    sweep = Path(sys.argv[1])
    told = sys.stdin.read()
    if told:  # else the launcher has ended before it could say which
        Starter(sweep, [Path(run) for run in json.loads(told)], restored(sweep).settings).work()


if __name__ == "__main__":
    main()
