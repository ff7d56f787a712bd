import json
import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.data.source import Prompt, Response
from rlhf.errors import CheckError, Preempted, TakenOverError
from rlhf.models.adapters import Role
from rlhf.process.signals import StopSignals
from rlhf.stages.baseline import evaluation_at_start, measure_baseline
from rlhf.stages.checks import check_finite
from rlhf.stages.evaluator import Evaluation, Evaluator
from rlhf.stages.learner import Learner, Row
from rlhf.stages.progress import Saver
from rlhf.stages.train import progress_note, train_in
from rlhf.storage.files import write_json
from rlhf.storage.lease import HOLDER, LEASE, take_lease
from rlhf.storage.rundir import RunDirectory
from rlhf.tracking.tracker import Outcome, Tracker
from tests.stages.conftest import MakeSetting
from tests.stages.test_evaluator import drawn_baseline, evaluator


@pytest.mark.parametrize(("every", "evaluated"), [(2, [0, 2, 4, 5]), (0, [0, 5]), (5, [0, 5])])
def test_a_row_for_each_step_and_figures_where_evaluated(
    make_setting: MakeSetting, tmp_path: Path, every: int, evaluated: list[int]
) -> None:
    setting = make_setting("ppo.steps=5", f"evaluation.every={every}")
    result = train_in(setting.learner(), evaluator(setting), RunDirectory(tmp_path), StopSignals())
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row["step"] for row in rows if "win_rate" in row] == evaluated
    assert [row["step"] for row in rows if "win_rate_greedy" in row] == evaluated
    assert all("rollout/kl" in row for row in rows[1:])
    assert "rollout/kl" not in rows[0]
    assert result.evaluation.figures.items() <= rows[-1].items()
    assert json.loads((tmp_path / "status.json").read_text())["step"] == 5


def test_no_steps_leave_the_policy_as_it_was(make_setting: MakeSetting, tmp_path: Path) -> None:
    setting = make_setting("ppo.steps=0")
    result = train_in(setting.learner(), evaluator(setting), RunDirectory(tmp_path), StopSignals())
    assert result.evaluation.figures["true_kl_per_token"] == 0.0
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 1


def test_best_of_n_trains_nothing_whatever_the_steps(make_setting: MakeSetting, tmp_path: Path) -> None:
    setting = make_setting("algorithm=best_of_n", "evaluation.best_of=2", "ppo.steps=5")
    learner = setting.learner()
    before = [weight.detach().clone() for weight in learner.policy_weights]
    result = train_in(learner, evaluator(setting), RunDirectory(tmp_path), StopSignals())
    assert all(torch.equal(weight, old) for weight, old in zip(learner.policy_weights, before, strict=True))
    [row] = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert (row["step"], row["true_kl_per_token"]) == (0, None)
    assert row["kl_bound_per_response"] == pytest.approx(math.log(2) - 0.5)
    assert result.evaluation.figures.items() <= row.items()
    assert (tmp_path / "policy" / "adapter_config.json").exists()


def test_a_policy_may_be_trained_and_then_give_its_best_of_n(make_setting: MakeSetting, tmp_path: Path) -> None:
    setting = make_setting("evaluation.best_of=2", "ppo.steps=2", "evaluation.every=0")
    train_in(setting.learner(), evaluator(setting), RunDirectory(tmp_path), StopSignals())
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "kl_bound_per_response" in row] == [0, 2]
    assert rows[2]["rollout/kl"] > 0


# ---- Before the first step. ---------------------------------------------------------------------------------------


def counted(measure: Evaluator) -> tuple[Evaluator, list[float]]:
    """The evaluator, and at which temperature it has sampled for each evaluation since."""
    asked: list[float] = []

    def sample(role: Role, prompts: Sequence[Prompt], temperature: float, *more: Any) -> list[Response]:
        asked.append(temperature)
        return measure.sampler.sample(role, prompts, temperature, *more)

    sampler = copy(measure.sampler)
    sampler.sample = sample  # type: ignore[method-assign]
    return replace(measure, sampler=sampler), asked


def test_step_0_of_an_unchanged_policy_is_the_baselines_and_samples_nothing(
    make_setting: MakeSetting, tmp_path: Path
) -> None:
    setting, told = make_setting("ppo.steps=3", "evaluation.every=2"), Told()
    measure, drawn = drawn_baseline(setting, evaluator(setting), tmp_path)
    start = evaluation_at_start(drawn, measure_baseline(measure, drawn))
    watched, asked = counted(measure)
    train_in(setting.learner(), watched, RunDirectory(tmp_path), StopSignals(), told, start)
    assert asked == [1.0, 0.0] * 2  # after steps 2 and 3
    first, *later = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert first == {"step": 0, **start.figures, "seconds/evaluation": 0.0}
    assert (first["win_rate"], first["win_rate_greedy"]) == (50.0, 50.0)
    assert [row["step"] for row in later if "win_rate" in row] == [2, 3]
    rows = told.evaluated[0]
    assert [row["response"] for row in rows] == [response.text for response in drawn.own]
    assert [row["greedy_response"] for row in rows] == [response.text for response in drawn.greedy]
    assert [row["greedy_reference"] for row in rows] == [response.text for response in drawn.greedy]
    assert {row["preferences"] for row in rows} == {row["greedy_preferences"] for row in rows} == {None}
    assert [row["score"] for row in rows] == start.scores


