"""Whole runs in miniature on models that were there already: each family, each way to load it, each kind of reward."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

from rlhf.compose import compose_evaluation
from rlhf.errors import ConfigError
from rlhf.evaluate import evaluate
from rlhf.experiment import run
from rlhf.launch.overview import table
from rlhf.report.load import load_outputs
from rlhf.report.page import report, write
from rlhf.stages.pipeline import Pipeline
from rlhf.storage.files import read_json
from rlhf.storage.runs import read_run
from tests.checkpoints import save_family
from tests.configure import configure
from tests.models.test_external_reward import save_alpaca_farm, save_classifier
from tests.test_docs import ROOT, commands
from tests.test_text_run import CHATML, FILES, TINY, root, write_chats

__all__ = ["root"]

FINE_TUNED = ("sft.epochs=0", "reward=adapter", "reward.epochs=1", "reward.batch_size=2", "reward.holdout=0.3")
ROOM = {"max_position_embeddings": 384}
STAGES = {"sft_figures", "samples", "reward", "judge", "baseline", "baseline_figures"}


def go(root: Path, path: Path, *overrides: str) -> dict[str, Any]:
    """A run in `path`, with a cache of its own beside it."""
    return run(configure(*TINY, *FINE_TUNED, f"data.root={root}", f"cache_dir={path}-cache", *overrides), path)


@pytest.mark.slow
def test_a_run_on_a_model_of_another_family(root: Path, tmp_path: Path) -> None:
    model = save_family(tmp_path / "gemma2", "gemma2", spare_rows=8, **ROOM)
    more = ("lora=attention", "value=adapter", "ppo.dropout=true", "model.gradient_checkpointing=true")
    more += ("model.dtype=mixed",)
    metrics = go(root, tmp_path / "run", f"model.path={model}", *more)
    assert metrics["baseline"]["true_kl_per_token"] == 0.0
    assert metrics["true_kl_per_token"] > 0
    assert AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run" / "policy").peft_config


@pytest.mark.slow
def test_gpt2_is_fine_tuned_from_its_path_and_keeps_its_own_end(root: Path, tmp_path: Path) -> None:
    model = save_family(tmp_path / "gpt2", "gpt2", pad=None, n_positions=384)
    more = ("sft.epochs=1", "model.gradient_checkpointing=true", "model.dtype=bfloat16")
    metrics = go(root, tmp_path / "run", f"model.path={model}", *more)
    assert {"sft", *STAGES} == set(metrics["stages"])
    assert metrics["steps"] == 2


@pytest.mark.slow
def test_gradient_checkpointing_changes_no_figure(root: Path, tmp_path: Path) -> None:
    model = save_family(tmp_path / "llama", "llama", **ROOM)
    plain, again = (
        go(root, tmp_path / str(on), f"model.path={model}", "value=adapter", f"model.gradient_checkpointing={on}")
        for on in (False, True)
    )
    for name in ("true_kl_per_token", "reward", "response_length"):
        assert plain[name] == again[name], name
    assert (tmp_path / "False" / "outputs.json").read_text().replace("False", "") == (
        tmp_path / "True" / "outputs.json"
    ).read_text().replace("True", "")


# ---- The commands of docs/real-models.md, on shrunk models of the families they name. ------------------------------

PAGE = ROOT / "docs" / "real-models.md"
SHRUNK = {"alpaca_farm_sft10k": "llama", "qwen25_0_5b": "qwen2", "qwen25_7b": "qwen2", "llama3_8b": "llama"}
SMALLER = (
    *("rollout.batch_size=4", "rollout.max_response_tokens=6", "evaluation.max_response_tokens=6", "ppo.steps=1"),
    *("ppo.step_batch_size=4", "ppo.micro_batch_size=2", "evaluation.prompts=8", "reward.standard_prompts=8"),
    *("sft.batch_size=4", "checks.min_accuracy=0", "model.threads=1", "device=cpu"),
    *("reward.epochs=1", "reward.batch_size=2", "reward.holdout=0.3"),
)
RANDOM = (
    "model.hidden_size=32",
    "model.layers=1",
    "model.heads=2",
    "model.intermediate_size=48",
    "model.vocab_size=300",
)


def documented() -> dict[str, list[str]]:
    """The overrides of the page's first command with each `model=`; the page's names for files are left out."""
    found: dict[str, list[str]] = {}
    for line in commands(PAGE):
        words = [word for word in shlex.split(line) if re.match(r"[a-z][\w.]*=", word)]
        for model in (word.removeprefix("model=") for word in words if word.startswith("model=")):
            kept = [word for word in words if not re.match(r"hydra|\w+\.path=|data\.evaluation=", word)]
            found.setdefault(model, kept)
    return found


def tables(root: Path, folder: Path, overrides: list[str]) -> list[str]:
    """Files in place of those of the hub: conversations for data=chat, else as of AlpacaFarm's splits."""
    if "data=chat" in overrides:
        write_chats(folder)
        return [
            f"data.{key}={folder}/{file}.jsonl" for key, file in zip(FILES, ("talks", "pairs", "prompts"), strict=True)
        ]
    (folder / "validation.json").write_text(
        json.dumps([{"instruction": f"Choose {n}.", "output": ""} for n in range(8)])
    )
    more = (f"data.prompts={root}/instructions.json", f"data.validation={folder}/validation.json")
    return [*(f"data.{key}={root}/{key}.json" for key in FILES), *more]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SHRUNK, "llama_7b_random"])
