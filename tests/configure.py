"""Configurations for tests, composed from conf/ as the command line does."""

from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from rlhf.compose import to_config
from rlhf.config.run import Config

CONF = Path(__file__).resolve().parents[1] / "conf"


def composed(*overrides: str, name: str = "config", folder: Path = CONF, with_hydra: bool = False) -> DictConfig:
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose(name, overrides=list(overrides), return_hydra_config=with_hydra)


def configure(*overrides: str) -> Config:
    """The checked configuration of a command line, without a tracker unless one is asked for: it takes a second."""
    return to_config(composed("tracker=none", *overrides))
