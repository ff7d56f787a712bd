"""Which runs are pooled, what their group is called, and which groups may be compared."""

import pytest

from rlhf.errors import UserError
from rlhf.report.groups import ablation, distinguishing
from rlhf.report.load import Run
from tests.report.conftest import make_run, point


def run(rate: float, world: int = 0, seed: int = 0, **settings: object) -> Run:
    return make_run([point(0, 50.0), point(40, rate)], data__seed=world, seed=seed, path=f"{rate}", **settings)


def form(name: str, rate: float, coef: float, **more: object) -> Run:
    return run(rate, regularizer__name=name, regularizer__coef=coef, **more)


def test_runs_of_one_setting_are_one_group_whatever_their_seeds() -> None:
    runs = [form("js", 60.0 + 4 * world + 2 * seed, 1.5, world=world, seed=seed) for world in (0, 1) for seed in (0, 1)]
    found = ablation([*runs, form("kl", 55.0, 0.1)])
    # worlds of 61 and 65, of equal errors
    assert [(group.label, len(group.runs), group.mean(found.headline)) for group in found.groups] == [
        ("js", 4, pytest.approx(63.0)),
        ("kl", 1, 55.0),
    ]
    assert found.keys == ["regularizer.name"]
    assert found.along == ["regularizer.coef"]  # it follows from the name
    assert found.compared == found.groups


def test_a_label_tells_what_is_unusual() -> None:
    runs = [form("js", 60.0, 1.5), form("kl", 55.0, 0.1), form("js", 58.0, 1.5, regularizer__strength=3.0)]
    runs += [form("kl", 50.0, 0.1, lora__r=None), form("kl", 49.0, 0.1, lora__r=64, regularizer__strength=3.0)]
    labels = {group.label for group in ablation(runs).groups}
    assert labels >= {"js", "kl", "js (strength=3)", "kl (r=64, strength=3)"}
    assert any(label.startswith("kl (all weights") for label in labels)


def test_no_penalty_is_called_so_whatever_the_others_strengths() -> None:
    weak = {"regularizer__strength": 0.1}
    runs = [form("js", 60.0, 1.5, **weak), form("kl", 55.0, 0.1, **weak), form("none", 50.0, 0.0)]
    assert {group.label for group in ablation(runs).groups} == {"js", "kl", "none"}


def test_without_a_penalty_to_compare_the_keys_are_named() -> None:
    assert [group.label for group in ablation([run(60.0, lora__r=8), run(55.0, lora__r=2)]).groups] == ["r=8", "r=2"]
    assert [group.label for group in ablation([run(60.0)]).groups] == ["all runs"]


def test_keys_of_the_same_last_part_are_written_out() -> None:
    dropouts = [(0.0, True), (0.1, False), (0.1, True)]
    runs = [run(50.0 + place, lora__dropout=p, ppo__dropout=on) for place, (p, on) in enumerate(dropouts)]
    assert "lora.dropout=0.1 (ppo.dropout=false)" in {group.label for group in ablation(runs).groups}


def test_compared_are_those_that_differ_in_their_penalty_alone() -> None:
    runs = [form("js", 60.0, 1.5), form("kl", 55.0, 0.1), form("none", 40.0, 0.0), form("js", 70.0, 1.5, lora__r=64)]
    # dropout follows from the name, and keeps nobody out
    runs.append(form("dropout_only", 41.0, 0.0, ppo__dropout=True, lora__dropout=0.1))
    found = ablation(runs)
    assert [group.label for group in found.groups] == ["js (r=64)", "js", "kl", "dropout_only", "none"]
    assert [group.label for group in found.compared] == ["js", "kl", "dropout_only", "none"]


def test_by_takes_the_largest_set_that_agrees_on_all_else() -> None:
    runs = [
        form("js", 60.0, 1.5),
        form("kl", 55.0, 0.1),
        form("js", 70.0, 1.5, lora__r=64),
        form("js", 71.0, 1.5, lora__r=4),
    ]
    found = ablation(runs, ["regularizer.name"])
    assert [group.label for group in found.groups] == ["js", "kl"]
    assert (found.along, found.differing) == (["regularizer.coef"], ["lora.r"])
    assert [left.metrics["win_rate_greedy"] for left in found.left_out] == [70.0, 71.0]
    ranks = ablation(runs, ["lora.r"])
    assert [group.label for group in ranks.groups] == ["r=4", "r=64", "r=8"]
    assert [left.metrics["win_rate_greedy"] for left in ranks.left_out] == [55.0]


def test_by_several_keys_and_by_a_seed() -> None:
    runs = [
        form("js", 60.0, 1.5),
        form("kl", 55.0, 0.1),
        form("js", 70.0, 1.5, lora__r=64),
        form("js", 66.0, 1.5, seed=1),
    ]
    assert len(ablation(runs, ["regularizer.name", "lora.r"]).groups) == 3
    assert [group.label for group in ablation(runs[:1] + runs[3:], ["seed"]).groups] == ["seed=1", "seed=0"]


def test_an_unknown_key_is_refused_with_those_that_differ() -> None:
    with pytest.raises(UserError, match=r"--by lora.rank: no run has this key; the runs differ in lora.r, seed"):
        ablation([run(60.0), run(61.0, lora__r=4)], ["lora.rank"])


def test_best_of_n_beside_others_has_all_compared_by_their_sampled_win_rates() -> None:
    runs = [run(60.0), run(70.0, algorithm__name="best_of_n"), run(64.0, algorithm__name="rloo")]
    runs[0].metrics["win_rate"] = 66.0
    runs[1].metrics["win_rate_greedy"] = None  # sampled, 60
    found = ablation(runs)
    assert found.headline == "win_rate"
    assert [group.label for group in found.groups] == ["ppo", "best_of_n", "rloo"]
    # those that differ in their penalty alone have greedy ones, whatever else lies beside them
    found = ablation([form("js", 60.0, 1.5), form("kl", 55.0, 0.1), runs[1]])
    assert found.headline == "win_rate_greedy"
    assert [group.label for group in found.compared] == ["js", "kl"]
    assert found.groups[-1].runs == [runs[1]]


def test_no_runs() -> None:
    assert ablation([]).groups == []


def test_distinguishing_keeps_what_is_needed() -> None:
    runs = [form("js", 60.0, 1.5), form("kl", 55.0, 0.1)]
    assert distinguishing(runs, ["regularizer.coef", "regularizer.name"]) == ["regularizer.name"]
    assert distinguishing(runs, ["regularizer.coef", "regularizer.name"], ["regularizer.coef"]) == ["regularizer.coef"]


def test_a_set_in_which_the_keys_differ_comes_before_a_larger_one() -> None:
    alike = [form("js", 70.0 + seed, 1.5, lora__r=64, seed=seed) for seed in (0, 1, 2)]
    found = ablation([*alike, form("js", 60.0, 1.5), form("kl", 55.0, 0.1)], ["regularizer.name"])
    assert [(group.label, len(group.runs)) for group in found.groups] == [("js", 1), ("kl", 1)]
    assert len(found.left_out) == 3
