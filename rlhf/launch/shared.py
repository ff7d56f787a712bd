"""The runs of one SLURM job, one after another or side by side: `python -m rlhf.launch.shared SHEET ELEMENT`.

Workers (worker.py) do them. At the time limit or a preemption the runs at work save, and the job is queued again for
what is left; a run that has failed is passed over. Imports no torch.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from rlhf.launch.slots import cores, visible_gpus
from rlhf.launch.starter import Place
from rlhf.launch.worker import TO_DO
from rlhf.process.signals import ASKS, block_until_handled
from rlhf.process.slurm import GPU_SHARE, PATIENCE, SHARED, requeue
from rlhf.storage.cache import progress as stages_progress
from rlhf.storage.reader import read_settings, select
from rlhf.storage.rundir import RunDirectory

POLL_SECONDS = 0.3
MPS = "nvidia-cuda-mps-control"


class SharedJob:
    """`work` once: until all runs have ended, or the job has been asked to stop."""

    def __init__(self, runs: list[Path], environments: list[dict[str, str]]) -> None:
        self.runs, self.waiting = runs, [run for run in runs if is_left(run)]
        self.places = [Place({}, 1, environment) for environment in environments]
        self.asked: signal.Signals | None = None

    def work(self) -> int:
        """Returns the exit status: 1 where a run has failed."""
        before = progress(self.runs)
        while any(place.run for place in self.places) or (self.waiting and not self.asked):
            for place in self.places:
                place.collect()
            self._start()
            received = signal.sigtimedwait(ASKS, POLL_SECONDS)
            if received is not None:
                self.asked = self.asked or signal.Signals(received.si_signo)
                self._pass_on(received.si_signo)
        for place in self.places:
            place.dismiss()
        left = [run for run in self.runs if is_left(run)]
        if self.asked and left:
            self._queue_again(left, progressed=progress(self.runs) != before)
        for place in self.places:
            if place.process is not None:
                with suppress(subprocess.TimeoutExpired):  # the job's end would kill what a worker still has to close
                    place.process.wait(PATIENCE)
        return int(any(RunDirectory(run).state == "failed" for run in self.runs))

    def _start(self) -> None:
        for place in self.places:
            if place.run is None and self.waiting and not self.asked:
                place.start(self.waiting.pop(0))

    def _pass_on(self, number: int) -> None:
        """To the runs at work, which may have had it from SLURM as well; between two runs it means nothing."""
        for place in self.places:
            if place.run and place.process is not None:
                place.process.send_signal(number)

    def _queue_again(self, left: list[Path], progressed: bool) -> None:
        if self.asked == signal.SIGUSR2 and not progressed:
            became, end = "failed", ("failed", "the time limit is too short for one step or stage: raise it")
        else:
            became, problem = requeue()
            end = ("preempted", f"could not be requeued: {problem}")
        if became == "cancelled":
            end = ("cancelled", "the SLURM job was cancelled")
        for run in left if became in ("failed", "cancelled", "left") else []:
            RunDirectory(run).set_status(end[0], RunDirectory(run).status.get("step"), end[1])


def is_left(run: Path) -> bool:
    return RunDirectory(run).state in TO_DO


def progress(runs: list[Path]) -> tuple[list[object], set[object]]:
    """How far each run is, and its stages; the job would be queued again for ever if this stood still all the time."""
    found = (RunDirectory(run).status for run in runs)
    states = [
        (None if is_left(run) else status.get("state"), status.get("step"))
        for run, status in zip(runs, found, strict=True)
    ]
    caches = {select(read_settings(run), "cache_dir") for run in runs if is_left(run)} - {None}
    return list(states), {built for cache in caches for built in stages_progress(Path(cache))}


def environments(gpus: list[str], cores: int, per_gpu: int) -> list[dict[str, str]]:
    """For each of the processes side by side: its GPU and share of the memory, or its share of the cores."""
    shared = {SHARED: "1"}
    if per_gpu > 1:
        shared |= {GPU_SHARE: str(1 / per_gpu)}
    threads = {"OMP_NUM_THREADS": str(max(1, cores // (per_gpu * max(1, len(gpus)))))} if per_gpu > 1 else {}
    devices = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}]
    return [threads | dict(os.environ) | shared | device for device in devices * per_gpu]


@contextmanager
def mps(wanted: bool) -> Iterator[dict[str, str]]:
    """NVIDIA's service by which processes compute on a GPU at once, where the site has it; yields what finds it."""
    if not wanted or shutil.which(MPS) is None:
        yield {}
        return
    with TemporaryDirectory(prefix="mps-") as folder:
        found = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        started = subprocess.run([MPS, "-d"], env=os.environ | found, check=False)
        try:
            yield found if started.returncode == 0 else {}
        finally:
            subprocess.run([MPS], input="quit\n", text=True, env=os.environ | found, check=False)


def main() -> None:
    block_until_handled()  # workers are started so, too: a signal waits for their run
    sheet = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    runs, per_gpu, gpus = sheet["elements"][int(sys.argv[2])], sheet["per_gpu"], visible_gpus()
    with mps(bool(gpus) and per_gpu > 1) as found:
        places = [environment | found for environment in environments(gpus, cores(), per_gpu)]
        status = SharedJob([Path(run) for run in runs], places).work()
    sys.exit(status)


if __name__ == "__main__":
    main()
