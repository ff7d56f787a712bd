"""The fast loader of a sweep's configurations beside Hydra's own, over every sweep that is shipped."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rlhf.launch.forecast import sweep_jobs
from rlhf.launch.sweep_loader import SweepLoader, sweep_loader
from tests.configure import CONF

SWEEPS = CONF.parent / "sweeps"
SOME = 6
"""Runs of each sweep that are compared, spread over it: Hydra takes a tenth of a second for one."""


@contextmanager
def master(*overrides: str, name: str = "config", folder: Path = CONF) -> Iterator[tuple[ConfigLoader, DictConfig]]:
    """Hydra's loader, and the configuration of a sweep."""
    with initialize_config_dir(str(folder), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        arguments = ["hydra.mode=MULTIRUN", f"hydra.searchpath=[file://{CONF}]", *overrides]
        yield loader, loader.load_configuration(name, arguments, run_mode=RunMode.MULTIRUN)


def text(config: DictConfig) -> str:
    return OmegaConf.to_yaml(config)


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*[!bh].yaml")), ids=lambda path: path.stem)  # not wandb, search
def test_every_shipped_sweep_is_composed_as_hydra_does(path: Path) -> None:
    with master(name=path.stem, folder=path.parent) as (loader, config):
        jobs = sweep_jobs(config)
        fast = SweepLoader(loader)
        for job in jobs[:: max(1, len(jobs) // SOME)]:
            assert text(fast.compose(config, job)) == text(loader.load_sweep_config(config, job))


@pytest.mark.parametrize(
    "overrides",
    [
        ["lora.r=4", "experiment=smoke", "lora.r=8"],  # a value before the file that sets it; the last one counts
        ["ppo.steps=7", "ppo=paper"],
        ["+regularizer.function.scale=2", "regularizer=custom", "regularizer.function._target_=math.log"],
        ["model={path: somewhere}", "sft.epochs=0"],  # a dictionary is a value, where its key is a group
        ["++data.seed=3", "experiment=smoke"],
        ["~tracker", "+tracker=none", "seed=1", "++seed=2"],
        ["lora.target_modules=[q_proj,v_proj]", "hydra.job.name=other"],
        ["regularizer=full_alpha", "regularizer.coef=1e-3", "experiment=smoke", "data.seed=${seed}"],
    ],
    ids=",".join,
)
def test_every_kind_of_override_is_taken_as_hydra_takes_it(overrides: list[str]) -> None:
    with master() as (loader, config):
        assert text(SweepLoader(loader).compose(config, overrides)) == text(loader.load_sweep_config(config, overrides))


@pytest.mark.parametrize(
    "override", ["lora.typo=1", "lora=typo", "lora.r=many", "+seed=1", "seed=null", "~nothing", "~checks.min_accuracy"]
)
def test_what_hydra_refuses_is_refused_in_its_words(override: str) -> None:
    with master() as (loader, config):
        with pytest.raises(HydraException) as told:
            loader.load_sweep_config(config, ["seed=1", override])
        with pytest.raises(HydraException) as fast:
            SweepLoader(loader).compose(config, ["seed=1", override])
    assert str(fast.value) == str(told.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ("lora.target_modules=[q_proj,v_proj],[k_proj]", "model.path='a b','~/c'", "++seed=range(0,2)"),
        ("ppo.lr=1e-4,0.00050", "data.people=200", "rollout.temperature=1.0", "regularizer.coef=1.25,1.5", "seed=0,1"),
        ("hydra.sweep.subdir=run-${hydra.job.num}", "seed=0,1,2,3,4,5,6,7"),
    ],
)
def test_directories_are_those_that_hydra_will_name(overrides: tuple[str, ...]) -> None:
    with master(*overrides) as (loader, config):
        jobs, fast = sweep_jobs(config), SweepLoader(loader)
        found = [fast.run(config, job, number).path.name for number, job in enumerate(jobs)]
        assert len(set(found)) == len(jobs) == 8
        job = loader.load_sweep_config(config, jobs[5])
        job.hydra.job.num = 5
        assert found[5] == job.hydra.sweep.subdir


def test_what_is_composed_is_shared_with_nobody_and_a_run_is_composed_once() -> None:
    with master() as (loader, config):
        fast = sweep_loader(loader)
        fast.compose(config, ["lora=full"]).seed = 5
        assert text(fast.compose(config, ["lora=full"])) == text(loader.load_sweep_config(config, ["lora=full"]))
        assert sweep_loader(loader).run(config, ["seed=7"], 3) is fast.run(config, ["seed=7"], 3)
        assert fast.run(config, ["seed=7"], 3).config.seed == 7


def test_a_name_is_the_sweeps_and_no_part_of_its_runs(tmp_path: Path) -> None:
    with master("name=mine", "seed=0,1") as (loader, config):
        assert config.hydra.sweep.dir == "outputs/sweeps/mine"
        job = sweep_jobs(config)[0]
        assert SweepLoader(loader).run(config, job, 0).path == Path("outputs/sweeps/mine/seed=0").absolute()
        assert SweepLoader(loader).compose(config, job).hydra.run.dir == "outputs/runs/mine"
