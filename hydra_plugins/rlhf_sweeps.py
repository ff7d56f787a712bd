"""The sweeps under their names: `-cn regularizers` finds sweeps/regularizers.yaml from any folder."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from rlhf.compose import SWEEPS


class SweepsSearchPath(SearchPathPlugin):
    """Adds sweeps/ after conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """See Hydra."""
        search_path.append("rlhf", f"file://{SWEEPS}")
