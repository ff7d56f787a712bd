"""The data of a run, by its configuration's kind."""

from rlhf.config.data import DataConfig, TextConfig, WorldConfig
from rlhf.data.source import Source
from rlhf.data.text import TextData
from rlhf.data.world import World


def load_source(config: DataConfig) -> Source:
    """Reads and checks everything at once, so that bad data stops a run before any work."""
    if isinstance(config, WorldConfig):
        return World(config)
    assert isinstance(config, TextConfig)
    return TextData(config)
