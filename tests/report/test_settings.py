"""Only runs of one setting are compared."""

from typing import Any

import pytest

from rlhf.report.settings import differences, distinct, fixed
from studies.selection import agreeing
from tests.report.conftest import make_run, point

POINTS = [point(0, 50.0, 0.0), point(40, 58.0)]


def run(path: str = "", **settings: Any) -> Any:
    return make_run(POINTS, path=path, **settings)


@pytest.mark.parametrize(
    "setting",
    [
        {"seed": 1},
        {"data__seed": 1},
        {"cache_dir": "x"},
        {"device": "cpu"},
        {"model__threads": 2},
        {"checks__min_accuracy": 0.0},
        {"evaluation__every": 5},
        {"evaluation__interim_prompts": 256},
        {"evaluation__control_temperatures": [0.7]},
    ],
)
def test_what_is_no_setting(setting: dict[str, Any]) -> None:
    assert len(agreeing([run(), run(**setting)]).runs) == 2


@pytest.mark.parametrize(
    "setting",
    [{"data__people": 30}, {"lora__r": 4}, {"ppo__steps": 80}, {"rollout__batch_size": 8}, {"evaluation__prompts": 5}],
)
def test_every_other_key_is_a_setting(setting: dict[str, Any]) -> None:
    chosen = agreeing([run(), run(**setting)], ("regularizer.",))
    assert len(chosen.runs) == 1
    assert chosen.differing == [next(iter(setting)).replace("__", ".")]


def test_a_key_that_only_some_have_is_a_setting() -> None:
    older = run()
    del older.config["ppo.average"]
    assert agreeing([older, run(seed=1), run(seed=2)]).differing == ["ppo.average"]
    assert differences(older, run(), ()) == ["ppo.average"]
    null = run(ppo__average=None)
    assert differences(older, null, ()) == ["ppo.average"]


def test_one_run_for_each_setting_world_and_seed() -> None:
    fine = make_run([point(0, 50.0), point(20, 55.0), point(40, 58.0)], path="b", evaluation__every=20)
    others = [run("d", seed=1), run("c", data__seed=1), run("a", ppo__steps=1)]
    assert [found.path for found in distinct([run("e"), fine, run("f"), *others])] == ["a", "b", "c", "d"]
    assert [found.path for found in distinct([run("g"), run("h")])] == ["g"]


def test_a_key_stands_for_itself_and_one_with_a_stop_for_all_below() -> None:
    one, other = run(), run(ppo__lr=1.0)
    assert "ppo.lr" not in fixed(one, ("ppo.lr",))
    assert "ppo.steps" in fixed(one, ("ppo.lr",))
    assert "ppo.lr_schedule" in fixed(run(ppo__lr_schedule="linear"), ("ppo.lr",))
    assert [key for key in fixed(one, ("ppo.",)) if key.startswith("ppo")] == []
    assert "algorithm.name" in fixed(one, ("algorithm",))
    assert fixed(one, ("ppo.lr",)) == fixed(other, ("ppo.lr",))
