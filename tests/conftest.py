"""What tests share: checked configurations composed from conf/, and a run's roles small enough for a unit test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from rlhf.config import Config, to_config
from rlhf.run import register_all

CONF = Path(__file__).resolve().parents[1] / "conf"

ComposeConfig = Callable[..., Config]


@pytest.fixture(scope="session")
def compose_config() -> Iterator[ComposeConfig]:
    """Composes conf/ with overrides, as the command line does."""
    register_all()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield lambda *overrides: to_config(compose("config", overrides=list(overrides)))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
