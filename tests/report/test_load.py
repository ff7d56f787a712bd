"""Finished runs are read as they are; the others are named with their reason."""

import json
from pathlib import Path

import pytest

from rlhf.report.groups import ablation, trouble_of
from rlhf.report.load import Run, effective, flatten, load_outputs, load_run, since_branch, unfinished
from tests.report.conftest import point, write_run

POINTS = [point(0, 50.0, 0.0), point(20, 58.5, 0.1)]


def test_a_finished_run(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", POINTS, judgements=[2.0, 1.0, 1.5], seed=3, data__seed=7, ppo__steps=20)
    run = load_run(path)
    assert (run.world, run.seed, run.path) == (7, 3, str(path))
    assert (run.config["ppo.steps"], run.config["regularizer.name"], run.config["lora.r"]) == (20, "js", 8)
    assert run.config["lora.target_modules"] == '["all-linear"]'
    assert (run.metrics["win_rate_greedy"], run.metrics["baseline"]["win_rate_greedy"]) == (58.5, 50.0)
    assert [row["step"] for row in run.checkpoints] == [0, 20]  # row 1 of the history was not evaluated
    assert [row["greedy_preferences"] for row in run.judgements] == [[2.0], [1.0], [1.5]]


def test_judgements_may_be_absent(tmp_path: Path) -> None:
    assert load_run(write_run(tmp_path / "run", POINTS)).judgements is None


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        (
            "status.json",
            '{"state": "failed", "step": 7, "reason": "PPO has\\n diverged"}',
            "failed at step 7: PPO has diverged",
        ),
        ("status.json", '{"state": "running", "step": null, "reason": null}', "running"),
        ("status.json", "{", "status.json: Expecting property name"),
        ("config.yaml", "seed: 0\ndata: {seed: 0}\n", "config.yaml lacks regularizer.name"),
        ("config.yaml", "seed: [", "config.yaml: while parsing"),
        ("config.yaml", "", "config.yaml holds no mapping"),
        ("metrics.json", '{"win_rate": 50.0}', "metrics.json lacks reward"),
        ("metrics.json", '{"reward": 0.5}', "made by an earlier version"),
        ("metrics.json", '{"reward": 0.5, "objective": 0.1}', "made by an earlier version"),
        ("metrics.json", "[]", "metrics.json holds no mapping"),
        ("metrics.json", None, "metrics.json: [Errno 2]"),
        ("history.jsonl", '{"step": 0, "win_rate": 50}\n{"step"', "history.jsonl, line 2"),
        ("history.jsonl", '{"step": 1, "rollout/kl": 0.1}\n', "history.jsonl has no evaluated step"),
        ("history.jsonl", "[1]\n", "history.jsonl, line 1"),
        ("history.jsonl", None, "history.jsonl"),
        ("responses.jsonl", "nonsense\n", "responses.jsonl, line 1"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, file: str, content: str | None, reason: str) -> None:
    good = write_run(tmp_path / "a good one", POINTS)
    bad = write_run(tmp_path / "bad", POINTS, judgements=[2.0])
    if content is None:
        (bad / file).unlink()
    else:
        (bad / file).write_text(content)
    found = load_outputs([tmp_path])
    assert [run.path for run in found.runs] == [str(good)]
    [(path, told)] = found.problems
    assert path == str(bad)
    assert reason in told
    assert "\n" not in told


def test_best_of_n_has_neither_a_divergence_nor_an_objective_nor_greedy_responses(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", [point(0, 60.0, None, objective=None, objective_se=None, win_rate_se=1.0)])
    for name in ("metrics.json", "history.jsonl"):
        rows = [json.loads(line) for line in (path / name).read_text().splitlines()]
        kept = [{key: value for key, value in row.items() if "win_rate_greedy" not in key} for row in rows]
        (path / name).write_text("".join(json.dumps(row) + "\n" for row in kept))
    assert [row["win_rate"] for row in load_run(path).checkpoints] == [55.0]


def test_runs_are_found_below_and_once_in_the_order_of_their_paths(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / name, POINTS) for name in ("b/c/run", "b/a", "a")]
    (tmp_path / "cache" / "stage").mkdir(parents=True)
    found = load_outputs([tmp_path, tmp_path / "b"])
    assert [run.path for run in found.runs] == sorted(map(str, paths))
    assert found.problems == []


def test_flatten() -> None:
    assert flatten({"a": {"b": [1, "x"], "c": {"d": None}}, "e": True}) == {"a.b": '[1, "x"]', "a.c.d": None, "e": True}


def test_strength_means_nothing_without_a_penalty() -> None:
    none = {"regularizer.coef": 0.0, "regularizer.strength": 3.0, "lora.r": 8}
    assert effective(none)["regularizer.strength"] == 1.0
    assert effective({**none, "regularizer.coef": 0.1})["regularizer.strength"] == 3.0


def test_the_other_methods_settings_mean_nothing() -> None:
    config = {"regularizer.coef": 0.1, "lora.r": 8, "lora.alpha": 16.0, "ppo.lr": 5e-4, "ppo.lr_full": 5e-5}
    assert effective(config) == {"regularizer.coef": 0.1, "lora.r": 8, "lora.alpha": 16.0, "ppo.lr": 5e-4}
    assert effective({**config, "lora.r": None}) == {"regularizer.coef": 0.1, "lora.r": None, "ppo.lr": 5e-5}


def test_effective_leaves_its_argument_alone(tmp_path: Path) -> None:
    config = {"regularizer.coef": 0.0, "regularizer.strength": 3.0, "ppo.lr_full": 1.0}
    before = json.dumps(config)
    effective(config)
    assert json.dumps(config) == before


def test_seeds_are_whole_numbers() -> None:
    run = Run("", {"seed": 4, "data.seed": 5}, {}, [], None)
    assert (run.seed, run.world) == (4, 5)


def test_what_is_known_of_runs_that_did_not_finish(tmp_path: Path) -> None:
    points = [point(0, 50.0), point(40, 60.0)]
    write_run(tmp_path / "good", points)
    for name, status in (
        ("failed", {"state": "failed", "step": None, "reason": "no\nmemory"}),
        ("runs", {"state": "running"}),
        ("pruned", {"state": "pruned", "step": 40}),
    ):
        path = write_run(tmp_path / name, points, seed=1)
        (path / "status.json").write_text(json.dumps(status))
    write_run(tmp_path / "odd", points, lora__r=2)
    (tmp_path / "odd" / "metrics.json").unlink()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "status.json").write_text("{")
    outputs = load_outputs([tmp_path])
    found = {Path(each.path).name: each for each in (unfinished(*problem) for problem in outputs.problems)}
    assert (found["failed"].state, found["failed"].reason, found["failed"].progress) == (
        "failed",
        "no\nmemory",
        "step 40 of 40",
    )
    assert found["runs"].reason == "no end recorded: it is still running, or was killed"
    assert found["pruned"].reason == "no reason is known; its last win rate is 60.0 %"
    assert (found["odd"].state, "metrics.json" in found["odd"].reason) == ("unreadable", True)
    assert (found["torn"].state, found["torn"].progress) == ("unreadable", "before the first step")
    groups = ablation(outputs.runs).groups
    # another seed of the same setting; the odd one has another rank, the torn one no settings
    assert trouble_of(groups, list(found.values())) == {groups[0].id: ["failed", "pruned", "running"]}


def test_a_branch_is_drawn_from_the_last_evaluation_that_it_shares_with_its_parent() -> None:
    rows = [{"step": step, "win_rate_greedy": 50.0 if step % 5 == 0 else None} for step in range(13)]
    assert [row["step"] for row in since_branch(rows, {"path": "p", "step": 7})] == [*range(5, 13)]
    assert since_branch(rows, None) == rows
