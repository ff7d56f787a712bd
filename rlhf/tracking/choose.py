"""The tracker that a run's configuration asks for, from the run's start to its end."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from rlhf.config.run import Config
from rlhf.config.tracker import TensorboardConfig, WandbConfig
from rlhf.errors import ConfigError, Preempted, TakenOverError
from rlhf.tracking.tensorboard import TensorboardTracker
from rlhf.tracking.tracker import UNTRACKED, InBackground, Outcome, Tracker
from rlhf.tracking.wandb import WandbTracker

log = logging.getLogger(__name__)


@contextmanager
def tracking(config: Config, directory: Path, is_main: bool) -> Iterator[Tracker]:
    """The tracker of a run, around its work: finished here if that raises; a run that is done finishes it itself."""
    tracker = start(config, directory) if is_main else UNTRACKED
    try:
        yield tracker
    except BaseException as error:
        tracker.finish(Outcome("preempted" if isinstance(error, Preempted | TakenOverError) else "failed"))
        raise


def check_installed(config: Config) -> None:
    """Raise ConfigError where the tracker's package is missing."""
    if config.tracker.name == "tensorboard" and find_spec("tensorboard") is None:
        raise ConfigError("tracker=tensorboard needs the package tensorboard: pip install tensorboard")


def start(config: Config, directory: Path) -> Tracker:
    settings = config.tracker
    if isinstance(settings, WandbConfig) and os.environ.get("WANDB_MODE") == "disabled":
        log.info("wandb: WANDB_MODE=disabled, so the run is not tracked")
        return UNTRACKED
    if isinstance(settings, WandbConfig):
        return InBackground(settings.name, lambda: WandbTracker(config, settings, directory), settings.patience)
    if isinstance(settings, TensorboardConfig):
        return InBackground(settings.name, lambda: TensorboardTracker(config, settings, directory), settings.patience)
    return UNTRACKED
