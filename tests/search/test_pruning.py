"""Decisions from the files of a sweep's runs, made by hand; and one real run that is stopped on the way."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.clone import branch, main
from rlhf.errors import DataError, Pruned, UserError
from rlhf.process.signals import StopSignals
from rlhf.search.pruning import Pruning, request_stop
from rlhf.stages.train import train_in
from rlhf.stop import stop
from rlhf.storage.checkpoint import load_checkpoint
from rlhf.storage.files import write_json
from rlhf.storage.reader import read_decisions, read_parent
from rlhf.storage.rundir import RunDirectory
from tests.search.runs import figures, make_run, searched
from tests.stages.conftest import MakeSetting, make_setting
from tests.stages.test_evaluator import evaluator
from tests.stages.test_train import rows

__all__ = ["make_setting"]


def decide(sweep: Path, reward: float, *overrides: str, step: int = 10) -> Pruned | None:
    """What is decided of a run that comes to a step with this reward, beside those that are there."""
    config = searched("prune=asha", *overrides)
    directory = make_run(sweep / f"own{len(list(sweep.iterdir()))}", config, {5: 0.0})
    return Pruning(config, directory).check(step, figures(reward))


def test_a_run_is_judged_by_those_of_its_world_that_have_come_as_far(tmp_path: Path) -> None:
    make_run(tmp_path / "behind", searched(), {5: 9.0})  # has not come as far
    make_run(tmp_path / "elsewhere", searched("data.seed=7"), {10: 9.0})
    make_run(tmp_path / "on_other_prompts", searched("evaluation.split=tune"), {10: 9.0})
    assert decide(tmp_path, 1.0) is None
    make_run(tmp_path / "better", searched("ppo.lr=1"), {10: 2.0, 15: -9.0}, state="failed")
    decided = decide(tmp_path, 1.5)
    assert decided is not None
    assert decided.step == 10
    assert str(decided) == "prune=asha: reward 1.5 at step 10; of 1 runs that came as far before, 1 are ahead"
    assert decide(tmp_path, 1.5, "prune.direction=minimize") is None
    assert decide(tmp_path, 1.5, step=15) is None  # no rung


def test_a_decision_is_written_and_not_made_anew(tmp_path: Path) -> None:
    make_run(tmp_path / "better", searched("ppo.lr=1"), {10: 2.0})
    config = searched("prune=asha")
    pruned, kept = (make_run(tmp_path / name, config, {}) for name in ("pruned", "kept"))
    first = Pruning(config, pruned).check(10, figures(1.0))
    assert Pruning(config, kept).check(10, figures(3.0)) is None
    make_run(tmp_path / "best", searched("ppo.lr=2"), {10: 5.0})
    assert str(Pruning(config, pruned).check(10, figures(9.0))) == str(first)
    assert Pruning(config, kept).check(10, None) is None
    [row] = read_decisions(kept.path)
    assert row == {
        **{"step": 10, "rule": "asha", "figure": "reward", "value": 3.0, "others": {"better": 2.0}, "reason": None}
    }


def test_the_median_rule_reads_all_that_came_before(tmp_path: Path) -> None:
    for name, rewards in {"a": {5: 1.0, 10: 3.0}, "b": {5: 2.0, 10: 6.0}, "c": {5: 0.0, 10: 10.0}}.items():
        make_run(tmp_path / name, searched(), rewards)
    config = searched("prune=median", "prune.others=3", "prune.first=5")
    assert Pruning(config, make_run(tmp_path / "high_once", config, {5: 4.0})).check(10, figures(0.0)) is None
    assert Pruning(config, make_run(tmp_path / "low", config, {5: 3.0})).check(10, figures(3.9)) is not None


def test_what_can_not_be_read_is_passed_over_and_a_branch_counts_from_its_own_steps_on(tmp_path: Path) -> None:
    torn = make_run(tmp_path / "torn", searched("ppo.lr=1"), {10: 9.0})
    torn.history.write_text("{\n")
    branch = make_run(tmp_path / "branch", searched("ppo.lr=2"), {10: 9.0, 15: 9.0})
    write_json(branch.path / "parent.json", {"path": "elsewhere", "step": 10})
    assert decide(tmp_path, 1.0) is None


def test_somebody_may_stop_a_run_at_any_step_whatever_its_rule(tmp_path: Path) -> None:
    config = searched()
    directory = make_run(tmp_path / "own", config, {})
    request_stop(directory.path)
    assert str(Pruning(config, directory).check(7, None)) == "stopped at step 7 by rlhf stop"
    assert not list(directory.path.glob(".stop*"))
    assert str(Pruning(config, directory).check(7, None)) == "stopped at step 7 by rlhf stop"  # its process has died


def test_a_run_that_is_pruned_keeps_its_figures_and_state_and_ends_there_again(
    make_setting: MakeSetting, tmp_path: Path
) -> None:
    setting = make_setting("ppo.steps=4", "evaluation.every=1", "objective=reward", "prune=asha", "prune.first=1")
    make_run(tmp_path / "better", setting.config, {1: 1e3})
    directory = make_run(tmp_path / "own", setting.config, {})
    with setting.learner() as learner, pytest.raises(Pruned, match="prune=asha"):
        train_in(learner, evaluator(setting), directory, StopSignals())
    before = rows(directory)
    assert [row["step"] for row in before] == [0, 1]
    (tmp_path / "better" / "history.jsonl").unlink()
    with setting.learner() as learner, pytest.raises(Pruned):  # its process died before it could say that it had ended
        train_in(learner, evaluator(setting), directory, StopSignals())
    assert rows(directory) == before
    assert [path.name for path in directory.checkpoints.iterdir()] == ["step-00000001"]

    made = branch(directory.path, ["regularizer.coef=0.3", "ppo.lr=0.01"])
    assert made.name == "own,step=1,ppo.lr=0.01,regularizer.coef=0.3"
    config, state = RunDirectory(made).config(), load_checkpoint(made / "checkpoint")
    assert state is not None
    assert state["pieces"] == []  # of an evaluation by the parent's settings
    with replace(setting, config=config).learner() as learner:
        train_in(learner, evaluator(setting), RunDirectory(made), StopSignals())
    found = rows(RunDirectory(made))
    assert found[:2] == before
    assert [(row["step"], row["regularizer/coef"]) for row in found[2:]] == [(2, 0.3), (3, 0.3), (4, 0.3)]
    warm = setting.config.ppo.warmup_steps
    assert [row["ppo/lr"] for row in found[2:]] == [0.01 * (step / warm) for step in (2, 3, 4)]
    assert read_parent(made) == {
        **{"path": str(directory.path), "step": 1, "overrides": ["regularizer.coef=0.3", "ppo.lr=0.01"]}
    }
    refused = {
        ("lora.r=4",): "lora.r=4 is not allowed: a branch has lora from its parent",
        ("regularizer=kl",): "regularizer=kl is not allowed: write KEY=VALUE, with a key of the run's config.yaml",
        ("ppo.lrr=1",): "ppo.lrr=1 is not allowed: write KEY=VALUE, with a key of the run's config.yaml",
        ("regularizer.coef=0.3", "ppo.lr=0.01"): f"{made} is there already: name another by --dir",
    }
    for overrides, told in refused.items():
        with pytest.raises(UserError, match=re.escape(told)):
            branch(directory.path, overrides)
    with pytest.raises(SystemExit, match=r"ppo\.lr=0\.01 lora\.r=4 is not allowed"):
        main([str(directory.path), "ppo.lr=0.01", "--dir", str(tmp_path / "another"), "lora.r=4"])


def test_a_run_is_stopped_by_its_directory(tmp_path: Path) -> None:
    run = make_run(tmp_path / "own", searched(), {5: 1.0}, state="preempted")
    assert stop(run.path) == f"{run.path} ends as pruned once it goes on: it is preempted"
    assert Pruning(searched(), run).check(6, None) is not None
    run.set_status("pruned", 6, "stopped")
    for path, why in ((run.path, "is pruned: stopped"), (tmp_path, "is no run's directory")):
        with pytest.raises(DataError, match=why):
            stop(path)
