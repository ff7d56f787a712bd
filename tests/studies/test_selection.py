"""Only runs of one setting are compared: which set of them a section takes."""

from typing import Any

from studies.selection import agreeing, described, like, with_others
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


def test_a_set_with_a_contrast_comes_before_a_larger_one() -> None:
    larger = [run(ppo__steps=80, seed=seed) for seed in range(5)]
    both = [run(), run(lora__r=4)]
    chosen = agreeing([*larger, *both], ("lora.r",), lambda run: run.config["lora.r"])
    assert chosen.runs == both


def test_worlds_and_seeds_without_a_contrast_are_left_out() -> None:
    both = [run(lora__r=rank, data__seed=world) for world in (1, 2) for rank in (4, 8)]
    lonely = [run(lora__r=8, data__seed=3), run(lora__r=8, data__seed=1, seed=1)]
    chosen = agreeing([*lonely, *both], ("lora.r",), lambda run: run.config["lora.r"])
    assert (chosen.runs, chosen.left_out, chosen.alone) == (both, 0, 2)
    assert described(chosen, "2 x 1").endswith("Left out: 2 of worlds that have nothing to set beside them.")
    others = [run(lora__r=None, data__seed=world) for world in (2, 3)]
    more = with_others(chosen, others, 9)
    assert (more.runs, more.left_out, more.alone) == ([*both, others[0]], 1, 3)


def test_of_equal_sets_the_first_is_taken() -> None:
    assert agreeing([run(ppo__steps=1), run(ppo__steps=2)]).runs[0].config["ppo.steps"] == 1


def test_nothing_to_choose_from() -> None:
    chosen = agreeing([])
    assert (chosen.runs, chosen.left_out, chosen.differing) == ([], 0, [])


def test_like() -> None:
    runs = [run(), run(ppo__dropout=True, regularizer__name="none"), run(ppo__steps=1, regularizer__name="none")]
    assert like(runs, runs[0], ("regularizer.", "ppo.dropout")) == runs[:2]


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
