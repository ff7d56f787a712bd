"""The sources of data, by the class of their configuration."""

from collections.abc import Callable
from typing import Any

from rlhf.config.data import DataConfig, TextConfig, WorldConfig
from rlhf.data.source import Source
from rlhf.data.text import TextData
from rlhf.data.world import World

SOURCES: dict[type[DataConfig], Callable[[Any], Source]] = {WorldConfig: World, TextConfig: TextData}


def load_source(config: DataConfig) -> Source:
    """Reads and checks everything at once, so that bad data stops a run before any work."""
    return SOURCES[type(config)](config)