def test_the_commands_of_real_models_run_on_shrunk_models(root: Path, tmp_path: Path, name: str) -> None:
    overrides, places = documented()[name], [*map(str, RANDOM)]
    if name in SHRUNK:
        path = save_family(tmp_path / "model", SHRUNK[name], max_position_embeddings=2048)
        tokenizer = AutoTokenizer.from_pretrained(path)
        tokenizer.chat_template = CHATML if "data=chat" in overrides else None
        tokenizer.save_pretrained(path)
        places = [f"model.path={path}"]
    if "reward=alpaca_farm" in overrides:
        save_alpaca_farm(tmp_path, "sft10k")
        places.append(f"reward.path={tmp_path / 'rm'}")
    places += [*tables(root, tmp_path, overrides), f"cache_dir={tmp_path / 'cache'}"]
    metrics = run(configure(*overrides, *SMALLER, *places), tmp_path / "run")
    assert metrics["baseline"]["true_kl_per_token"] == 0.0
    assert metrics["steps"] == 1
    assert ("sft" in metrics["stages"]) == (name == "qwen25_0_5b")
    if name in SHRUNK:
        assert AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run" / "policy").peft_config
    else:
        assert not list((tmp_path / "cache").rglob("model*.safetensors"))  # made anew, and never written


# ---- Rewards that were made elsewhere. ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_family(tmp_path_factory.mktemp("models") / "llama", "llama", **ROOM)


@pytest.mark.parametrize("kind", ["classifier", "alpaca_farm"])
def test_a_run_against_a_reward_model_of_another_path_and_tokenizer(
    root: Path, model: str, tmp_path: Path, kind: str
) -> None:
    if kind == "classifier":
        save_classifier(tmp_path / "rm")
    else:
        save_alpaca_farm(tmp_path, "sft10k")
    reward = (f"reward={kind}", f"reward.path={tmp_path / 'rm'}", "value=head")
    metrics = go(root, tmp_path / "run", f"model.path={model}", *reward)
    assert set(metrics["stages"]["reward"]) == {
        "accuracy",
        "accuracy_se",
        "longer",
        "length_correlation",
    }  # measured, and nothing was trained
    assert "loss" in metrics["stages"]["judge"]
    [stage] = tmp_path.glob("run-cache/reward-*/scale.json")
    assert not list(stage.parent.glob("*.safetensors"))


