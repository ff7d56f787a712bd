"""The runs of a sweep that takes them all: every combination of one grid, or of several (`hydra/sweeper=grids`)."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from rlhf.errors import ConfigError


def combinations(parser: OverridesParser, sweeper: DictConfig, arguments: Sequence[Override]) -> list[list[str]]:
    """The overrides of each run, without repeats: the command line wins over a grid, which wins over `params`.

    What all share varies slowest, so that one world's runs come before the next's. Raises ConfigError where something
    selects nothing, or `grids` is no list of lists.
    """
    params = parser.parse_overrides([f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()])
    grids = [parser.parse_overrides(grid) for grid in grids_of(sweeper)]
    for override in (each for part in (params, arguments, *grids) for each in part):
        if override.is_sweep_override() and override.is_discrete_sweep() and not list(override.sweep_string_iterator()):
            allowed = "is not allowed: it selects nothing, so that there would be no run"
            raise ConfigError(f"{override.input_line} {allowed}")
    given = {each.get_key_element() for each in arguments}
    free = [[each for each in grid if each.get_key_element() not in given] for grid in grids]
    pairs = ((outer, inner) for outer in product([*params, *arguments]) for grid in free for inner in product(grid))
    return list(
        {
            tuple(job.items()): [f"{key}={value}" for key, value in job.items()] for job in (a | b for a, b in pairs)
        }.values()
    )


def product(overrides: Sequence[Override]) -> list[dict[str, str]]:
    """All combinations, as Hydra makes them: key -> value of each."""
    (jobs,) = BasicSweeper.split_arguments(list(overrides), None)
    return [dict(each.split("=", 1) for each in job) for job in jobs]


def grids_of(sweeper: DictConfig) -> list[list[str]]:
    """The grids of a sweeper; one that has none takes the combinations of what all share."""
    found: Any = OmegaConf.to_container(OmegaConf.create({"grids": sweeper.get("grids", [[]])}))
    grids = found["grids"]
    if not isinstance(grids, list) or not grids or not all(isinstance(grid, list) for grid in grids):
        raise ConfigError(f"hydra.sweeper.grids={grids!r} is not allowed: it must be a list of lists of overrides")
    return [[str(each) for each in grid] for grid in grids]
