"""Hydra's loader of a sweep's configurations, faster: one composition for all runs that choose the same files of conf/.

Hydra composes each run of a sweep anew, a tenth of a second each, though most differ in values alone. Values play no
part in choosing files, and Hydra itself sets them last, so they are set here, by Hydra's own function, on a copy.
"""

import copy

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import IConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig


class SweepLoader(ConfigLoaderImpl):
    """For one sweep, with the answers of the loader it is made from.

    Hydra's sweeper loads each run's configuration to see that it can be, and forgets it: `take` hands over what it saw.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        assert isinstance(loader, ConfigLoaderImpl)
        self.config_search_path = loader.config_search_path
        self.repository = loader.repository
        self.composed: dict[tuple[str, ...], DictConfig] = {}
        self.seen: dict[tuple[str, ...], DictConfig] = {}
        self.groups: IConfigRepository | None = None

    def take(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """A run's configuration, to be the caller's own."""
        seen = self.seen.pop(tuple(sweep_overrides), None)
        return self._load(master_config, sweep_overrides) if seen is None else seen

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        self.seen[tuple(sweep_overrides)] = self._load(master_config, sweep_overrides)
        return self.seen[tuple(sweep_overrides)]

    def _load(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        parsed = OverridesParser.create().parse_overrides(overrides=sweep_overrides)
        chosen = [self._chooses(override, master_config) for override in parsed]
        choices = [override for override, chooses in zip(parsed, chosen, strict=True) if chooses]
        values = [override for override, chooses in zip(parsed, chosen, strict=True) if not chooses]
        config = copy.deepcopy(self._with_choices(master_config, choices))
        self._apply_overrides_to_config(values, config)
        self._tell(config, [override for override in parsed if not override.is_hydra_override()])
        return config

    def _chooses(self, override: Override, master_config: DictConfig) -> bool:
        """Whether Hydra takes it for a choice of a file, or for itself; else it is a value."""
        if override.is_hydra_override():
            return True
        return not isinstance(override.value(), dict) and self._groups(master_config).group_exists(
            override.key_or_group
        )

    def _groups(self, master_config: DictConfig) -> IConfigRepository:
        """All folders that files are chosen from; the configuration itself may name some."""
        if self.groups is None:
            own = list(master_config.hydra.overrides.hydra)
            _, self.groups = self._parse_overrides_and_create_caching_repo(master_config.hydra.job.config_name, own)
        return self.groups

    def _with_choices(self, master_config: DictConfig, choices: list[Override]) -> DictConfig:
        overrides = [str(override.input_line) for override in choices]
        key = tuple(overrides)
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
