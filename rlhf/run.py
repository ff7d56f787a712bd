"""One run from data to win rate: `python -m rlhf.run regularizer=js lora.r=8`; see `--help`.

Composing the configuration imports no torch; everything that trains is imported once a run really starts.
"""

import contextlib
import os
import sys
import traceback
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rlhf.compose import CONF, explain, to_config
from rlhf.config.gate import refuse_secrets
from rlhf.config.run import Config
from rlhf.console import console, fail, show_log
from rlhf.errors import UserError
from rlhf.experiment import leave, run
from rlhf.process.signals import ended_by_user
from rlhf.process.slurm import is_main_task
from rlhf.storage.rundir import command_line


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def compose(composed: DictConfig) -> None:
    """Called by Hydra, once per run, with the composed configuration; by its own launchers in a job, without `main`."""
    show_log(is_main_task())
    directory = Path(HydraConfig.get().runtime.output_dir)
    try:
        run(checked(composed, directory), directory, command_line(HydraConfig.get()))
    except Exception as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # where Hydra raises the first failure only, and at the end
            console.print(f"{directory} failed: {error}")
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


def main() -> None:
    """The command line: as Hydra's, with errors of the user's told in a few lines."""
    show_log(is_main_task())
    wants_trace = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then passes errors on instead of printing them its own way
    try:
        refuse_secrets(sys.argv[1:])
        with ended_by_user():
            compose()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if wants_trace:
            raise
        fail(explain(error, sys.argv[1:]))
    leave()


if __name__ == "__main__":
    main()
