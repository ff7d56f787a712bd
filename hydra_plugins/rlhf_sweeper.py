"""The sweeper of several grids, where Hydra looks for it: it takes plugins from `hydra_plugins` alone."""

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # as Hydra has loaded it by now, which is anew
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf

from rlhf.launch.grids import combinations


class GridsSweeper(BasicSweeper):
    """`hydra/sweeper=grids`: the runs of all `grids`, each a list of overrides beside those that all share."""

    def __init__(self, grids: ListConfig, max_batch_size: int | None, params: DictConfig | None) -> None:
        super().__init__(max_batch_size, {})
        self.own = OmegaConf.create({"grids": grids, "params": params})

    def split_arguments(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """Called by `sweep` with what the command line says."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(self.hydra_context.config_loader)
        jobs = combinations(parser, self.own, overrides)
        return [list(batch) for batch in self.split_overrides_to_chunks(jobs, max_batch_size)]
