"""Start a run, or go on with it, from its directory alone: `python -m rlhf.resume RUN_DIR`.

What the launchers start on a compute node; by hand it does what giving the run's own command again does.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rlhf.console import command
from rlhf.experiment import leave, run
from rlhf.launch.worker import serve
from rlhf.process.slurm import is_main_task
from rlhf.storage.rundir import RunDirectory


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rlhf.resume", description="Start a run or go on with it.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("directory", nargs="?", type=Path, help="a run directory: its config.yaml says what to run")
    which.add_argument("--worker", action="store_true", help="do the runs named on stdin; see rlhf/launch/worker.py")
    options = parser.parse_args(arguments)
    if options.worker:
        serve(resume)
    else:
        resume(options.directory)
    leave()


def resume(path: Path) -> None:
    with command(is_main_task()):
        run(RunDirectory(path).config(), path)


if __name__ == "__main__":
    main()
