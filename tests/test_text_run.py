"""A whole run in miniature on files of text: from a model trained here, and from one that was there already."""

import json
import logging
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from rlhf import evaluate
from rlhf.errors import ConfigError, DataError, Preempted
from rlhf.experiment import run
from rlhf.stages.fit import Fit
from rlhf.storage.files import read_json
from tests.configure import configure
from tests.fake_endpoint import FakeModel, completion, failure

FILES = ("instructions", "preferences", "evaluation")
TINY = (
    *("data=alpaca_farm", *(f"data.{name}={name}.json" for name in FILES)),
    *("device=cpu", "model.vocab_size=300", "model.hidden_size=16", "model.layers=1", "model.heads=2"),
    *("model.intermediate_size=32", "model.threads=1", "pretrain.steps=4", "sft.epochs=1", "sft.batch_size=4"),
    *("reward.epochs=1", "reward.batch_size=2", "reward.holdout=0.3", "checks.min_accuracy=0"),
    *("rollout.batch_size=4", "rollout.max_response_tokens=6"),
    *("ppo.steps=2", "ppo.step_batch_size=2", "ppo.micro_batch_size=2"),
)

SMALL_REWARD = ("reward.epochs=1", "reward.batch_size=2", "reward.micro_batch_size=1", "reward.holdout=0.3")
"""Once more, since choosing another reward brings its own."""


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
    for name, rows in zip(FILES, (instructions, preferences, evaluation), strict=True):
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder


def text_run(root: Path, path: Path, *overrides: str) -> dict[str, Any]:
    return run(configure(*TINY, f"data.root={root}", f"cache_dir={root / 'cache'}", *overrides), path)


