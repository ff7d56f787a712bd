"""One run from data to win rate: `python -m rlhf.run regularizer=js lora.r=8`; see `--help`.

Composing the configuration imports no torch; everything that trains is imported once a run really starts.
"""

import contextlib
import os
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rlhf.compose import explain, to_config
from rlhf.config.run import Config
from rlhf.errors import Preempted, UserError
from rlhf.infra.cache import built_since
from rlhf.infra.progress import console
from rlhf.infra.rundir import RunDirectory
from rlhf.infra.signals import StopSignals
from rlhf.infra.slurm import name_task, requeue
from rlhf.infra.summary import show

if TYPE_CHECKING:
    from rlhf.infra.distributed import Ranks


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def compose(composed: DictConfig) -> None:
    """Called by Hydra, once per run, with the composed configuration."""
    from rlhf.run import checked, run  # by name, since Hydra's own launchers pickle this function with all it refers to

    directory = Path(HydraConfig.get().runtime.output_dir)
    try:
        run(checked(composed, directory), directory)
    except Exception as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # where Hydra raises the first failure only, and at the end
            print(f"{directory} failed: {error}")
        traceback.clear_frames(error.__traceback__)  # Hydra keeps the error to a sweep's end, and with it the models
        raise


def checked(composed: DictConfig, directory: Path) -> Config:
    """The configuration, if it can be run; else the directory that Hydra has made for the run is taken away again."""
    try:
        return to_config(composed)
    except UserError:
        with contextlib.suppress(OSError):
            directory.rmdir()
        raise


def run(config: Config, path: Path) -> dict[str, Any]:
    """The run itself: data, SFT, reward model, PPO, evaluation, record. Returns what metrics.json holds.

    Raises Preempted where a signal has stopped it: under SLURM the job is in the queue again by then.
    """
    name_task(os.environ)
    console.quiet = os.environ.get("RANK", "0") != "0"
    directory = RunDirectory(path)
    directory.prepare(config)
    if directory.state == "done":
        return show(directory, "done already")

    from rlhf.infra.distributed import join

    ranks = join(config.distributed, config.device)
    directory = RunDirectory(path, writes=ranks.is_main)
    if ranks.decided(partial(directory.open, config)):
        return show(directory, "done already")
    started, step = time.time(), directory.status.get("step")
    try:
        with directory.outcome_recorded(), StopSignals().handled() as stop:
            train_and_record(config, directory, ranks, stop)
    except Preempted as stopped:
        console.print(f"{path}: stopped by {stopped}; the same command goes on from there")
        progressed = directory.status["step"] != step or built_since(Path(config.cache_dir), started)
        if ranks.is_main and directory.state == "preempted":
            queue_again(directory, out_of_time=stopped.reason == "SIGUSR2" and not progressed)
        ranks.wait()  # a rank that ended earlier would have SLURM end the job as failed
        raise
    return show(directory, "done")


def queue_again(directory: RunDirectory, out_of_time: bool) -> None:
    """Have SLURM, where there is one, run this job again; but not one that would run out of time again and again."""
    step = directory.status["step"]
    if out_of_time:
        directory.set_status("failed", step, "the time limit is too short for one step or stage: raise it")
    elif requeue() not in (None, "RUNNING", "REQUEUED"):
        directory.set_status("cancelled", step, "the SLURM job was cancelled")


def train_and_record(config: Config, directory: RunDirectory, ranks: "Ranks", stop: StopSignals) -> None:
    """What a run does, in order."""
    from rlhf.stages.learner import Learner
    from rlhf.stages.pipeline import Pipeline
    from rlhf.stages.record import record
    from rlhf.stages.train import train

    pipeline = Pipeline(config, ranks)
    pipeline.build()
    base, sampler = pipeline.load_base(ranks)
    reward = pipeline.load_reward(base)
    evaluator = pipeline.evaluator(base, reward, sampler)
    learner = Learner(config, pipeline.source, base, reward, sampler)
    result = train(learner, evaluator, directory, stop)
    record(directory, pipeline, evaluator, learner, result)
    directory.remove_checkpoints()
    ranks.wait()


def main() -> None:
    """The command line: as Hydra's, with errors of the user's told in a few lines."""
    wants_trace = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then passes errors on instead of printing them its own way
    try:
        compose()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if wants_trace:
            raise
        sys.exit(f"error: {explain(error)}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
