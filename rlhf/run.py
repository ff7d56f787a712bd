"""One run from data to win rate: `python -m rlhf.run regularizer=js lora.r=8`; see `--help`.

Composing the configuration imports no torch; everything that trains is imported once a run really starts.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from rlhf import console  # the module: Hydra's own launchers pickle what `compose` refers to, and a console can't be
from rlhf.compose import CONF, explain, is_of_hydra, refuse_numbers, to_config
from rlhf.config.data import TextConfig
from rlhf.config.gate import refuse_secrets
from rlhf.config.run import Config
from rlhf.errors import UserError
from rlhf.experiment import leave, run
from rlhf.launch.sweep import SweepLauncher
from rlhf.process.signals import ended_by_user
from rlhf.process.slurm import is_main_task
from rlhf.search.objective import Value, value_of
from rlhf.storage.rundir import command_line


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def compose(composed: DictConfig) -> Value:
    """Called by Hydra, once per run, with the composed configuration; by its own launchers in a job, without `main`.

    Returns what the run is worth to a sweeper that searches.
    """
    console.show_log(is_main_task())
    directory = Path(HydraConfig.get().runtime.output_dir)
    try:
        config = to_config(composed)
        run(config, directory, command_line(HydraConfig.get()))
        return value_of(directory, config)
    except Exception as error:
        with contextlib.suppress(OSError):  # Hydra has made it; of a run that can't be started nothing is left
            directory.rmdir()
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # where Hydra raises the first failure only, and at the end
            console.console.print(f"{directory} failed: {error}")
        traceback.clear_frames(error.__traceback__)  # Hydra keeps the error to a sweep's end, and with it the models
        raise


def check_members(configs: Sequence[Config], here: bool) -> None:
    """Raise UserError, before any of a sweep's runs is made, where one can't be done.

    What depends on this machine is asked only where the runs are to be `here`.
    """
    if all(map(is_plain, configs)):
        return
    from rlhf.stages.preflight import check_sweep

    check_sweep(configs, here)


def is_plain(config: Config) -> bool:
    """Whether composing has checked all: it reads no files, no functions and no device that may not be there."""
    given = (
        config.model.path,
        config.lora.path,
        config.reward.path,
        config.reward.function,
        config.regularizer.function,
    )
    named = {*config.lora.target_modules, *config.reward.lora.target_modules} - {"all-linear", "attention"}
    text = isinstance(config.data, TextConfig)
    return not (any(given) or named or text or config.device == "cuda")


def main() -> None:
    """The command line: as Hydra's, with errors of the user's told in a few lines."""
    console.show_log(is_main_task())
    wants_trace = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then passes errors on instead of printing them its own way
    SweepLauncher.check_members = staticmethod(check_members)
    try:
        refuse_secrets(sys.argv[1:])
        refuse_numbers(sys.argv[1:])
        with ended_by_user():
            compose()
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        if wants_trace:
            raise
        advice = "choose another hydra.run.dir or hydra.sweep.dir"
        console.fail(f"{error.filename} can't be written to ({error.strerror}): {advice}")
    except Exception as error:
        if wants_trace or not (isinstance(error, UserError) or is_of_hydra(error)):
            raise
        console.fail(explain(error, sys.argv[1:]))
    leave()


if __name__ == "__main__":
    main()
