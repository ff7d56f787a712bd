"""Hydra's loader of a sweep's configurations, faster: one composition for all runs that choose the same files of conf/.

Hydra composes each run of a sweep anew, a fifth of a second each, though most differ in values alone. Values play no
part in choosing files, and Hydra itself sets them last, so they are set here, by Hydra's own function, on a copy.
"""

import pickle

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig


class SweepLoader(ConfigLoaderImpl):
    """For one sweep, with the answers of the loader it is made from."""

    def __init__(self, loader: ConfigLoader) -> None:
        assert isinstance(loader, ConfigLoaderImpl)
        self.config_search_path = loader.config_search_path
        self.repository = loader.repository
        self.composed: dict[tuple[str, ...], bytes] = {}  # pickled: five times as fast to copy
        self.checked: dict[tuple[str, ...], DictConfig] = {}  # what a sweeper has composed to see that it can be

    def take(self, master_config: DictConfig, sweep_overrides: list[str], number: int) -> DictConfig:
        """The configuration of a sweep's run of this number."""
        if tuple(sweep_overrides) not in self.checked:
            self.load_sweep_config(master_config, sweep_overrides)
        config = self.checked.pop(tuple(sweep_overrides))
        config.hydra.job.num, config.hydra.job.id = number, str(number)
        return config

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        parsed = OverridesParser.create().parse_overrides(sweep_overrides)
        groups = master_config.hydra.runtime.choices
        values = [override for override in parsed if is_value(override, groups)]
        choices = tuple(str(override.input_line) for override in parsed if not is_value(override, groups))
        if choices not in self.composed:
            self.composed[choices] = pickle.dumps(super().load_sweep_config(master_config, list(choices)))
        config = pickle.loads(self.composed[choices])
        try:
            self._apply_overrides_to_config(values, config)
        except HydraException:  # of a file chosen here, or a mistake, which Hydra explains
            config = super().load_sweep_config(master_config, sweep_overrides)
            return self.checked.setdefault(tuple(sweep_overrides), config)
        own = [override for override in parsed if not override.is_hydra_override()]
        config.hydra.overrides.task = [override.input_line for override in own]
        naming = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            own, kv_sep=naming.kv_sep, item_sep=naming.item_sep, exclude_keys=naming.exclude_keys
        )
        self.checked[tuple(sweep_overrides)] = config
        return config


def is_value(override: Override, groups: DictConfig) -> bool:
    """Whether an override surely sets a value, and chooses no file."""
    key = override.key_or_group
    if key in groups or "/" in key or override.package is not None or override.is_hydra_override():
        return False
    return "." in key or not (override.is_add() or override.is_delete())  # a group that is added has no full stop
