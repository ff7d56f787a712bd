import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.errors import CheckError, Preempted
from rlhf.infra.rundir import RunDirectory
from rlhf.infra.signals import StopSignals
from rlhf.infra.tracker import Outcome
from rlhf.stages.learner import Learner, Row
from rlhf.stages.train import check_finite, progress_note, train
from tests.stages.conftest import MakeSetting
from tests.stages.test_evaluate import evaluator


@pytest.mark.parametrize(("every", "evaluated"), [(2, [0, 2, 4, 5]), (0, [0, 5]), (5, [0, 5])])
def test_a_row_for_each_step_and_figures_where_evaluated(
    make_setting: MakeSetting, tmp_path: Path, every: int, evaluated: list[int]
) -> None:
    setting = make_setting("ppo.steps=5", f"evaluation.every={every}")
    result = train(setting.learner(), evaluator(setting), RunDirectory(tmp_path), StopSignals())
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row["step"] for row in rows if "win_rate" in row] == evaluated
    assert all("rollout/kl" in row for row in rows[1:])
    assert "rollout/kl" not in rows[0]
    assert result.evaluation.figures.items() <= rows[-1].items()
    assert json.loads((tmp_path / "status.json").read_text())["step"] == 5


def test_no_steps_leave_the_policy_as_it_was(make_setting: MakeSetting, tmp_path: Path) -> None:
    setting = make_setting("ppo.steps=0")
    result = train(setting.learner(), evaluator(setting), RunDirectory(tmp_path), StopSignals())
    assert result.evaluation.figures["true_kl_per_token"] == 0.0
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 1


def test_best_of_n_trains_nothing_whatever_the_steps(make_setting: MakeSetting, tmp_path: Path) -> None:
    setting = make_setting("algorithm=best_of_n", "evaluation.best_of=2", "ppo.steps=5")
    learner = setting.learner()
    before = [weight.detach().clone() for weight in learner.policy_weights]
    result = train(learner, evaluator(setting), RunDirectory(tmp_path), StopSignals())
    assert all(torch.equal(weight, old) for weight, old in zip(learner.policy_weights, before, strict=True))
    [row] = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert (row["step"], row["true_kl_per_token"]) == (0, None)
    assert row["kl_bound_per_response"] == pytest.approx(math.log(2) - 0.5)
    assert result.evaluation.figures.items() <= row.items()
    assert (tmp_path / "policy" / "adapter_config.json").exists()


def test_a_policy_may_be_trained_and_then_give_its_best_of_n(make_setting: MakeSetting, tmp_path: Path) -> None:
    setting = make_setting("evaluation.best_of=2", "ppo.steps=2", "evaluation.every=0")
    train(setting.learner(), evaluator(setting), RunDirectory(tmp_path), StopSignals())
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "kl_bound_per_response" in row] == [0, 2]
    assert rows[2]["rollout/kl"] > 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_diverged_figure_is_named_with_its_step(value: float) -> None:
    check_finite({"step": 3, "rollout/kl": 0.1, "factuality": None})
    with pytest.raises(CheckError, match=r"at step 3 ppo/value_loss is"):
        check_finite({"step": 3, "rollout/kl": 0.1, "ppo/value_loss": value})


