"""Start a run, or go on with it, from its directory alone: `python -m rlhf.resume RUN_DIR`.

What the launchers start on a compute node; by hand it does what giving the run's own command again does.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from rlhf.console import command
from rlhf.experiment import leave, run
from rlhf.process.slurm import name_task
from rlhf.storage.rundir import RunDirectory


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rlhf.resume", description="Start a run or go on with it.")
    parser.add_argument("directory", type=Path, help="a run directory: its config.yaml says what to run")
    path = parser.parse_args(arguments).directory
    name_task(os.environ)
    with command(os.environ.get("RANK", "0") == "0"):
        run(RunDirectory(path).config(), path)
    leave()


if __name__ == "__main__":
    main()
