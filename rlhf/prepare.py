"""Build what a run needs before PPO, and stop there: `python -m rlhf.prepare RUN_DIR`.

A sweep on a cluster does this once for all runs that share their stages, before any of them starts.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from rlhf.errors import Preempted, errors_told
from rlhf.infra.cache import built_since
from rlhf.infra.rundir import RunDirectory
from rlhf.infra.signals import StopSignals
from rlhf.infra.slurm import requeue
from rlhf.launch.prepared import note


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rlhf.prepare", description="Build a run's stages before PPO.")
    parser.add_argument("directory", type=Path, help="a run directory: its config.yaml says what to build")
    path = parser.parse_args(arguments).directory
    with errors_told():
        build(path)


def build(path: Path) -> None:
    """All stages of the run in `path`, into the cache; a SLURM job that is stopped is queued again."""
    config, started = RunDirectory(path).config(), time.time()
    with StopSignals().handled():
        try:
            from rlhf.stages.pipeline import Pipeline

            pipeline = Pipeline(config)
            pipeline.build()
        except Preempted as stopped:
            if stopped.reason != "SIGUSR2" or built_since(Path(config.cache_dir), started):
                requeue()
            raise
    note(path, [stage.directory for stage in pipeline.finished.values()])


if __name__ == "__main__":
    main()