class Told:
    """Writes down what a tracker is told."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.evaluated: dict[int, list[Row]] = {}

    def log(self, row: Mapping[str, Any]) -> None:
        self.rows.append(dict(row))

    def responses(self, step: int, rows: list[Row]) -> None:
        self.evaluated[step] = rows

    def finish(self, outcome: Outcome) -> None:
        raise AssertionError("training is not the end of a run")


def test_a_tracker_is_told_each_row_and_each_evaluations_responses(make_setting: MakeSetting, tmp_path: Path) -> None:
    setting, told = make_setting("ppo.steps=3", "evaluation.every=2"), Told()
    result = train(setting.learner(), evaluator(setting), RunDirectory(tmp_path), StopSignals(), told)
    assert told.rows == [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert list(told.evaluated) == [0, 2, 3]
    last = [json.loads(line) for line in (tmp_path / "responses.jsonl").read_text().splitlines()]
    assert last == json.loads(json.dumps(told.evaluated[3]))
    assert {row["step"] for row in last} == {3}
    assert [row["response"] for row in last] == [response.text for response in result.evaluation.responses]
    assert [row["score"] for row in last] == result.evaluation.scores


class StopAfter(StopSignals):
    """As if SIGUSR2 came during the given step."""

    def __init__(self, learner: Learner, step: int) -> None:
        super().__init__()
        take = learner.step

        def watched() -> Row:
            row = take()
            if learner.step_count == step:
                self.received = "SIGUSR2"
            return row

        learner.step = watched  # type: ignore[method-assign]


def rows(directory: RunDirectory) -> list[Row]:
    lines = (directory.path / "history.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [{name: row[name] for name in row if "second" not in name} for row in found]


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_signal_stops_after_the_step_and_the_next_start_goes_on_from_there(
    make_setting: MakeSetting, tmp_path: Path, step: int
) -> None:
    setting = make_setting("ppo.steps=4", "evaluation.every=2", "checkpoint_seconds=1e9")
    whole = RunDirectory(tmp_path / "whole")
    whole.path.mkdir()
    expected = train(setting.learner(), evaluator(setting), whole, StopSignals())

    setting = make_setting("ppo.steps=4", "evaluation.every=2", "checkpoint_seconds=1e9")
    directory, learner = RunDirectory(tmp_path / "stopped"), setting.learner()
    directory.path.mkdir()
    with pytest.raises(Preempted, match="SIGUSR2"):
        train(learner, evaluator(setting), directory, StopAfter(learner, step))
    assert [row["step"] for row in rows(directory)] == list(range(step + 1))
    directory.append_history({"step": 99})  # what no checkpoint knows of

    setting = make_setting("ppo.steps=4", "evaluation.every=2", "checkpoint_seconds=1e9")
    found = train(setting.learner(), evaluator(setting), directory, StopSignals())
    assert rows(directory) == rows(whole)
    assert found.evaluation == expected.evaluation
    assert directory.status["step"] == 4


@pytest.mark.parametrize(("seconds", "saved"), [(0, [0, 1, 2, 3]), (25, [2]), (1000, [])])
def test_so_long_at_least_between_two_checkpoints(
    make_setting: MakeSetting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int, saved: list[int]
) -> None:
    steps: list[int] = []
    clock = iter(range(0, 10_000, 10))  # looked at once a step, and after saving
    monkeypatch.setattr("rlhf.stages.train.save_checkpoint", lambda folder, step, state: steps.append(step))
    monkeypatch.setattr("rlhf.stages.train.time.monotonic", lambda: float(next(clock)))
    setting = make_setting("ppo.steps=4", f"checkpoint_seconds={seconds}")
    train(setting.learner(), evaluator(setting), RunDirectory(tmp_path), StopSignals())
    assert steps == saved


def test_a_directory_that_was_taken_over_is_left_alone(
    make_setting: MakeSetting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(directory: RunDirectory) -> None:
        raise RuntimeError("was taken over")

    monkeypatch.setattr(RunDirectory, "check_held", lost)
    setting = make_setting("ppo.steps=4", "checkpoint_seconds=0")
    with pytest.raises(RuntimeError, match="was taken over"):
        train(setting.learner(), evaluator(setting), RunDirectory(tmp_path), StopSignals())
    assert not (tmp_path / "checkpoint").exists()


def test_the_note_of_a_step_does_without_a_win_rate() -> None:
    row = {"rollout/score": 0.5, "rollout/kl": 0.1, "rollout/response_length": 12.0, "samples_per_second": 30.0}
    assert "win rate 55.0 ± 2.0 %, 30 samples/s" in progress_note(row, {"win_rate": 55.0, "win_rate_se": 2.0})
    assert "no win rate, 30 samples/s" in progress_note(row, {"win_rate": None, "win_rate_se": None})
