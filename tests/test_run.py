"""The names of run directories, and a whole run in miniature: what it leaves behind, and when it does nothing."""

import gc
import json
import logging
import math
import os
import re
import signal
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.compose import LONGEST_NAME, run_name, sweep_name
from rlhf.errors import CheckError, ConfigError, DataError, Preempted
from rlhf.evaluation.winrate import length_controlled_win_rate
from rlhf.experiment import imported_for_good, run
from rlhf.figures import FIGURES
from rlhf.resume import main as resume
from rlhf.stages.learner import Learner
from rlhf.storage.files import read_json
from rlhf.storage.rundir import RunDirectory
from tests.configure import configure

METRICS = {
    *("win_rate", "factuality", "factuality_se", "response_length", "reward", "objective", "objective_se"),
    *("win_rate_greedy", "factuality_greedy", "factuality_greedy_se", "response_length_greedy"),
    *("true_kl_per_token", "true_kl_per_response"),
}
"""The figures of the policy and, in the block `baseline`, of the SFT model."""

COMPARED = {
    f"{name}{more}"
    for name in ("win_rate", "win_rate_greedy")
    for more in ("_se", "_ties_as_losses", "_length_controlled")
} | {"n_eval", "n_null", "judge_problem"}
"""The figures that the SFT model, which is compared with itself alone, lacks."""

DIAGNOSTICS = {
    *("rollout/k1", "rollout/k3", "rollout/kl", "rollout/entropy", "rollout/response_length", "rollout/score"),
    *("rollout/objective", "rollout/score_spread", "rollout/kl_per_response", "rollout/penalty_per_response"),
    *("rollout/penalty", "rollout/finished", "regularizer/coef", "ppo/policy_loss", "ppo/value_loss"),
    *("ppo/clip_fraction", "ppo/value_clip_fraction", "ppo/approx_kl", "ppo/grad_norm", "ppo/value_grad_norm"),
}
"""What each step logs, whatever the regularizer."""

NO_FIGURES = {"step", "steps", "seed", "data_seed", "coef", "processes", "trainable_weights"}
"""What metrics.json and history.jsonl have of numbers that describe the run, not what came of it."""


@dataclass(frozen=True)
class Finished:
    path: Path
    cache: Path
    metrics: dict[str, Any]

    @property
    def history(self) -> list[dict[str, Any]]:
        return self._rows("history.jsonl")

    @property
    def judgements(self) -> list[dict[str, Any]]:
        return self._rows("responses.jsonl")

    def _rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / name).read_text().splitlines()]


def smoke(path: Path, cache: Path, *overrides: str) -> Finished:
    config = configure("experiment=smoke", f"cache_dir={cache}", "device=cpu", *overrides)
    return Finished(path, cache, run(config, path))


def times(path: Path) -> dict[str, int]:
    """When each file below was last written; locks, which waiting processes touch, left out."""
    return {str(file): file.stat().st_mtime_ns for file in path.rglob("*") if file.suffix != ".lock"}


