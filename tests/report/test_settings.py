"""What runs are set to, and the commands that make them again."""

from typing import Any

import pytest

from rlhf.report.load import Run
from rlhf.report.settings import command, common, differences, distinct, fixed, repeated
from rlhf.storage.reader import MadeBy
from tests.report.conftest import make_run, point


def run(path: str = "", **settings: Any) -> Run:
    return make_run([point(0, 50.0, 0.0), point(40, 58.0)], path=path, **settings)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("seed", 1), ("data__seed", 1), ("cache_dir", "x"), ("device", "cpu"), ("model__threads", 2)],
        *[("checks__min_accuracy", 0.0), ("evaluation__every", 5), ("evaluation__interim_prompts", 256)],
        *[("checkpoint_seconds", 5.0), ("checkpoint_local_dir", "x"), ("rollout__cuda_graphs", True)],
        ("evaluation__control_temperatures", [0.7]),
    ],
)
def test_what_is_no_setting(key: str, value: Any) -> None:
    assert differences(run(), run(**{key: value})) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("data__people", 30), ("lora__r", 4), ("ppo__steps", 80), ("rollout__batch_size", 8), ("evaluation__prompts", 5)],
)
def test_every_other_key_is_a_setting(key: str, value: int) -> None:
    assert differences(run(), run(**{key: value}), ("regularizer.",)) == [key.replace("__", ".")]


def test_a_key_that_only_some_have_is_a_setting() -> None:
    older = run()
    del older.config["ppo.average"]
    assert differences(older, run()) == differences(older, run(ppo__average=None)) == ["ppo.average"]


def test_one_run_for_each_setting_world_and_seed() -> None:
    fine = make_run([point(0, 50.0), point(20, 55.0), point(40, 58.0)], path="b", evaluation__every=20)
    others = [run("d", seed=1), run("c", data__seed=1), run("a", ppo__steps=1)]
    assert [found.path for found in distinct([run("e"), fine, run("f"), *others])[0]] == ["a", "b", "c", "d"]
    twins = [run("g"), run("h"), make_run([point(0, 50.0), point(40, 59.0)], path="i")]
    (used,), repeats = distinct(twins)
    assert used.path == "g"
    assert [repeated(pair) for pair in repeats] == ["h repeats g", "i repeats g, with other figures"]


def test_a_key_stands_for_itself_and_one_with_a_stop_for_all_below() -> None:
    one = fixed(run(ppo__lr_schedule="linear"), ("ppo.lr", "algorithm"))
    assert {"ppo.steps", "ppo.lr_schedule", "algorithm.name"} <= one.keys()
    assert "ppo.lr" not in one
    assert one == fixed(run(ppo__lr_schedule="linear", ppo__lr=1.0), ("ppo.lr", "algorithm"))
    assert [key for key in fixed(run(), ("ppo.",)) if key.startswith("ppo")] == []


def test_common_settings_leave_out_what_differs_and_seeds() -> None:
    shared = common([run(lora__r=8), run(lora__r=4, seed=1)])
    assert shared["rollout.batch_size"] == 64
    assert not {"lora.r", "seed", "data.seed", "cache_dir"} & set(shared)
    assert common([]) == {}


def made(*overrides: str, config: str = "config", world: int = 0, seed: int = 0, **more: Any) -> Run:
    made_by = MadeBy(config=config, overrides=list(overrides), **more)
    return Run("", {"data.seed": world, "seed": seed}, {}, [], None, made_by)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        (
            [made("regularizer=kl", "lora.r=16", "seed=1", seed=1)],
            ["python -m rlhf.run regularizer=kl lora.r=16 data.seed=0 seed=1"],
        ),
        (
            [made("lora.r=4", config="settings", world=24)],
            ["python -m rlhf.run -cn settings lora.r=4 data.seed=24 seed=0"],
        ),
        (
            [made("checks.min_accuracy=null", config="mine", config_dir="/my conf")],
            ["python -m rlhf.run -cd '/my conf' -cn mine checks.min_accuracy=null data.seed=0 seed=0"],
        ),
        ([made("data.root=/some where")], ["python -m rlhf.run 'data.root=/some where' data.seed=0 seed=0"]),
        (
            [made(world=world, seed=seed) for world in (0, 1) for seed in (0, 1)],
            ["python -m rlhf.run -m data.seed=0,1 seed=0,1"],
        ),
        (
            [made(world=world, seed=seed) for world, seed in ((0, 0), (0, 1), (1, 0))],
            ["python -m rlhf.run -m data.seed=0 seed=0,1", "python -m rlhf.run data.seed=1 seed=0"],
        ),
        ([Run("", {"data.seed": 0, "seed": 0}, {}, [], None)], []),
    ],
    ids=["seeds", "sweep", "folder of its own", "quoted", "worlds alike", "worlds differ", "no command"],
)
def test_the_command_repeats_overrides_with_the_seeds_of_the_runs(runs: list[Run], expected: list[str]) -> None:
    assert command(runs).splitlines() == expected
