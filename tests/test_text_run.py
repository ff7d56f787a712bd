"""A whole run in miniature on files of text: from a model trained here, and from one that was there already."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.errors import ConfigError
from rlhf.experiment import run
from rlhf.infra.files import read_json
from tests.configure import configure

TINY = (
    "data=alpaca_farm",
    "data.instructions=instructions.json",
    "data.preferences=preferences.json",
    "data.evaluation=evaluation.json",
    "device=cpu",
    "model.vocab_size=300",
    "model.hidden_size=16",
    "model.layers=1",
    "model.heads=2",
    "model.intermediate_size=32",
    "model.threads=1",
    "pretrain.steps=4",
    "sft.epochs=1",
    "sft.batch_size=4",
    "reward.epochs=1",
    "reward.batch_size=2",
    "reward.holdout=0.3",
    "checks.min_accuracy=0",
    "rollout.batch_size=4",
    "rollout.max_response_tokens=6",
    "ppo.steps=2",
    "ppo.step_batch_size=2",
    "ppo.micro_batch_size=2",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty instructions, and twenty evaluation prompts of which sixteen have a preference."""
    folder = tmp_path_factory.mktemp("text")
    instructions = [{"instruction": f"Name thing {n}.", "input": "", "output": f"Thing {n}."} for n in range(30)]
    evaluation = [{"instruction": f"Ask {n}?", "dataset": "koala"} for n in range(20)]
    preferences = [
        {"instruction": f"Ask {n}?", "output_1": f"good {n}", "output_2": f"worse {n}", "preference": 1}
        for n in range(16)
    ]
    for name, rows in (("instructions", instructions), ("evaluation", evaluation), ("preferences", preferences)):
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder


def text_run(root: Path, path: Path, *overrides: str) -> dict[str, Any]:
    return run(configure(*TINY, f"data.root={root}", f"cache_dir={root / 'cache'}", *overrides), path)


@pytest.fixture(scope="module")
def scratch(root: Path) -> dict[str, Any]:
    return text_run(root, root / "scratch")


def test_all_evaluation_prompts_are_answered_in_order(scratch: dict[str, Any], root: Path) -> None:
    outputs = read_json(root / "scratch" / "outputs.json")
    assert [row["instruction"] for row in outputs] == [f"Ask {n}?" for n in range(20)]
    assert {row["dataset"] for row in outputs} == {"koala"}
    assert {row["generator"] for row in outputs} == {"scratch"}


def test_the_win_rate_is_over_prompts_that_the_reward_model_never_saw(scratch: dict[str, Any]) -> None:
    # of 16 prompts with a preference, judge_fraction 0.4 goes to the judge (6) and 10 to the reward model; 20 - 10 left
    assert scratch["n_eval"] == 10
    assert 0 <= scratch["win_rate"] <= 100
    assert scratch["factuality"] is None
    assert {"pretrain", "sft", "sft_figures", "reward", "judge", "baseline"} == set(scratch["stages"])


def test_judgements_are_null_where_the_reward_model_saw_the_prompt(scratch: dict[str, Any], root: Path) -> None:
    rows = [json.loads(line) for line in (root / "scratch" / "judgements.jsonl").read_text().splitlines()]
    assert [row["instruction"] for row in rows] == [f"Ask {n}?" for n in range(20)]
    judged = [row["preferences"] for row in rows if row["preferences"] is not None]
    assert [len(preferences) for preferences in judged] == [1] * 10
    assert scratch["win_rate"] == pytest.approx(100 * sum(preference - 1 for [preference] in judged) / 10)
    # the last four have no preference in the files, so that nobody saw them
    assert all(row["preferences"] is not None for row in rows[16:])
    assert all(row["correct"] is row["wrong"] is None for row in rows)
    assert all(row["length"] > 0 and len(row["reference_lengths"]) == 1 for row in rows)
    assert scratch["response_length"] == pytest.approx(sum(row["length"] for row in rows) / 20)
    assert scratch["reward"] == pytest.approx(sum(row["score"] for row in rows) / 20)


def test_text_is_scored_again_from_its_text_by_other_algorithms_too(scratch: dict[str, Any], root: Path) -> None:
    metrics = text_run(root, root / "rloo", "algorithm=rloo", "ppo.retokenize=true", "ppo.missing_eos_score=null")
    assert (metrics["algorithm"], metrics["steps"]) == ("rloo", 2)
    assert metrics["baseline"] == scratch["baseline"]


def test_a_model_that_was_there_already_is_used_as_it_is(scratch: dict[str, Any], root: Path) -> None:
    [sft] = (root / "cache").glob("sft-*/config.json")
    metrics = text_run(root, root / "given", f"model.path={sft.parent}", "sft.epochs=0", "reward=adapter")
    assert "pretrain" not in metrics["stages"]
    assert metrics["trainable_weights"] == scratch["trainable_weights"]
    assert metrics["baseline"]["true_kl_per_token"] == 0.0


def test_a_model_path_without_a_model_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path=.* is not allowed: no model can be loaded"):
        text_run(root, root / "refused", f"model.path={root / 'nowhere'}")
    assert read_json(root / "refused" / "status.json")["state"] == "failed"