def without_seconds(run: Finished) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    metrics = {name: value for name, value in run.metrics.items() if name not in ("seconds", "memory")}
    rows = [{name: value for name, value in row.items() if "second" not in name} for row in run.history]
    return metrics, rows


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run with an empty cache."""
    folder = tmp_path_factory.mktemp("first")
    return smoke(folder / "run", folder / "cache")


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "default"),
        (["regularizer=js", "lora.r=8"], "lora.r=8,regularizer=js"),
        (["lora.r=8", "regularizer=js"], "lora.r=8,regularizer=js"),
        (["+ppo.lr=1e-3"], "+ppo.lr=1e-3"),
        (["a=" + "b" * (LONGEST_NAME - 2)], "a=" + "b" * (LONGEST_NAME - 2)),
    ],
)
def test_run_name_is_the_overrides(overrides: list[str], name: str) -> None:
    assert run_name(overrides) == name


def test_run_name_has_only_characters_that_every_shell_and_file_system_takes() -> None:
    name = run_name(["data.root=/data/my farm", "lora.target_modules=[q_proj,v_proj]"])
    stem, _, digest = name.rpartition("-")
    assert stem == "data.root=-data-my-farm,lora.target_modules=-q_proj,v_proj-"
    assert len(digest) == 8


def test_run_names_that_differ_in_unsafe_characters_differ() -> None:
    assert len({run_name([f"data.root={root}"]) for root in ("/a/b", "/a b", "-a-b", "/a-b")}) == 4


def test_long_run_names_are_cut_and_still_differ() -> None:
    long = [f"group{index}.key=value" for index in range(20)]
    names = {run_name([*long, f"z.seed={seed}"]) for seed in range(3)}
    assert len(names) == 3
    assert {len(name) for name in names} == {LONGEST_NAME + 9}


def test_sweep_name() -> None:
    assert sweep_name("config") == "multirun"
    assert sweep_name("regularizers") == "regularizers"
    assert sweep_name("regularizers", "mine") == "mine"


def test_a_run_may_be_named() -> None:
    assert run_name(["name=first", "lora.r=8"], "first") == "first"
    assert run_name(["name=first", "lora.r=8"]) == "lora.r=8"
    assert not run_name([], "..").startswith(".")  # the configuration refuses it, once Hydra has made the directory


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a b", "a" * 121])
def test_a_name_that_is_no_plain_directory_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^name="):
        configure(f"name='{name}'")


def test_what_a_first_run_imports_is_never_looked_through_for_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.enable()
    gc.unfreeze()  # what other tests of this process have frozen
    with imported_for_good():  # torch is there: what is not used any more may be garbage
        assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    monkeypatch.delitem(sys.modules, "torch")
    with imported_for_good():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()


def test_a_run_leaves_its_files(first: Finished) -> None:
    files = sorted(path.name for path in first.path.iterdir() if path.name != ".lock")
    lines = ["history.jsonl"]
    outputs = ["outputs-greedy.json", "outputs.json", "policy"]
    references = ["references-greedy.json", "references.json", "responses.jsonl"]
    assert files == ["config.yaml", *lines, "metrics.json", *outputs, *references, "status.json"]
    status = read_json(first.path / "status.json")
    assert (status["state"], status["step"], status["reason"]) == ("done", 3, None)


def test_the_saved_configuration_is_the_one_asked_for(first: Finished) -> None:
    saved = OmegaConf.load(first.path / "config.yaml")
    assert saved == OmegaConf.structured(configure("experiment=smoke", f"cache_dir={first.cache}", "device=cpu"))


def test_history_has_a_row_before_and_one_per_step(first: Finished) -> None:
    rows = first.history
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    for row in rows[1:]:
        assert row.keys() >= DIAGNOSTICS
    # evaluated before, every second step, and after the last
    assert [row.keys() >= METRICS for row in rows] == [True, False, True, True]
    assert [row.keys() >= COMPARED for row in rows] == [False, False, True, True]
    assert rows[0]["true_kl_per_token"] == 0
    assert rows[1]["rollout/kl"] == 0
    assert rows[3]["rollout/kl"] > 0
    assert rows[1]["ppo/optimizer_steps"] == 4  # two passes over 8 responses, 4 at a time


def test_metrics_of_the_policy_and_of_the_baseline(first: Finished) -> None:
    metrics = read_json(first.path / "metrics.json")
    assert metrics == first.metrics
    assert metrics.keys() >= METRICS | COMPARED | {"coef", "seed", "steps", "trainable_weights", "seconds"}
    assert metrics["baseline"].keys() >= METRICS
    assert not metrics["baseline"].keys() & COMPARED
    last = {name: metrics[name] for name in metrics["baseline"].keys() | COMPARED}
    assert last.items() <= first.history[-1].items()
    assert (metrics["algorithm"], metrics["regularizer"], metrics["placement"]) == ("ppo", "js", "reward")
    coef = configure("experiment=smoke").regularizer.coef
    assert (metrics["coef"], metrics["seed"], metrics["n_eval"]) == (coef, 0, 16)
    assert metrics["baseline"]["true_kl_per_token"] == metrics["baseline"]["true_kl_per_response"] == 0
    assert metrics["true_kl_per_token"] > 0
    stages = {"pretrain", "sft", "sft_figures", "samples", "reward", "baseline", "baseline_figures"}
    assert metrics["stages"].keys() == stages
    assert metrics["seconds"].keys() == stages | {"ppo", "evaluation"}


def test_every_figure_that_a_run_writes_is_in_the_table_of_figures(first: Finished) -> None:
    rows = [first.metrics, first.metrics["baseline"], *first.metrics["controls"].values(), *first.history]
    written = {name for row in rows for name, value in row.items() if isinstance(value, float | int)}
    assert {name.removesuffix("_se") for name in written} - FIGURES.keys() == NO_FIGURES


def test_the_first_row_of_history_is_the_baseline(first: Finished) -> None:
    start = {name: value for name, value in first.history[0].items() if name not in ("step", "seconds/evaluation")}
    assert start == first.metrics["baseline"]
    assert (start["win_rate"], start["win_rate_greedy"]) == (50.0, 50.0)
    assert first.history[0]["seconds/evaluation"] == 0


def test_controls_are_the_sft_model_at_lower_temperatures(first: Finished) -> None:
    controls = first.metrics["controls"]
    assert list(controls) == ["0.7", "0.5"]
    for control in controls.values():
        assert control.keys() >= {"win_rate", "win_rate_se", "n_eval", "reward", "response_length", "factuality"}
        assert not {"objective", "objective_se"} & control.keys()  # no run's penalty is theirs
    # the cooler, the further from the SFT model at its own temperature
    assert 0 < controls["0.7"]["true_kl_per_response"] < controls["0.5"]["true_kl_per_response"]


def test_the_objective_is_the_score_less_the_weighted_penalty(first: Finished, tmp_path: Path) -> None:
    row = smoke(tmp_path / "run", first.cache, "ppo.missing_eos_score=null").history[-1]
    penalty, tokens = row["rollout/penalty_per_response"], row["rollout/response_length"]
    assert abs(penalty) > 1e-5
    wanted = row["rollout/score"] - row["regularizer/coef"] * penalty
    assert row["rollout/objective"] == pytest.approx(wanted, abs=1e-5)
    assert penalty == pytest.approx(row["rollout/penalty"] * tokens, rel=1e-4)
    assert row["rollout/kl_per_response"] == pytest.approx(row["rollout/kl"] * tokens, rel=1e-4)


def mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def test_the_figures_follow_from_the_judgements(first: Finished) -> None:
    rows, metrics = first.judgements, first.metrics
    assert len(rows) == 16
    assert {len(row["preferences"]) for row in rows} == {2}  # evaluation.references
    shares = [mean(preference - 1 for preference in row["preferences"]) for row in rows]
    assert metrics["win_rate"] == pytest.approx(100 * mean(shares))
    assert metrics["win_rate_se"] == pytest.approx(100 * statistics.stdev(shares) / 16**0.5)
    won = [preference == 2 for row in rows for preference in row["preferences"]]
    assert metrics["win_rate_ties_as_losses"] == pytest.approx(100 * mean(won))
    columns = ([row[name] for row in rows] for name in ("preferences", "length", "reference_lengths"))
    controlled = length_controlled_win_rate(*columns) or (None, None)
    assert (metrics["win_rate_length_controlled"], metrics["win_rate_length_controlled_se"]) == controlled
    assert metrics["response_length"] == pytest.approx(mean(row["length"] for row in rows))
    assert metrics["reward"] == pytest.approx(mean(row["score"] for row in rows))
    # of greedy responses, each compared with one
    [*preferences] = [preference for row in rows for preference in row["greedy_preferences"]]
    assert len(preferences) == 16
    assert metrics["win_rate_greedy"] == pytest.approx(100 * mean(preference - 1 for preference in preferences))
    assert metrics["response_length_greedy"] == pytest.approx(mean(row["greedy_length"] for row in rows))


def test_judgements_name_the_prompt_and_what_it_was_compared_with(first: Finished) -> None:
    outputs = read_json(first.path / "outputs.json")
    asked = [(row["instruction"], row["dataset"]) for row in first.judgements]
    assert asked == [(row["instruction"], row["dataset"]) for row in outputs]
    assert {dataset for _, dataset in asked} == {"biography", "list", "question"}
    [draws] = first.cache.glob("baseline-*/draws.json")
    drawn = read_json(draws)
    for name, references in (
        ("reference_lengths", drawn["references"]),
        ("greedy_reference_lengths", [drawn["greedy"]]),
    ):
        rows = zip(*references, strict=True)
        lengths = [[len(response["token_ids"]) for response in responses] for responses in rows]
        assert [row[name] for row in first.judgements] == lengths


def test_outputs_are_alpaca_evals(first: Finished) -> None:
    names = {"outputs.json": first.path.name, "outputs-greedy.json": first.path.name, "references-greedy.json": "sft"}
    for name, generator in names.items():
        outputs = read_json(first.path / name)
        assert len(outputs) == 16
        for row in outputs:
            assert row.keys() == {"instruction", "output", "generator", "dataset"}
            assert all(isinstance(value, str) for value in row.values())
            assert row["instruction"]
        assert {row["generator"] for row in outputs} == {generator}


def test_the_policy_is_an_adapter_that_peft_loads(first: Finished) -> None:
    base = read_json(first.path / "policy" / "adapter_config.json")["base_model_name_or_path"]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), first.path / "policy")
    probe = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        adapted = model(probe).logits
        with model.disable_adapter():
            plain = model(probe).logits
    assert not torch.equal(adapted, plain)
    trained = sum(weight.numel() for name, weight in model.named_parameters() if "lora_" in name)
    assert trained == first.metrics["trainable_weights"]


def test_a_done_run_is_shown_and_not_repeated(first: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    before = times(first.path.parent)
    capsys.readouterr()
    again = smoke(first.path, first.cache)
    shown = capsys.readouterr().out
    assert again.metrics == first.metrics
    assert times(first.path.parent) == before
    assert shown.startswith(f"{first.path}: done already")
    assert "win rate, greedy" in shown
    assert "ppo 1/3" not in shown


def test_a_directory_of_another_configuration_is_refused(first: Finished) -> None:
    before = times(first.path.parent)
    with pytest.raises(ConfigError, match="holds a run of another configuration") as refused:
        smoke(first.path, first.cache, "ppo.steps=2")
    assert "\n-  steps: 3\n+  steps: 2\n" in str(refused.value)
    assert times(first.path.parent) == before


def test_another_regularizer_builds_no_stage_again(first: Finished, tmp_path: Path) -> None:
    before = times(first.cache)
    other = smoke(tmp_path / "run", first.cache, "regularizer=kl")
    assert times(first.cache) == before
    assert other.metrics["regularizer"] == "kl"
    assert other.metrics["baseline"] == first.metrics["baseline"]
    assert [row.keys() for row in other.history] == [row.keys() for row in first.history]
    assert without_seconds(other)[1][0] == without_seconds(first)[1][0]
    assert other.history[-1]["rollout/penalty"] != first.history[-1]["rollout/penalty"]


def stages(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if path.is_dir()}


def added(cache: Path, before: set[str]) -> list[str]:
    return sorted(name.split("-")[0] for name in stages(cache) - before)


@pytest.mark.parametrize("override", ["reward.lr=2e-3", "data.annotator=gentle", "data.annotator=harsh"])
def test_another_reward_model_shares_what_comes_before_it(first: Finished, tmp_path: Path, override: str) -> None:
    """Another annotator, too, compares the same responses."""
    before = stages(first.cache)
    smoke(tmp_path / "run", first.cache, override, "ppo.steps=0")
    assert added(first.cache, before) == ["baseline_figures", "reward"]


def test_an_ensemble_adds_its_other_members_and_logs_where_they_disagree(first: Finished, tmp_path: Path) -> None:
    before = stages(first.cache)
    done = smoke(tmp_path / "run", first.cache, "reward.members=2", "reward.combine=min")
    assert added(first.cache, before) == ["baseline_figures", "ensemble", "reward_1"]
    assert done.metrics["stages"]["reward"] == first.metrics["stages"]["reward"]
    assert done.metrics["stages"]["reward_1"] != done.metrics["stages"]["reward"]
    assert [row["rollout/score_spread"] > 0 for row in done.history[1:]] == [True] * 3
    assert [row["rollout/score_spread"] for row in first.history[1:]] == [0.0] * 3
    again = smoke(tmp_path / "mean", first.cache, "reward.members=2", "reward.combine=mean", "ppo.steps=0")
    assert again.metrics["reward"] != done.metrics["baseline"]["reward"]


def test_the_same_run_gives_the_same_figures(first: Finished, tmp_path: Path) -> None:
    """Whether its stages come from the cache or are built anew."""
    from_cache = smoke(tmp_path / "from_cache", first.cache)
    built = smoke(tmp_path / "built", tmp_path / "cache")
    assert without_seconds(from_cache) == without_seconds(first)
    assert without_seconds(built) == without_seconds(first)


def test_a_stage_that_fails_its_check_stops_the_run(first: Finished, tmp_path: Path) -> None:
    with pytest.raises(CheckError) as failed:
        smoke(tmp_path / "run", first.cache, "checks.min_accuracy=1.0")
    reason = str(failed.value)
    accuracy = first.metrics["stages"]["reward"]["accuracy"]
    assert f"ranks {100 * accuracy:.1f} %" in reason
    assert "checks.min_accuracy=1.0" in reason
    status = read_json(tmp_path / "run" / "status.json")
    assert (status["state"], status["reason"]) == ("failed", reason)
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize(("root", "key"), [("", "data.instructions"), ("nowhere", "data.root")])
def test_missing_data_is_named(tmp_path: Path, root: str, key: str) -> None:
    config = configure("data=alpaca_farm", f"data.root={tmp_path / root}", f"cache_dir={tmp_path}/cache")
    with pytest.raises(DataError, match=rf"^{re.escape(key)}: .*{tmp_path / root}"):
        run(config, tmp_path / "run")
    assert not any((tmp_path / name).exists() for name in ("run", "cache"))


@pytest.mark.parametrize(
    "overrides",
    [
        ("value=head",),
        ("value=adapter",),
        ("value=adapter", "reward.members=2", "reward.combine=mean_minus_std", "reward.resample=true"),
        ("value=adapter", "value.init=zero", "reward=full"),
        ("reward.logprobs=own",),
        ("reward.logprobs=none",),
        ("lora.dora=true",),
        ("algorithm=grpo", "regularizer=bregman", "regularizer.placement=loss", "ppo.missing_eos_score=null"),
        ("regularizer=full_js", "ppo.entropy_coef=0.01"),
        ("regularizer=custom", "regularizer.function._target_=torch.sub", "+regularizer.function.alpha=2"),
    ],
    ids=" ".join,
)
def test_every_kind_of_value_and_adapter_and_algorithm_runs_to_its_end(
    first: Finished, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    done = smoke(tmp_path / "run", first.cache, *overrides)
    assert done.metrics["baseline"]["true_kl_per_token"] == 0.0
    assert done.metrics["true_kl_per_token"] > 0.0
    assert (done.path / "policy" / "adapter_config.json").exists()


def test_the_papers_settings_run_to_their_end_and_decode_greedily(first: Finished, tmp_path: Path) -> None:
    done = smoke(tmp_path / "run", first.cache, "ppo=paper", "ppo.lr=1e-2")
    assert done.metrics["true_kl_per_token"] > 0.0
    assert done.metrics["baseline"]["true_kl_per_token"] == 0.0
    # the SFT model against itself, decoded the same way
    assert (done.metrics["baseline"]["win_rate"], done.metrics["baseline"]["win_rate_greedy"]) == (50.0, 50.0)
    assert done.metrics["win_rate"] == done.metrics["win_rate_greedy"]
    assert done.metrics["response_length"] == done.metrics["response_length_greedy"]


def test_best_of_n_leaves_the_policy_alone_and_its_favourites(
    first: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = smoke(tmp_path / "run", first.cache, "algorithm=best_of_n", "evaluation.best_of=3", "ppo.steps=5")
    metrics = done.metrics
    assert metrics["baseline"] == first.metrics["baseline"]
    assert (metrics["algorithm"], metrics["steps"], metrics["true_kl_per_token"]) == ("best_of_n", 0, None)
    assert metrics["kl_bound_per_response"] == pytest.approx(math.log(3) - 2 / 3)
    assert metrics["reward"] > metrics["baseline"]["reward"]
    assert [row["step"] for row in done.history] == [0]
    assert read_json(done.path / "status.json")["state"] == "done"
    assert not [name for name in metrics if "greedy" in name]
    assert not list(done.path.glob("*greedy*"))
    assert "KL, at most" in capsys.readouterr().out


def test_a_penalty_that_can_not_be_used_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"regularizer\.function\._target_=no\.such\.function is not allowed"):
        smoke(
            tmp_path / "run", tmp_path / "cache", "regularizer=custom", "regularizer.function._target_=no.such.function"
        )
    assert not (tmp_path / "cache").exists()


def test_full_fine_tuning_saves_a_whole_model_with_its_tokenizer(first: Finished, tmp_path: Path) -> None:
    done = smoke(tmp_path / "run", first.cache, "lora=full")
    loaded = AutoModelForCausalLM.from_pretrained(done.path / "policy")
    assert loaded.num_parameters() == done.metrics["trainable_weights"] == done.metrics["stages"]["pretrain"]["weights"]
    assert AutoTokenizer.from_pretrained(done.path / "policy")("<bos>")["input_ids"] == [1]


def test_a_directory_in_use_is_refused(first: Finished, tmp_path: Path) -> None:
    other = RunDirectory(tmp_path / "run")
    other.open(configure("experiment=smoke"))
    with pytest.raises(ConfigError, match="another process is running there"):
        smoke(tmp_path / "run", Path("outputs/cache"), "device=auto")


def stop_in(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    """Have this process get the signal during a PPO step."""
    take = Learner.step

    def watched(learner: Learner) -> dict[str, Any]:
        if learner.step_count + 1 == step:
            os.kill(os.getpid(), number)
        return take(learner)

    monkeypatch.setattr(Learner, "step", watched)


def test_a_stopped_run_goes_on_when_given_again(
    first: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rlhf")
    with monkeypatch.context() as patch:
        stop_in(patch, 2, signal.SIGTERM)
        with pytest.raises(Preempted):
            smoke(tmp_path / "run", first.cache)
    status = read_json(tmp_path / "run" / "status.json")
    assert (status["state"], status["step"], status["reason"]) == ("preempted", 2, "SIGTERM")
    assert "stopped by SIGTERM" in caplog.text
    resume([str(tmp_path / "run")])
    assert "going on after step 2 of 3" in caplog.text
    again = Finished(tmp_path / "run", first.cache, read_json(tmp_path / "run" / "metrics.json"))
    assert without_seconds(again) == without_seconds(first)
    assert not (tmp_path / "run" / "checkpoint").exists()


@pytest.mark.parametrize(
    ("became", "recorded", "why"),
    [
        ("queued", "preempted", "SIGTERM"),
        ("cancelled", "cancelled", "the SLURM job was cancelled"),
        ("left", "preempted", "could not be requeued: no scontrol"),
    ],
)
def test_under_slurm_a_stopped_job_is_queued_again_unless_it_is_cancelled(
    first: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, became: str, recorded: str, why: str
) -> None:
    monkeypatch.setattr("rlhf.experiment.requeue", lambda: (became, "no scontrol"))
    stop_in(monkeypatch, 2, signal.SIGTERM)
    with pytest.raises(Preempted):
        smoke(tmp_path / "run", first.cache)
    status = read_json(tmp_path / "run" / "status.json")
    assert (status["state"], status["reason"]) == (recorded, why)


def test_a_signal_that_comes_before_the_work_is_told_and_the_job_queued_again(
    first: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rlhf")
    (tmp_path / "config.yaml").write_text((first.path / "config.yaml").read_text())
    monkeypatch.setattr("rlhf.experiment.requeue", lambda: ("left", "no scontrol"))
    monkeypatch.setattr("rlhf.process.signals._waiting", [signal.SIGTERM])
    with pytest.raises(SystemExit, match="143"):
        resume([str(tmp_path)])
    assert "stopped by SIGTERM; the same command goes on from there" in caplog.text
    assert read_json(tmp_path / "status.json")["reason"] == "could not be requeued: no scontrol"


def test_a_job_that_got_nowhere_in_its_time_is_not_queued_again(
    first: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr("rlhf.experiment.requeue", lambda: pytest.fail("queued again"))
    monkeypatch.setattr(Learner, "__init__", lambda *args: os.kill(os.getpid(), signal.SIGUSR2))
    with pytest.raises(Preempted):
        smoke(tmp_path / "run", first.cache)
    status = read_json(tmp_path / "run" / "status.json")
    assert (status["state"], status["step"]) == ("failed", None)
    assert "the time limit is too short" in status["reason"]


def test_a_directory_without_a_run_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"error: {tmp_path} holds no run that can be started"):
        resume([str(tmp_path)])