def test_without_any_step_a_known_start_is_evaluated_once_for_the_result(
    make_setting: MakeSetting, tmp_path: Path
) -> None:
    setting = make_setting("ppo.steps=0", "seed=1", "data.seed=0")
    measure, drawn = drawn_baseline(setting, evaluator(setting), tmp_path)
    start = evaluation_at_start(drawn, measure_baseline(measure, drawn))
    watched, asked = counted(measure)
    result = train_in(setting.learner(), watched, RunDirectory(tmp_path), StopSignals(), at_start=start)
    assert asked == [1.0, 0.0]
    assert result.evaluation.responses != drawn.own
    assert result.evaluation.figures["true_kl_per_token"] == 0.0
    assert (tmp_path / "policy" / "adapter_config.json").exists()


@pytest.mark.parametrize("known", [False, True])
def test_between_start_and_end_fewer_prompts_are_evaluated_where_that_is_asked_for(
    make_setting: MakeSetting, tmp_path: Path, known: bool
) -> None:
    setting, told = make_setting("ppo.steps=3", "evaluation.every=1", "evaluation.interim_prompts=5"), Told()
    measure, drawn = drawn_baseline(setting, evaluator(setting), tmp_path)
    start = evaluation_at_start(drawn, measure_baseline(measure, drawn)) if known else None
    result = train_in(setting.learner(), measure, RunDirectory(tmp_path), StopSignals(), told, start)
    assert {step: len(rows) for step, rows in told.evaluated.items()} == {0: 16 if known else 5, 1: 5, 2: 5, 3: 16}
    assert [row["n_eval"] for row in told.rows[1:]] == [5, 5, 16]
    for rows in told.evaluated.values():
        assert [row["instruction"] for row in rows] == [prompt.instruction for prompt in measure.prompts[: len(rows)]]
    assert result.evaluation.figures.items() <= told.rows[-1].items()
    assert len(result.evaluation.responses) == 16


