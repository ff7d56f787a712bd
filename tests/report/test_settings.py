"""Only runs of one setting are compared."""

from typing import Any

import pytest

from rlhf.report.settings import agreeing, described, differences, distinct, fixed, like
from tests.report.conftest import make_run, point

POINTS = [point(0, 50.0, 0.0), point(40, 58.0)]


def run(path: str = "", **settings: Any) -> Any:
    return make_run(POINTS, path=path, **settings)


def test_the_largest_set_of_one_setting() -> None:
    few = [run(ppo__lr=1e-3, seed=seed) for seed in range(2)]
    many = [run(seed=seed) for seed in range(3)]
    chosen = agreeing([*few, *many])
    assert chosen.runs == many
    assert (chosen.left_out, chosen.differing) == (2, ["ppo.lr"])


def test_what_varies_does_not_split() -> None:
    runs = [run(regularizer__name=name, regularizer__coef=coef) for name, coef in (("kl", 0.1), ("js", 1.5))]
    assert agreeing(runs, ("regularizer.",)).runs == runs
    assert len(agreeing(runs, ("regularizer.name",)).runs) == 1
    assert agreeing(runs, ("regularizer.name", "regularizer.coef")).left_out == 0


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


def test_a_set_with_a_contrast_comes_before_a_larger_one() -> None:
    larger = [run(ppo__steps=80, seed=seed) for seed in range(5)]
    both = [run(), run(lora__r=4)]
    chosen = agreeing([*larger, *both], ("lora.r",), lambda run: run.config["lora.r"])
    assert chosen.runs == both


def test_of_equal_sets_the_first_is_taken() -> None:
    assert agreeing([run(ppo__steps=1), run(ppo__steps=2)]).runs[0].config["ppo.steps"] == 1


def test_nothing_to_choose_from() -> None:
    chosen = agreeing([])
    assert (chosen.runs, chosen.left_out, chosen.differing) == ([], 0, [])


def test_like() -> None:
    runs = [run(), run(ppo__dropout=True, regularizer__name="none"), run(ppo__steps=1, regularizer__name="none")]
    assert like(runs, runs[0], ("regularizer.", "ppo.dropout")) == runs[:2]


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


def test_what_a_section_says_of_its_runs() -> None:
    chosen = agreeing([run(), run(lora__r=4), run(ppo__steps=1)], ("lora.r",))
    text = described(chosen, "1 x 1")
    assert text.startswith("2 runs (worlds x seeds: 1 x 1)")
    assert "`ppo.steps=40`" in text
    assert "`lora.r=" not in text
    assert text.endswith("Left out: 1 of other settings (`ppo.steps`).")
    assert "Left out" not in described(agreeing([run()]), "1 x 1")


def test_a_long_list_of_keys_is_cut() -> None:
    other = run(
        ppo__steps=1, lora__r=1, lora__alpha=1.0, ppo__lr=1.0, ppo__dropout=True, evaluation__prompts=1, data__people=1
    )
    text = described(agreeing([run(), run(seed=1), other]), "1 x 2")
    assert text.endswith(
        "(`data.people`, `evaluation.prompts`, `lora.alpha`, `lora.r`, `ppo.dropout`, `ppo.lr`, others)."
    )
