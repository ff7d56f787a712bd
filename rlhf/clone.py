"""Go on from a run's last checkpoint by other settings, as a branch: `python -m rlhf.clone RUN_DIR KEY=VALUE ...`.

Weights, optimizer and random numbers are the parent's at that step, and so is the history up to it. What the stages
before PPO read can't change, nor the shape of what is trained.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from rlhf.compose import from_saved, run_name
from rlhf.config.gate import refuse_secrets
from rlhf.config.run import Config
from rlhf.config.stages import SETTING, picked
from rlhf.console import command, console
from rlhf.errors import ConfigError, DataError
from rlhf.experiment import run
from rlhf.storage.checkpoint import load_checkpoint, save_checkpoint
from rlhf.storage.files import write_json
from rlhf.storage.reader import PARENT, read_settings
from rlhf.storage.rundir import RunDirectory
from rlhf.validate import check

FIXED = (*SETTING, "seed", "lora", "value")
"""Keys, or whole sections, that a branch has from its parent."""


def changed(parent: Path, overrides: Sequence[str]) -> Config:
    """The parent's configuration with other values; raises ConfigError for what a branch can't change."""
    refuse_secrets(overrides)
    own = RunDirectory(parent).config()
    settings = OmegaConf.create(read_settings(parent))
    for override in overrides:
        key, _, value = override.partition("=")
        there = "=" in override and not OmegaConf.is_dict(OmegaConf.select(settings, key, default=settings))
        check(there, key, value, "write KEY=VALUE, with a key of the run's config.yaml")
        OmegaConf.update(settings, key, OmegaConf.select(OmegaConf.from_dotlist([override]), key))
    config = from_saved(cast(dict[str, Any], OmegaConf.to_container(settings)))
    before, after = (dict(picked(asdict(each), FIXED)) for each in (own, config))
    if before != after:
        differing = ", ".join(sorted(name for name in before | after if before.get(name) != after.get(name)))
        raise ConfigError(f"{' '.join(overrides)} is not allowed: a branch has {differing} from its parent")
    return config


def branch(parent: Path, overrides: Sequence[str], path: Path | None = None) -> Path:
    """Make a branch's directory, by default beside its parent, and return it; raises UserError."""
    config, state = changed(parent, overrides), load_checkpoint(RunDirectory(parent).checkpoints)
    if state is None:
        raise DataError(f"{parent} has no checkpoint: a run has one from its first minute until it is done")
    step = int(state["progress"]["step"])
    check(config.steps >= step, "ppo.steps", config.steps, f"the run is at step {step}")
    directory = RunDirectory(path or parent.with_name(run_name([f"{parent.name},step={step}", *overrides])))
    if directory.path.exists():
        raise DataError(f"{directory.path} is there already: name another by --dir")
    reweigh(state["learner"], RunDirectory(parent).config(), config)
    directory.prepare(config)
    about = {"path": str(parent.resolve()), "step": step, "overrides": list(overrides)}
    write_json(directory.path / PARENT, about)
    directory.restore_history(state["history"])
    save_checkpoint(directory.checkpoints, step, state | {"pieces": []})  # of an evaluation by the parent's settings
    directory.set_status("preempted", step, f"branched from {parent.name}, to go on from its step {step}")
    return directory.path


def reweigh(learner: dict[str, Any], old: Config, new: Config) -> None:
    """Have the penalty's coefficient go on from the new settings, by as much as the old one has moved from its own."""
    before, after = (each.regularizer.strength * each.regularizer.coef for each in (old, new))
    if before != after:
        value, count = learner["coefficient"]
        learner["coefficient"] = (value / before * after if before else after, count)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rlhf.clone", description="Branch off from a run's checkpoint.")
    parser.add_argument(
        "path", type=Path, metavar="RUN_DIR", help="a run that is not done: going on, stopped or pruned"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as regularizer.coef=0.3, ppo.lr=0.001")
    parser.add_argument("--dir", type=Path, help="the branch's directory; default: beside the run, named by both")
    parser.add_argument("--later", action="store_true", help="make it only, for rlhf resume")
    options = parser.parse_intermixed_args(arguments)  # settings may stand behind flags
    with command():
        made = branch(options.path, options.overrides, options.dir)
        console.print(f"{made} goes on from {options.path}", soft_wrap=True)
        if options.later:
            console.print(f"start it: rlhf resume {made}", soft_wrap=True)
        else:
            run(RunDirectory(made).config(), made)


if __name__ == "__main__":
    main()
