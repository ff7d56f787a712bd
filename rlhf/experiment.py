"""One run from data to win rate: the straight line, and what becomes of it when it is stopped."""

import gc
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.config.run import Config
from rlhf.errors import Preempted, Pruned, UserError
from rlhf.process.signals import StopSignals
from rlhf.process.slurm import PATIENCE, SHARED, is_main_task, requeue
from rlhf.search.objective import figures_of
from rlhf.storage.cache import progress
from rlhf.storage.reader import ENDED, MadeBy
from rlhf.storage.rundir import RunDirectory
from rlhf.summary import show
from rlhf.tracking.choose import check_installed, tracking
from rlhf.tracking.tracker import Outcome, Tracker

if TYPE_CHECKING:
    from rlhf.process.distributed import Ranks

log = logging.getLogger(__name__)


def run(config: Config, path: Path, made_by: MadeBy | None = None) -> dict[str, Any]:
    """The run itself: data, SFT, reward model, PPO, evaluation, record. Returns what metrics.json holds.

    Of a pruned run the figures of its last evaluation.

    Raises Preempted where a signal has stopped it: under SLURM the job is in the queue again by then.
    """
    check_installed(config)
    is_main = is_main_task()
    directory = RunDirectory(path, writes=is_main)
    if (path / "config.yaml").exists():  # else nothing is written before the run is known to be possible
        directory.prepare(config, made_by)
    if directory.state in ENDED:
        return _shown(directory, " already")
    before, step = progress(Path(config.cache_dir)), directory.status.get("step")
    with StopSignals().handled() as stop:
        try:
            if os.environ.get("SLURM_NTASKS", "1") == "1":  # it may be the end of ranks of which one never started
                stop.heed()
            done_already = _run(config, directory, stop, made_by)
        except Preempted as stopped:
            log.info(f"{path}: stopped by {stopped}; the same command goes on from there")
            progressed = directory.status.get("step") != step or progress(Path(config.cache_dir)) != before
            if is_main and directory.state != "failed" and SHARED not in os.environ and not stopped.by_user:
                queue_again(directory, out_of_time=stopped.reason == "SIGUSR2" and not progressed)
            leave_last(is_main)
            raise
    return _shown(directory, " already" if done_already else "")


def _shown(directory: RunDirectory, already: str) -> dict[str, Any]:
    """Show how the run has ended, by now or `already`; returns its figures."""
    if directory.state == "done":
        return show(directory, f"done{already}")
    log.info(f"{directory.path}: pruned{already}: {directory.status['reason']}")
    return figures_of(directory.path)


@contextmanager
def imported_for_good() -> Iterator[None]:
    """Look for no garbage while the block imports torch, nor later in what it brings: that takes a fifth as long."""
    if "torch" in sys.modules:  # what an earlier run has left may be garbage
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def _run(config: Config, directory: RunDirectory, stop: StopSignals, made_by: MadeBy | None) -> bool:
    """True where another process has done it in the meantime."""
    with imported_for_good():
        from rlhf.process.distributed import join
        from rlhf.stages.setting import check_before

    try:
        ranks = join(config.distributed, config.device)
        check_before(config, ranks)
    except UserError as error:
        if directory.state == "pending":  # a launcher has promised it
            directory.set_status("failed", directory.status.get("step"), str(error))
        raise
    directory.prepare(config, made_by)
    if ranks.run_on_main(partial(directory.open, config)):
        return True
    directory.share(ranks.run_on_main(directory.token))
    with directory.outcome_recorded(), tracking(config, directory.path, ranks.is_main) as tracker:
        train_and_record(config, directory, ranks, stop, tracker)
    return False


def queue_again(directory: RunDirectory, out_of_time: bool) -> None:
    """Have SLURM, where there is one, run this job again; but not one that would run out of time again and again."""
    step = directory.status.get("step")
    if out_of_time and "SLURM_JOB_ID" in os.environ:
        directory.set_status("failed", step, "the time limit is too short for one step or stage: raise it")
        return
    became, problem = requeue()
    if became == "cancelled":
        directory.set_status("cancelled", step, "the SLURM job was cancelled")
    elif became == "left":
        directory.set_status("preempted", step, f"could not be requeued: {problem}")


def leave_last(is_main: bool) -> None:
    """A rank that left before the job is in the queue again would have SLURM end it as failed; SLURM ends this wait."""
    if not is_main and "SLURM_JOB_ID" in os.environ:
        time.sleep(PATIENCE)


def train_and_record(
    config: Config, directory: RunDirectory, ranks: "Ranks", stop: StopSignals, tracker: Tracker
) -> None:
    """What a run does, in order; one that can't win ends on the way."""
    from rlhf.stages.record import record
    from rlhf.stages.setting import lent_setting
    from rlhf.stages.train import train_in
    from rlhf.storage.checkpoint import remove_local

    with lent_setting(config, ranks, stop) as setting, setting.learner(config) as learner:
        evaluator = setting.evaluator(config)
        at_start = setting.evaluation_at_start(evaluator)
        try:
            result = train_in(learner, evaluator, directory, stop, tracker, at_start)
        except Pruned as decided:
            directory.set_status("pruned", decided.step, decided.reason)
            outcome = Outcome("pruned", figures_of(directory.path))
        else:
            outcome = Outcome("done", record(directory, setting, evaluator, learner, result))
        if config.checkpoint_local_dir is not None and directory.may_write():
            remove_local(config.checkpoint_local_dir, directory.checkpoints)
        if outcome.state == "done":
            directory.remove_checkpoints()
    tracker.finish(outcome)
    ranks.barrier()


def leave() -> None:
    """End this process, if it is one of several, without taking the interpreter down: all is written by now.

    Gloo's threads may still hold tensors then, and abort a process that has succeeded (pytorch/pytorch pull 179291).
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
