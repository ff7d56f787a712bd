from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.models.backbone import save_backbone
from rlhf.stages import pipeline as pipeline_module
from rlhf.stages.pipeline import Pipeline
from rlhf.storage.cache import Finished, Stage
from tests.configure import configure
from tests.tiny import tiny_lm, tiny_tokenizer


def stage_keys(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> dict[str, str]:
    """The key of each stage of a configuration, with nothing built."""

    def unbuilt(cache: Path, stage: Stage, build: Callable[[Path], dict[str, Any]]) -> Finished:
        return Finished(cache / stage.name, stage.key, {}, 0.0, built_now=False)

    monkeypatch.setattr(pipeline_module, "finish", unbuilt)
    pipeline = Pipeline(configure("experiment=smoke", *overrides))
    pipeline.sft_figures()
    pipeline.finished_reward()
    pipeline.baseline()
    pipeline.baseline_figures()
    return {name: done.key for name, done in pipeline.finished.items()}


EVERYTHING = {"pretrain", "sft", "sft_figures", "samples", "reward", "baseline", "baseline_figures"}
SAMPLED = EVERYTHING - {"pretrain", "sft"}
"""What the SFT model's responses are drawn for."""


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("data.seed=1", EVERYTHING),
        ("data.people=25", EVERYTHING),
        ("data.undocumented=0", EVERYTHING),
        ("model.layers=2", EVERYTHING),
        ("pretrain.lr=0.1", EVERYTHING),
        ("sft.lr=0.1", EVERYTHING - {"pretrain"}),
        ("model.dtype=bfloat16", SAMPLED),
        ("rollout.temperature=0.9", SAMPLED),
        ("rollout.max_response_tokens=20", SAMPLED),
        ("factuality=none", {"sft_figures", "baseline_figures"}),
        ("reward.lr=0.1", {"reward", "baseline_figures"}),
        ("reward.logprobs=none", {"reward", "baseline_figures"}),
        ("reward.lora.dtype=bfloat16", {"reward", "baseline_figures"}),
        ("reward.combine=min", set()),  # of one reward model there is nothing to combine
        ("reward.resample=true", set()),
        ("data.annotator=gentle", {"reward", "baseline_figures"}),
        ("data.annotator_flips=0.2", {"reward", "baseline_figures"}),
        ("data.comparison_prompts=23", {"samples", "reward", "baseline_figures"}),
        ("evaluation.split=tune", {"baseline", "baseline_figures"}),
        ("evaluation.references=3", {"baseline", "baseline_figures"}),
        ("evaluation.temperature=0", {"baseline", "baseline_figures"}),
        ("evaluation.control_temperatures=[0.7]", {"baseline", "baseline_figures"}),
        ("evaluation.max_response_tokens=20", {"baseline", "baseline_figures"}),
        ("ppo.missing_eos_score=-1", {"baseline_figures"}),
        ("evaluation.interim_prompts=4", set()),
        ("evaluation.best_of=4", set()),
        ("evaluation.every=1", set()),
        ("rollout.batch_size=16", set()),
        ("regularizer=js", set()),
        ("lora.r=4", set()),
        ("lora.dtype=bfloat16", set()),
        ("algorithm=grpo", set()),
        ("regularizer=dropout_only", set()),
        ("ppo.retokenize=true", set()),
        ("value=head", set()),
        ("ppo.lr=0.1", set()),
        ("seed=1", EVERYTHING),  # unless data.seed is given, it is the data's too
        ("model.threads=2", set()),
        ("checks.min_accuracy=0.9", set()),
    ],
)
def test_a_setting_rebuilds_the_stages_that_read_it_and_no_other(
    monkeypatch: pytest.MonkeyPatch, override: str, changed: set[str]
) -> None:
    before, after = stage_keys(monkeypatch), stage_keys(monkeypatch, override)
    assert set(before) == set(after) == EVERYTHING
    assert {name for name in before if before[name] != after[name]} == changed


# ---- Ensembles. ---------------------------------------------------------------------------------------------------


TOGETHER = {"ensemble", "baseline_figures"}


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        (("reward.combine=min",), TOGETHER),
        (("reward.combine=mean_minus_std",), TOGETHER),
        (("reward.resample=true",), {"reward_1", "reward_2", *TOGETHER}),
        (("reward.lr=0.1",), {"reward", "reward_1", "reward_2", *TOGETHER}),
        (("data.annotator=harsh",), {"reward", "reward_1", "reward_2", *TOGETHER}),
        (("reward.resample=true", "reward.combine=min"), {"reward_1", "reward_2", *TOGETHER}),
        (("reward.members=2",), TOGETHER),  # but for the third, which is no more
    ],
    ids=lambda value: " ".join(sorted(value)),
)
def test_a_setting_of_an_ensemble_rebuilds_what_reads_it(
    monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], changed: set[str]
) -> None:
    before = stage_keys(monkeypatch, "reward.members=3")
    after = stage_keys(monkeypatch, "reward.members=3", *overrides)
    assert set(before) == EVERYTHING | {"reward_1", "reward_2", "ensemble"}
    assert {name for name in after if before[name] != after[name]} == changed
    assert len({before[name] for name in ("reward", "reward_1", "reward_2")}) == 3


@pytest.mark.parametrize("overrides", [(), ("reward.resample=true",), ("reward.combine=min",)])
def test_the_first_member_is_the_single_model_and_shares_all_before_it(
    monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    alone, several = stage_keys(monkeypatch), stage_keys(monkeypatch, "reward.members=2", *overrides)
    assert set(several) - set(alone) == {"reward_1", "ensemble"}
    assert {name for name in alone if alone[name] != several[name]} == {"baseline_figures"}


def test_a_model_that_is_not_fine_tuned_is_the_base_itself(tmp_path: Path) -> None:
    save_backbone(tiny_lm(), tiny_tokenizer(), tmp_path / "model")
    pipeline = Pipeline(configure("experiment=smoke", f"model.path={tmp_path / 'model'}", "sft.epochs=0"))
    assert pipeline.sft() == pipeline.base()
    assert pipeline.finished == {}
