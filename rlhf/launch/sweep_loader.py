"""The runs of a sweep, composed as Hydra does, but once for all runs that choose the same files of conf/.

Hydra composes each run of a sweep anew, a fifth of a second each, though most differ in values alone. Values play no
part in choosing files, and Hydra itself sets them last, so they are set here, by Hydra's own function, on a copy.
"""

import pickle
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict

from rlhf.compose import to_config
from rlhf.config.run import Config
from rlhf.storage.reader import MadeBy
from rlhf.storage.rundir import command_line


class Run(NamedTuple):
    """One run of a sweep, composed and checked: its overrides, what they make, and its directory."""

    overrides: list[str]
    config: Config
    path: Path
    made_by: MadeBy


class SweepLoader(ConfigLoaderImpl):
    """For one sweep, with the answers of the loader it is made from."""

    def __init__(self, loader: ConfigLoader) -> None:
        assert isinstance(loader, ConfigLoaderImpl)
        self.config_search_path = loader.config_search_path
        self.repository = loader.repository
        self.parser = OverridesParser.create()
        self.composed: dict[tuple[str, ...], bytes] = {}  # pickled: five times as fast to copy
        self.runs: dict[tuple[int, tuple[str, ...]], Run] = {}

    def run(self, master: DictConfig, overrides: Sequence[str], number: int) -> Run:
        """The sweep's run of this number; raises what Hydra does, or ConfigError. Asked again, it knows the answer."""
        key = number, tuple(overrides)
        if key not in self.runs:
            composed = self.compose(master, list(overrides))
            composed.hydra.job.num, composed.hydra.job.id = number, str(number)
            path, made_by = Path(composed.hydra.sweep.dir, composed.hydra.sweep.subdir), command_line(composed.hydra)
            with open_dict(composed):
                del composed.hydra
            self.runs[key] = Run(list(overrides), to_config(composed), path.absolute(), made_by)
        return self.runs[key]

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Sweepers call this to see that a run can be composed; `run` will tell, before any is made."""
        return master_config

    def compose(self, master: DictConfig, overrides: list[str]) -> DictConfig:
        """As Hydra's `load_sweep_config`."""
        parsed = self.parser.parse_overrides(overrides)
        groups = master.hydra.runtime.choices
        values = [override for override in parsed if is_value(override, groups)]
        choices = tuple(str(override.input_line) for override in parsed if not is_value(override, groups))
        if choices not in self.composed:
            self.composed[choices] = pickle.dumps(super().load_sweep_config(master, list(choices)))
        config = pickle.loads(self.composed[choices])
        try:
            self._apply_overrides_to_config(values, config)
        except HydraException:  # of a file chosen here, or a mistake, which Hydra explains
            return super().load_sweep_config(master, overrides)
        own = [override for override in parsed if not override.is_hydra_override()]
        config.hydra.overrides.task = [override.input_line for override in own]
        naming = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            own, kv_sep=naming.kv_sep, item_sep=naming.item_sep, exclude_keys=naming.exclude_keys
        )
        return config


@lru_cache(maxsize=1)
def sweep_loader(loader: ConfigLoader) -> SweepLoader:
    """The one for a sweep's forecast and its launcher, made from Hydra's."""
    return SweepLoader(loader)


def is_value(override: Override, groups: DictConfig) -> bool:
    """Whether an override surely sets a value, and chooses no file."""
    key = override.key_or_group
    if key in groups or "/" in key or override.package is not None or override.is_hydra_override():
        return False
    return "." in key or not (override.is_add() or override.is_delete())  # a group that is added has no full stop
