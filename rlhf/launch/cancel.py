"""Stop runs wherever they are, each by its launcher, and set them down as cancelled."""

import time
from collections.abc import Iterator, Sequence

from rlhf.launch.job import begun, worker
from rlhf.launch.launchers import by_launcher
from rlhf.storage.lease import is_leased
from rlhf.storage.reader import ENDED
from rlhf.storage.rundir import RunDirectory
from rlhf.storage.runs import LEFT_TO_DO, RunState, read_run

PATIENCE = 60.0
"""Seconds that stopped runs have to save and end in, while `cancel` waits."""

POLL_SECONDS = 0.2


def cancel(runs: Sequence[RunState], patience: float = PATIENCE) -> Iterator[str]:
    """Stop those that run or wait, and set them down as cancelled; yields what was done, a line per run.

    A run that is still saving when patience ends is left to it, and will stand as preempted.
    """
    active = [run for run in runs if run.state in LEFT_TO_DO]
    refusals = by_launcher(active, lambda kind, own: kind.stop(own))
    refused = {path: reason for refusal in refusals for path, reason in refusal.items()}
    stopping: list[RunState] = []
    for run in active:
        if run.path in refused:
            yield f"not cancelled: {run.path}: {refused[run.path]}"
        elif not begun(run):  # a local launcher passes over it from now on
            mark(run)
            yield f"cancelled before it began: {run.path}"
        else:
            stopping.append(run)
    yield from _ended(stopping, time.monotonic() + patience)


def _ended(stopping: list[RunState], deadline: float) -> Iterator[str]:
    while stopping and time.monotonic() < deadline:
        for run in list(stopping):
            now = read_run(run.path)
            if is_leased(run.path) or worker(now):
                continue
            stopping.remove(run)
            if now.state in (*ENDED, "failed"):
                yield f"{now.state} before it could be cancelled: {run.path}"
            else:
                mark(now)
                yield f"cancelled at step {now.step or 0}: {run.path}"
        time.sleep(POLL_SECONDS)
    for run in stopping:
        yield f"asked to stop, and still saving; it will stand as preempted: {run.path}"


def mark(run: RunState) -> None:
    RunDirectory(run.path).set_status("cancelled", run.step, "cancelled by python -m rlhf.status --cancel")
