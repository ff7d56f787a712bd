"""Which runs stand for which form of the penalty."""

from typing import Any

from rlhf.report.load import Run
from studies.figures import BLUE, GREY, Dots, Line
from studies.forms import at_default, beside_none, by_form, by_ppo, comparable, with_lora
from tests.report.conftest import make_run, point

POINTS = [point(0, 50.0, 0.0), point(40, 58.0)]


def run(form: str, **settings: Any) -> Run:
    return make_run(POINTS, regularizer__name=form, **settings)


def test_forms_in_their_order_with_all_their_strengths() -> None:
    runs = [run("full_kl"), run("js"), run("mine"), run("none"), run("js", regularizer__strength=3.0)]
    forms = by_form(runs)
    assert list(forms) == ["none", "js", "full_kl", "mine"]
    assert forms["js"] == [runs[1], runs[4]]
    assert at_default(forms) == {"none": [runs[3]], "js": [runs[1]], "full_kl": [runs[0]], "mine": [runs[2]]}


def test_a_form_without_a_run_at_its_own_coefficient() -> None:
    assert at_default(by_form([run("js", regularizer__strength=3.0)])) == {}


def test_two_placements_are_two_forms() -> None:
    runs = [run("bregman"), run("bregman", regularizer__placement="loss"), run("js")]
    assert list(by_form(runs)) == ["js", "bregman", "bregman (loss)"]


def test_another_learning_rate_is_another_form() -> None:
    runs = [run("none", ppo__lr=lr) for lr in (0.004, 0.001, 0.002)]
    forms = by_form([*runs, run("js", ppo__lr=0.002)])
    assert list(forms) == ["none", "none (lr 0.002)", "none (lr 0.004)", "js"]
    assert forms["none"] == [runs[1]]
    both = [run("js", ppo__lr=0.002, regularizer__placement="both", seed=seed) for seed in (0, 1)]
    assert list(by_form([*both, run("js", ppo__lr=0.001)])) == ["js", "js (reward, lr 0.001)"]


def test_a_forms_own_settings_are_never_mixed() -> None:
    often = [run("js", seed=seed) for seed in (0, 1)]
    forms = by_form([run("js", regularizer__coef=0.5), *often])
    assert forms == {"js": often}


def test_ppo_with_a_constant_penalty() -> None:
    runs = [run("js"), run("js", regularizer__schedule="adaptive"), run("js", algorithm__name="rloo")]
    assert by_ppo(runs) == runs[:1]


def test_with_lora() -> None:
    runs = [run("js"), run("js", lora__r=None)]
    assert with_lora(runs) == runs[:1]


def test_comparable_runs_differ_in_the_penalty_and_its_rate_alone() -> None:
    dropout = {"ppo__dropout": True, "lora__dropout": 0.1}
    rated = [run("js", ppo__lr=1e-3), run("dropout_only", ppo__lr=1e-3, **dropout)]
    used = [run("none"), run("js"), run("js", regularizer__strength=3.0), *rated]
    others = [run("js", lora__r=4), run("js", **dropout)]
    chosen = comparable([*others, *used, run("js", lora__r=None), run("js", algorithm__name="rloo")])
    assert chosen.runs == used
    assert chosen.left_out == 2
    assert chosen.differing == ["lora.dropout", "lora.r", "ppo.dropout"]


def test_comparable_prefers_a_set_with_several_forms() -> None:
    many = [run("js", ppo__steps=80, seed=seed) for seed in range(4)]
    assert comparable([*many, run("js"), run("kl")]).runs[0].config["ppo.steps"] == 40


def test_nothing_comparable() -> None:
    assert comparable([run("dropout_only")]).runs == []


def test_panels_show_none_behind_each_form() -> None:
    def line(runs: list[Run], color: str, band: bool) -> Line:
        return Line([(0.0, float(len(runs)), 0.0, 0.0)], color, band)

    panels = beside_none({"none": [run("none")], "js": [run("js"), run("js", seed=1)]}, line)
    assert [panel.title for panel in panels] == ["none", "js"]
    assert [(found.color, found.band, found.points[0][1]) for found in panels[0].lines] == [(GREY, True, 1.0)]
    assert [(found.color, found.band) for found in panels[1].lines] == [(GREY, False), (BLUE, True)]
    alone = beside_none({"js": [run("js")]}, line, lambda runs, color: [Dots([(1.0, 2.0)], color)])
    assert [found.color for found in alone[0].lines] == [BLUE]
    assert alone[0].dots[0].color == BLUE
