"""One run from data to win rate: `python -m rlhf.run regularizer=js lora.r=8`; see `--help`.

Composing the configuration imports no torch; everything that trains is imported once a run really starts.
"""

import contextlib
import hashlib
import os
import re
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf.config import Config, register, to_config
from rlhf.errors import UserError

LONGEST_NAME = 120
"""Characters of a run directory's name; longer ones are cut, and made unique by a hash."""


def run_name(overrides: list[str]) -> str:
    """A directory name made of the overrides alone, in any order: the same command finds the same directory again."""
    text = ",".join(sorted(overrides)) or "default"
    safe = re.sub(r"[^A-Za-z0-9._=,+-]", "-", text)
    if safe != text or len(safe) > LONGEST_NAME:
        safe = f"{safe[:LONGEST_NAME]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return safe


def sweep_name(config_name: str) -> str:
    """A sweep's own name, where it is a file of sweeps/."""
    return "multirun" if config_name == "config" else config_name


def register_all() -> None:
    """What conf/ needs of the code: the schemas and the two resolvers."""
    register()
    OmegaConf.register_new_resolver("run_name", lambda overrides: run_name(list(overrides)), replace=True)
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def compose(composed: DictConfig) -> None:
    """Called by Hydra, once per run, with the composed configuration."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    try:
        config = to_config(composed)
    except BaseException:
        with contextlib.suppress(OSError):
            directory.rmdir()  # Hydra has made it already; a run that can't start leaves nothing
        raise
    run(config, directory)


def run(config: Config, path: Path) -> dict[str, Any]:
    """The run itself: data, SFT, reward model, PPO, evaluation, record. Returns what metrics.json holds."""
    from rlhf.infra.rundir import RunDirectory
    from rlhf.stages.pipeline import Pipeline
    from rlhf.stages.ppo import Learner
    from rlhf.stages.record import record, show
    from rlhf.stages.train import train

    directory = RunDirectory(path)
    if directory.open(config):
        return show(directory, "done already")
    with directory.failures_recorded():
        pipeline = Pipeline(config)
        base, sampler = pipeline.load_base()
        reward = pipeline.load_reward(base)
        evaluator = pipeline.evaluator(base, reward, sampler)
        learner = Learner(config, pipeline.source, base, reward, sampler)
        result = train(learner, evaluator, directory)
        record(directory, pipeline, evaluator, learner, result)
    return show(directory, "done")


def main() -> None:
    """The command line: as Hydra's, with errors of the user's told in a few lines."""
    register_all()
    wants_trace = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then passes errors on instead of printing them its own way
    try:
        compose()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if wants_trace:
            raise
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
