"""Build what a run needs before PPO, and stop there: `python -m rlhf.prepare RUN_DIR`.

A sweep on a cluster does this once for all runs that share their stages, before any of them starts.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rlhf.console import command
from rlhf.errors import Preempted
from rlhf.launch.prepared import note
from rlhf.process.signals import StopSignals
from rlhf.process.slurm import requeue
from rlhf.storage.cache import progress
from rlhf.storage.rundir import RunDirectory


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rlhf.prepare", description="Build a run's stages before PPO.")
    parser.add_argument("directory", type=Path, help="a run directory: its config.yaml says what to build")
    path = parser.parse_args(arguments).directory
    with command():
        build(path)


def build(path: Path) -> None:
    """All stages of the run in `path`, into the cache; a SLURM job that is stopped is queued again."""
    config = RunDirectory(path).config()
    before = progress(Path(config.cache_dir))
    with StopSignals().handled() as stop:
        try:
            stop.heed()
            from rlhf.stages.preflight import checked_pipeline

            pipeline = checked_pipeline(config, stop=stop)
            pipeline.build()
        except Preempted as stopped:
            idle = stopped.reason == "SIGUSR2" and progress(Path(config.cache_dir)) == before
            if not (idle or stopped.by_user):
                requeue()
            raise
    note(path, [stage.directory for stage in pipeline.finished.values()])


if __name__ == "__main__":
    main()