def rows_of(run: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a run's NAME.jsonl."""
    return [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def scratch(root: Path) -> dict[str, Any]:
    return text_run(root, root / "scratch")


@pytest.fixture(scope="module")
def sft(scratch: dict[str, Any], root: Path) -> Path:
    """The folder of the model that was fine-tuned on the instructions."""
    [config] = (root / "cache").glob("sft-*/config.json")
    return config.parent


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
    stages = {"pretrain", "sft", "sft_figures", "samples", "reward", "judge", "baseline", "baseline_figures"}
    assert stages == set(scratch["stages"])


def test_text_has_a_baseline_of_50_by_definition_and_no_controls_unless_asked_for(
    scratch: dict[str, Any], root: Path
) -> None:
    assert (scratch["baseline"]["win_rate"], scratch["baseline"]["win_rate_greedy"]) == (50.0, 50.0)
    assert scratch["controls"] == {}
    first, *_ = rows_of(root / "scratch", "history")
    assert scratch["baseline"].items() <= first.items()
    metrics = text_run(root, root / "controlled", "evaluation.control_temperatures=[0.5]")
    assert metrics["controls"].keys() == {"0.5"}
    assert metrics["controls"]["0.5"]["n_eval"] == 10
    assert metrics["controls"]["0.5"]["true_kl_per_response"] > 0


def test_greedy_outputs_are_compared_with_the_greedy_reference(scratch: dict[str, Any], root: Path) -> None:
    outputs, references = (read_json(root / "scratch" / f"{name}-greedy.json") for name in ("outputs", "references"))
    rows = rows_of(root / "scratch", "responses")
    assert [row["instruction"] for row in outputs] == [row["instruction"] for row in references]
    assert len(outputs) == 20
    # nothing is judged that the reward model saw, and equal texts are ties
    judged = [row["greedy_preferences"] for row in rows]
    assert [each is None for each in judged] == [row["preferences"] is None for row in rows]
    for output, compared, preferences in zip(outputs, references, judged, strict=True):
        if output["output"] == compared["output"]:
            assert preferences in (None, [1.5])
    wins = [preference - 1 for preferences in judged if preferences is not None for preference in preferences]
    assert scratch["win_rate_greedy"] == pytest.approx(100 * sum(wins) / 10)


def test_an_ensemble_learns_from_text_and_the_judge_stays_alone(scratch: dict[str, Any], root: Path) -> None:
    """The judge is as with a single model that learns by the same settings."""
    alone = text_run(root, root / "alone", "reward=adapter", "ppo.steps=0", *SMALL_REWARD)
    ensemble = ("reward.members=2", "reward.combine=min", "reward.resample=true", *SMALL_REWARD)
    metrics = text_run(root, root / "ensemble", "reward=adapter", *ensemble)
    stages = metrics["stages"]
    assert set(stages) - set(alone["stages"]) == {"reward_1", "ensemble"}
    assert [stages[name] for name in ("reward", "judge")] == [alone["stages"][name] for name in ("reward", "judge")]
    assert stages["ensemble"].keys() == {"accuracy", "accuracy_se", "longer", "length_correlation"}  # no oracle
    rows = rows_of(root / "ensemble", "history")
    assert all(row["rollout/score_spread"] > 0 for row in rows[1:])


def test_a_signal_while_a_reward_model_learns_from_text_costs_no_step_of_it(
    scratch: dict[str, Any],
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is learnt in the end, in micro-batches, is the same to the bit."""
    caplog.set_level(logging.INFO, "rlhf")
    settings, take = ("reward=adapter", "ppo.steps=0", *SMALL_REWARD), Fit.step
    text_run(root, root / "unstopped", *settings)  # a cached one, where the test above has left it
    cache = tmp_path / "cache"
    shutil.copytree(root / "cache", cache, ignore=shutil.ignore_patterns("reward*", "judge*", "baseline_figures*"))

    def stopped(state: Fit, losses: Iterable[torch.Tensor]) -> None:
        take(state, losses)
        if len(state.losses) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "step", stopped)
        with pytest.raises(Preempted):
            text_run(root, tmp_path / "run", *settings, f"cache_dir={cache}")
    text_run(root, tmp_path / "run", *settings, f"cache_dir={cache}")
    assert "reward: going on from where it was stopped" in caplog.text
    learnt = [*cache.glob("reward-*/*.safetensors"), *cache.glob("judge-*/*.safetensors")]
    assert len(learnt) == 4  # an adapter and a head of each
    for file in learnt:
        assert file.read_bytes() == (root / "cache" / file.relative_to(cache)).read_bytes()


def test_judgements_are_null_where_the_reward_model_saw_the_prompt(scratch: dict[str, Any], root: Path) -> None:
    rows = rows_of(root / "scratch", "responses")
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
    figures = scratch["baseline"].keys() - {"objective", "objective_se"}  # without an EOS it has the score, not -1
    assert {name: metrics["baseline"][name] for name in figures} == {
        name: scratch["baseline"][name] for name in figures
    }
    assert metrics["baseline"]["objective"] == pytest.approx(metrics["baseline"]["reward"])


def test_a_model_that_was_there_already_is_used_as_it_is(scratch: dict[str, Any], sft: Path, root: Path) -> None:
    metrics = text_run(root, root / "given", f"model.path={sft}", "sft.epochs=0", "reward=adapter")
    assert "pretrain" not in metrics["stages"]
    assert metrics["trainable_weights"] == scratch["trainable_weights"]
    assert metrics["baseline"]["true_kl_per_token"] == 0.0


CHATML = (
    "{% for message in messages %}<bos>{{ message.role }}: {{ message.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant: {% endif %}"
)


def write_chats(folder: Path) -> None:
    """The same texts as conversations: messages, pairs behind a prompt, and one demonstration beyond the context."""

    def turns(question: str, *answer: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text} for role, text in zip(("user", "assistant"), (question, *answer))]  # noqa: B905

    talks = [{"messages": turns(f"Name thing {n}.", f"Thing {n}.")} for n in range(30)]
    long = {"messages": turns("Say a lot.", "a b " * 400)}
    pairs = [
        {"prompt": f"Ask {n}?", "chosen": turns(f"Ask {n}?", f"good {n}"), "rejected": turns(f"Ask {n}?", f"worse {n}")}
        for n in range(16)
    ]
    prompts = [{"messages": turns(f"Ask {n}?{' Really?' * (n == 19) * 40}")} for n in range(20)]
    for name, rows in (("talks", [*talks, long]), ("pairs", pairs), ("prompts", prompts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def chat_run(root: Path, model: Path, path: Path) -> dict[str, Any]:
    write_chats(root)
    files = ("data.instructions=talks.jsonl", "data.preferences=pairs.jsonl", "data.evaluation=prompts.jsonl")
    small = [each for each in TINY if not each.startswith("data")]
    chat = ("data=chat", f"data.root={root}", *files, "data.sft_fraction=0.8", f"model.path={model}", "reward=adapter")
    return run(configure(*chat, *small, f"cache_dir={path / 'cache'}"), path / "run")


def test_a_chat_model_from_messages_to_outputs(
    sft: Path, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rlhf")
    model = tmp_path / "model"
    shutil.copytree(sft, model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(model)
    metrics = chat_run(root, model, tmp_path)
    outputs = read_json(tmp_path / "run" / "outputs.json")
    assert [row["instruction"] for row in outputs][:2] == ["Ask 0?", "Ask 1?"]
    assert metrics["n_eval"] == 10
    assert metrics["stages"]["baseline"]["cut_prompts"] == 1
    assert "sft: 1 of 25 demonstrations exceed 384 tokens, left out" in caplog.text  # 0.8 of 31


def test_a_model_without_a_chat_template_is_refused_before_training(sft: Path, root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.template=chat is not allowed"):
        chat_run(root, sft, tmp_path)
    assert not list((tmp_path / "cache").glob("sft-*/config.json"))


def test_a_model_path_without_a_model_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path=.* is not allowed"):
        text_run(root, root / "refused", f"model.path={root / 'nowhere'}")
    assert not (root / "refused").exists()


# ---- A language model as the judge. -------------------------------------------------------------------------------


def ask(model: FakeModel, folder: Path, *more: str, section: str = "judge") -> list[str]:
    values = {"model": "fake", "base_url": model.url, "api_key_env": "null", "retries": "0"}
    values["cache"] = str(folder / "answers.sqlite")
    return [*(f"{section}.{key}={value}" for key, value in values.items()), *more]


def ask_facts(model: FakeModel, folder: Path, setting: str) -> list[str]:
    (folder / "knowledge.jsonl").write_text('{"title": "Ask", "text": "To ask is to question."}\n')
    knowledge = f"factuality.knowledge={folder / 'knowledge.jsonl'}"
    return ["factuality=factscore", *ask(model, folder, setting, knowledge, section="factuality")]


def test_a_language_model_judges_and_is_asked_once(model: FakeModel, root: Path, tmp_path: Path) -> None:
    model.reply = lambda body: completion("m", {"m": -0.2, "M": -1.8})
    prices = ("judge.input_price=1", "judge.output_price=2")
    metrics = text_run(root, tmp_path / "run", "judge=llm", *ask(model, tmp_path, *prices))
    assert metrics["n_eval"] == 10
    assert 0 < metrics["win_rate"] < 100
    assert metrics["judge_problem"] is None
    usage = metrics["asked"]["judge"]
    assert usage["asked"] == len(model.bodies) == len({str(body) for body in model.bodies})
    assert usage["cost"] == pytest.approx(usage["asked"] * 14e-6)
    assert usage["first_preferred"] == 1.0
    assert "judge" not in metrics["stages"]  # no second reward model was trained
    assert "baseline_figures" not in metrics["stages"]  # what an endpoint says may fail, and is no stage
    assert metrics["baseline"]["win_rate"] == 50.0
    first, *_ = rows_of(tmp_path / "run", "history")
    assert first["n_eval"] == 10  # so that the policy's first responses are judged like any others
    [row, *_] = rows_of(tmp_path / "run", "responses")
    assert {"preferences", "length", "score"} <= set(row)


def test_a_judge_that_fails_costs_no_policy_and_is_made_up_for(model: FakeModel, root: Path, tmp_path: Path) -> None:
    model.reply = lambda body: failure(401, "no such key")
    path = tmp_path / "run"
    metrics = text_run(root, path, "judge=llm", *ask(model, tmp_path))
    assert metrics["win_rate"] is None
    assert "HTTP 401: no such key" in metrics["judge_problem"]
    assert read_json(path / "status.json")["state"] == "done"
    assert (path / "policy" / "adapter_config.json").exists()
    model.reply = lambda body: completion("m", {"m": -0.2, "M": -1.8})
    evaluate.main([str(path), "judge=llm", *ask(model, tmp_path)])
    figures = read_json(path / "evaluation-llm-fake.json")
    assert (figures["n_eval"], figures["n_left_out"], figures["n_null"]) == (10, 10, 0)
    assert 0 < figures["win_rate"] < 100


def test_factuality_of_a_run_by_a_language_model(model: FakeModel, root: Path, tmp_path: Path) -> None:
    model.reply = lambda body: "True" if "Statement" in body["messages"][0]["content"] else "- It is so."
    metrics = text_run(root, tmp_path / "run", *ask_facts(model, tmp_path, "factuality.prompts=3"))
    assert (metrics["factuality"], metrics["factuality_greedy"], metrics["factuality_facts"]) == (100.0, 100.0, 1.0)
    assert metrics["baseline"]["factuality_respond_ratio"] == 100.0
    assert metrics["asked"]["factuality"]["asked"] == len(model.bodies)


def test_a_judge_without_its_key_is_refused_before_any_work(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"judge\.api_key_env=OPENAI_API_KEY"):
        text_run(root, tmp_path / "run", "judge=llm", "judge.model=x", f"cache_dir={tmp_path}")
    assert not list(tmp_path.glob("pretrain*"))


def test_factuality_of_prompts_that_are_not_there_is_refused_before_any_work(
    model: FakeModel, root: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"factuality\.dataset=biography"):
        text_run(root, tmp_path / "run", *ask_facts(model, tmp_path, "factuality.dataset=biography"))
    assert not (tmp_path / "run" / "policy").exists()
