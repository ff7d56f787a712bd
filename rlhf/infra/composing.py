"""Hydra's loader of a sweep's configurations, faster: one composition for all runs that choose the same files of conf/.

Hydra composes each run of a sweep anew, a tenth of a second each, though most differ in values alone. Values play no
part in choosing files, and Hydra itself sets them last, so they are set here, by Hydra's own function, on a copy.
"""

import copy

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig


class SweepLoader(ConfigLoaderImpl):
    """As the loader it is made from, whose answers it gives; what it returns is the caller's own."""

    def __init__(self, loader: ConfigLoader) -> None:
        assert isinstance(loader, ConfigLoaderImpl)
        self.config_search_path = loader.config_search_path
        self.repository = loader.repository
        self.composed: dict[tuple[str, ...], DictConfig] = {}

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        parsed = OverridesParser.create().parse_overrides(overrides=sweep_overrides)
        choices = [override for override in parsed if self._chooses(override)]
        values = [override for override in parsed if not self._chooses(override)]
        config = copy.deepcopy(self._with_choices(master_config, choices))
        self._apply_overrides_to_config(values, config)
        self._tell(config, [override for override in parsed if not override.is_hydra_override()])
        return config

    def _chooses(self, override: Override) -> bool:
        """Whether Hydra takes it for a choice of a file, not for a value."""
        return self.repository.group_exists(override.key_or_group) and not isinstance(override.value(), dict)

    def _with_choices(self, master_config: DictConfig, choices: list[Override]) -> DictConfig:
        overrides = [str(override.input_line) for override in choices]
        key = (str(master_config.hydra.job.config_name), *overrides)
        if key not in self.composed:
            self.composed[key] = super().load_sweep_config(master_config, overrides)
        return self.composed[key]

    def _tell(self, config: DictConfig, overrides: list[Override]) -> None:
        """What a run is told of its own overrides."""
        config.hydra.overrides.task = [override.input_line for override in overrides]
        naming = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            overrides=overrides,
            kv_sep=naming.kv_sep,
            item_sep=naming.item_sep,
            exclude_keys=naming.exclude_keys,
        )