def test_an_evaluation_weighs_the_penalty_with_the_coefficient_of_its_step(
    make_setting: MakeSetting, tmp_path: Path
) -> None:
    settings = ("regularizer=kl", "regularizer.schedule=linear", "regularizer.coef=0.4", "regularizer.end_coef=0.1")
    setting, weights = make_setting(*settings, "ppo.steps=3", "evaluation.every=1"), []

    class Watched(Evaluator):
        def __call__(self, policy: Role, seed: int, coef: float = 0.0) -> Evaluation:
            weights.append(coef)
            return super().__call__(policy, seed, coef)

    measure = evaluator(setting)
    watched = Watched(**{field.name: getattr(measure, field.name) for field in fields(measure)})
    train_in(setting.learner(), watched, RunDirectory(tmp_path), StopSignals())
    # that of the step to come, which is the last one's after the last
    assert weights == pytest.approx([0.4, 0.25, 0.1, 0.1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_diverged_figure_is_named_with_its_step(value: float) -> None:
    check_finite("PPO", {"step": 3, "rollout/kl": 0.1, "factuality": None}, "lower ppo.lr")
    with pytest.raises(CheckError, match=r"^PPO has diverged: ppo/value_loss is .*; lower ppo.lr$"):
        check_finite("PPO", {"step": 3, "rollout/kl": 0.1, "ppo/value_loss": value}, "lower ppo.lr")


class Told(Tracker):
    """Writes down what a tracker is told."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.evaluated: dict[int, list[Row]] = {}

    def log(self, row: Mapping[str, Any]) -> None:
        self.rows.append(dict(row))

    def responses(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        self.evaluated[step] = [dict(row) for row in rows]

    def finish(self, outcome: Outcome) -> None:
        raise AssertionError("training is not the end of a run")


def test_a_tracker_is_told_each_row_and_each_evaluations_responses(make_setting: MakeSetting, tmp_path: Path) -> None:
    setting, told = make_setting("ppo.steps=3", "evaluation.every=2"), Told()
    result = train_in(setting.learner(), evaluator(setting), RunDirectory(tmp_path), StopSignals(), told)
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


@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_signal_stops_after_the_step_and_the_next_start_goes_on_from_there(
    make_setting: MakeSetting, tmp_path: Path, step: int
) -> None:
    setting = make_setting("ppo.steps=4", "evaluation.every=2", "checkpoint_seconds=1e9")
    whole = RunDirectory(tmp_path / "whole")
    whole.path.mkdir()
    expected = train_in(setting.learner(), evaluator(setting), whole, StopSignals())

    disk = f"checkpoint_local_dir={tmp_path / 'one'}"  # of one node, then of another
    setting = make_setting("ppo.steps=4", "evaluation.every=2", "checkpoint_seconds=1e9", disk)
    directory, learner = RunDirectory(tmp_path / "stopped"), setting.learner()
    directory.path.mkdir()
    with pytest.raises(Preempted, match="SIGUSR2"):
        train_in(learner, evaluator(setting), directory, StopAfter(learner, step))
    told = step if step in (2, 4) else step + 1  # a step that is evaluated is told of when that is done
    assert [row["step"] for row in rows(directory)] == list(range(told))
    directory.append_history({"step": 99})  # what no checkpoint knows of

    disk = f"checkpoint_local_dir={tmp_path / 'two'}"
    setting = make_setting("ppo.steps=4", "evaluation.every=2", "checkpoint_seconds=1e9", disk)
    found = train_in(setting.learner(), evaluator(setting), directory, StopSignals())
    assert rows(directory) == rows(whole)
    assert found.evaluation == expected.evaluation
    assert directory.status["step"] == 4


def test_a_run_comes_back_to_a_node_that_had_come_further(
    make_setting: MakeSetting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first node is lost after step 3, of which its own disk alone knows; another begins anew and is stopped."""
    whole, directory = RunDirectory(tmp_path / "whole"), RunDirectory(tmp_path / "lost")
    for each in (whole, directory):
        each.path.mkdir()
    setting = make_setting("ppo.steps=4", "evaluation.every=2")
    expected = train_in(setting.learner(), evaluator(setting), whole, StopSignals())

    def on(node: str) -> Any:
        disk = f"checkpoint_local_dir={tmp_path / node}"
        setting = make_setting("ppo.steps=4", "evaluation.every=2", "checkpoint_seconds=1e9", disk)
        return setting.learner(), evaluator(setting), directory

    learner, evaluate, _ = on("one")
    save = Saver.save
    monkeypatch.setattr(Saver, "save", lambda self, step, state, last: save(self, step, state, last=False))
    with pytest.raises(Preempted, match="SIGUSR2"):
        train_in(learner, evaluate, directory, StopAfter(learner, 3))
    monkeypatch.setattr(Saver, "save", save)
    assert not list(directory.checkpoints.glob("step-*"))
    learner, evaluate, _ = on("two")
    with pytest.raises(Preempted, match="SIGUSR2"):
        train_in(learner, evaluate, directory, StopAfter(learner, 1))
    found = train_in(*on("one"), StopSignals())
    assert rows(directory) == rows(whole)
    assert found.evaluation == expected.evaluation


def test_a_directory_that_was_taken_over_is_left_alone(
    make_setting: MakeSetting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes it while a step is trained: nothing at all is written after that."""
    old, setting = RunDirectory(tmp_path), make_setting("ppo.steps=4", "checkpoint_seconds=0")
    old.lease = take_lease(tmp_path)
    tracker, files = Tracker(), list[dict[Path, bytes]]()

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != LEASE}

    def take(row: Row) -> None:
        if row["step"] == 1:  # after its row of history, before its checkpoint
            write_json(tmp_path / HOLDER, {"token": "another's"})
            files.append(contents())

    monkeypatch.setattr(tracker, "log", take)
    with pytest.raises(TakenOverError, match="was taken over by another process"), old.outcome_recorded():
        train_in(setting.learner(), evaluator(setting), old, StopSignals(), tracker)
    assert files == [contents()]


@pytest.mark.parametrize(
    ("metrics", "wins"),
    [
        ({"win_rate_greedy": 61.25, "win_rate": 55.0, "win_rate_se": 2.0}, "win rate greedy 61.2, sampled 55.0 %"),
        ({"win_rate": 55.0}, "win rate sampled 55.0 %"),  # the best of several has no greedy one
        ({"win_rate_greedy": None, "win_rate": None, "reward": 0.25}, "reward +0.25 when evaluated"),
    ],
)
def test_the_note_of_a_step_names_the_win_rates_there_are(metrics: dict[str, Any], wins: str) -> None:
    row = {"rollout/score": 0.5, "rollout/objective": -0.25, "rollout/kl_per_response": 1.5}
    row |= {"rollout/response_length": 12.0, "samples_per_second": 30.0}
    assert progress_note(row, metrics) == f"score +0.50, objective -0.25, kl 1.50, length 12, {wins}, 30 samples/s"
