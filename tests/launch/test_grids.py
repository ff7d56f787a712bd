"""The runs of sweeps that take all: what is combined with what, and which setting wins."""

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from rlhf.errors import ConfigError
from rlhf.launch.grids import combinations

GRIDS = [["regularizer=none"], ["regularizer=kl,js", "ppo.lr=2"]]


def jobs(*arguments: str, **sweeper: Any) -> list[str]:
    parser = OverridesParser.create()
    found = combinations(parser, OmegaConf.create(sweeper), parser.parse_overrides(list(arguments)))
    return [" ".join(job) for job in found]


def test_one_grid_is_every_combination() -> None:
    assert jobs("lora.r=1,2", params={"seed": "0,1"}) == [
        "seed=0 lora.r=1",
        "seed=0 lora.r=2",
        "seed=1 lora.r=1",
        "seed=1 lora.r=2",
    ]


def test_each_of_several_grids_has_what_all_share_and_a_world_comes_whole_before_the_next() -> None:
    assert jobs(params={"data.seed": "0,1"}, grids=GRIDS) == [
        "data.seed=0 regularizer=none",
        "data.seed=0 regularizer=kl ppo.lr=2",
        "data.seed=0 regularizer=js ppo.lr=2",
        "data.seed=1 regularizer=none",
        "data.seed=1 regularizer=kl ppo.lr=2",
        "data.seed=1 regularizer=js ppo.lr=2",
    ]


def test_a_grid_wins_over_params_and_the_command_line_over_both_without_repeats() -> None:
    params = {"data.seed": "0,1", "ppo.lr": "1"}
    assert jobs(params=params, grids=GRIDS)[:2] == [
        "data.seed=0 ppo.lr=1 regularizer=none",
        "data.seed=0 ppo.lr=2 regularizer=kl",
    ]
    assert jobs("regularizer=full_kl", "data.seed=7", params=params, grids=GRIDS) == [
        "data.seed=7 ppo.lr=1 regularizer=full_kl",
        "data.seed=7 ppo.lr=2 regularizer=full_kl",
    ]


@pytest.mark.parametrize("grids", [3, [], ["seed=0"], {"a": []}])
def test_grids_that_are_none_are_refused(grids: Any) -> None:
    with pytest.raises(ConfigError, match=r"^hydra.sweeper.grids=.* is not allowed: it must be a list of lists"):
        jobs(grids=grids)


def test_what_selects_nothing_is_refused_in_a_grid_too() -> None:
    with pytest.raises(ConfigError, match=r"^seed=range\(0,0\) is not allowed: it selects nothing"):
        jobs(grids=[["seed=range(0,0)"]])