def test_a_run_against_a_function_on_text(root: Path, model: str, tmp_path: Path) -> None:
    function = "reward.function._target_=tests.test_model_runs.digits"
    prompts = ("data.preferences=null", "data.sft_fraction=0", "checks.min_accuracy=0.99", "judge=none")
    more = ("reward=function", function, "value=adapter", "value.init=zero", *prompts)
    metrics = go(root, tmp_path / "run", f"model.path={model}", *more)
    rows = [json.loads(line) for line in (tmp_path / "run" / "responses.jsonl").read_text().splitlines()]
    outputs = read_json(tmp_path / "run" / "outputs.json")
    [stage] = tmp_path.glob("run-cache/reward-*/scale.json")
    scale = read_json(stage)
    for row, output in zip(rows, outputs, strict=True):
        wanted = (digits(row["instruction"], output["output"]) - scale["mean"]) / scale["deviation"]
        assert row["score"] == pytest.approx(wanted, abs=1e-4)
    assert metrics["reward"] == pytest.approx(sum(row["score"] for row in rows) / len(rows))
    raw = [digits(output["instruction"], output["output"]) for output in outputs]
    assert metrics["raw_reward"] == pytest.approx(sum(raw) / len(raw), abs=1e-6)
    # a run without a win rate is a run: it is reported, and can be judged later
    assert metrics["win_rate"] is metrics["baseline"].get("win_rate") is None
    found = report(load_outputs([tmp_path / "run"]), [])
    assert found.ablation.headline == "reward"
    assert found.answer.headline.startswith("all runs: reward ")
    write(found, tmp_path / "report", 4)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "these runs have no judge" in page
    assert not re.search("Factuality|a right fact|[Ww]in rate", page)
    shown = table(tmp_path, [read_run(tmp_path / "run")], {tmp_path / "run": "run"}, 0.0, 80)
    assert "reward, SFT deviations" in [str(column.header) for column in shown.columns]
    references = [row["output"] for row in read_json(tmp_path / "run" / "references.json")]
    pairs = [
        {"instruction": row["instruction"], "output_1": other, "output_2": row["output"], "preference": 2}
        for row, other in zip(outputs, references, strict=True)
    ]
    (tmp_path / "notes.json").write_text(json.dumps(pairs))
    by_notes = compose_evaluation(["judge=annotations", f"judge.file={tmp_path}/notes.json"])
    judged = evaluate(tmp_path / "run", None, by_notes)
    assert [figures["win_rate"] for figures in judged.values()] == [100.0]


def test_a_verifier_judges_its_own_runs(tmp_path: Path) -> None:
    """In the embedded world too, where the oracle is the default."""
    function = "reward.function._target_=tests.test_model_runs.digits"
    settings = ("experiment=smoke", "reward=function", function, "value=head", "judge=reward", "ppo.steps=0")
    path = tmp_path / "run"
    metrics = run(configure(*settings, f"cache_dir={tmp_path / 'cache'}"), path)
    rows = [json.loads(line) for line in (path / "responses.jsonl").read_text().splitlines()]
    texts = [row["output"] for row in read_json(path / "outputs.json")]
    own, other = ([digits("", text) for text in found] for found in (texts, [row["reference"] for row in rows]))
    first = [1.5 if abs(one - two) < 1e-6 else 1.0 + (one > two) for one, two in zip(own, other, strict=True)]
    assert [row["preferences"][0] for row in rows] == first
    assert metrics["win_rate"] is not None


def digits(instruction: str, response: str) -> float:
    """The share of a response's characters that are no letters."""
    return sum(not character.isalpha() for character in response) / max(1, len(response))


def test_a_function_in_the_embedded_world(tmp_path: Path) -> None:
    function = "reward.function._target_=tests.test_model_runs.digits"
    settings = ("experiment=smoke", "reward=function", function, "value=head", f"cache_dir={tmp_path / 'cache'}")
    metrics = run(configure(*settings), tmp_path / "run")
    measured = {"accuracy", "accuracy_se", "longer", "length_correlation", "oracle_agreement", "oracle_agreement_se"}
    assert set(metrics["stages"]["reward"]) == measured


def test_what_a_given_reward_is_made_of_is_in_its_key(tmp_path: Path) -> None:
    keys = []
    for name in ("digits", "go", "digits"):
        function = f"reward.function._target_=tests.test_model_runs.{name}"
        reads = Pipeline._reward_reads
        pipeline = object.__new__(Pipeline)
        pipeline.config = configure("experiment=smoke", "reward=function", function, "value=head")
        keys.append(reads(pipeline, "reward", 0))
    assert keys[0] == keys[2]
    assert keys[0] != keys[1]


def test_a_reward_that_is_not_there_is_refused_before_any_work(root: Path, model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"reward\.path=.*there is no such directory"):
        go(root, tmp_path / "run", f"model.path={model}", "reward=classifier", "reward.path=/nowhere", "value=head")
    assert not (tmp_path / "run-cache").exists()
