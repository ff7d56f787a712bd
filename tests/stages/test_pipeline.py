from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.config.evaluation import ChecksConfig
from rlhf.errors import CheckError, ConfigError
from rlhf.infra.cache import Finished, Stage
from rlhf.models.backbone import save_backbone
from rlhf.stages import pipeline as pipeline_module
from rlhf.stages.pipeline import Pipeline, check_factuality, check_reward
from tests.configure import configure
from tests.tiny import tiny_lm, tiny_tokenizer

CHECKS = ChecksConfig(min_factuality=60.0, max_factuality=85.0, min_accuracy=0.55, min_oracle_agreement=0.65)
NO_CHECKS = ChecksConfig(min_factuality=None, max_factuality=None, min_accuracy=None, min_oracle_agreement=None)


@pytest.mark.parametrize("factuality", [60.0, 72.5, 85.0])
def test_factuality_within_its_bounds_passes(factuality: float) -> None:
    check_factuality(factuality, CHECKS)


@pytest.mark.parametrize(("factuality", "bound"), [(59.9, "min_factuality=60.0"), (85.1, "max_factuality=85.0")])
def test_factuality_outside_its_bounds_stops_the_run_with_the_figure(factuality: float, bound: str) -> None:
    with pytest.raises(CheckError, match=rf"{factuality} %.*checks\.{bound}"):
        check_factuality(factuality, CHECKS)
    check_factuality(factuality, NO_CHECKS)


def test_a_model_that_states_no_facts_is_not_factual() -> None:
    with pytest.raises(CheckError, match="it states no facts"):
        check_factuality(None, CHECKS)
    check_factuality(None, NO_CHECKS)


def test_a_reward_model_that_learnt_too_little_stops_the_run_with_the_figure() -> None:
    figures = {"accuracy": 0.512, "accuracy_se": 0.02, "oracle_agreement": 0.7}
    with pytest.raises(CheckError, match=r"51\.2 % \(standard error 2\.0\).*checks\.min_accuracy=0\.55"):
        check_reward("reward", figures, CHECKS)
    check_reward("reward", figures, NO_CHECKS)


def test_a_reward_model_far_from_the_oracle_stops_the_run_with_the_figure() -> None:
    figures = {"accuracy": 0.6, "accuracy_se": 0.02, "oracle_agreement": 0.649}
    with pytest.raises(CheckError, match=r"64\.9 %.*checks\.min_oracle_agreement=0\.65"):
        check_reward("reward", figures, CHECKS)
    del figures["oracle_agreement"]  # text has no oracle
    check_reward("judge", figures, CHECKS)


def stage_keys(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> dict[str, str]:
    """The key of each stage of a configuration, with nothing built."""

    def unbuilt(cache: Path, stage: Stage, build: Callable[[Path], dict[str, Any]]) -> Finished:
        return Finished(cache / stage.name, stage.key, {}, 0.0, built_now=False)

    monkeypatch.setattr(pipeline_module, "finish", unbuilt)
    pipeline = Pipeline(configure("experiment=smoke", *overrides))
    pipeline.sft_figures()
    pipeline.reward()
    pipeline.baseline()
    return {name: done.key for name, done in pipeline.finished.items()}


EVERYTHING = {"pretrain", "sft", "sft_figures", "reward", "baseline"}


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("data.seed=1", EVERYTHING),
        ("data.people=25", EVERYTHING),
        ("data.undocumented=0", EVERYTHING),
        ("model.layers=2", EVERYTHING),
        ("pretrain.lr=0.1", EVERYTHING),
        ("sft.lr=0.1", EVERYTHING - {"pretrain"}),
        ("model.dtype=bfloat16", {"sft_figures", "reward", "baseline"}),
        ("rollout.temperature=0.9", {"sft_figures", "reward", "baseline"}),
        ("rollout.max_response_tokens=20", {"sft_figures", "reward", "baseline"}),
        ("factuality=none", {"sft_figures"}),
        ("reward.lr=0.1", {"reward"}),
        ("reward.lora.dtype=bfloat16", {"reward"}),
        ("data.annotator_flips=0.2", {"reward"}),
        ("evaluation.split=tune", {"baseline"}),
        ("evaluation.references=3", {"baseline"}),
        ("evaluation.temperature=0", {"baseline"}),
        ("evaluation.max_response_tokens=20", {"baseline"}),
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


def test_a_model_without_room_for_a_response_is_refused_before_any_work(tmp_path: Path) -> None:
    save_backbone(tiny_lm(), tiny_tokenizer(), tmp_path / "model")  # of a context of 64 tokens
    settings = ("experiment=smoke", f"model.path={tmp_path / 'model'}", f"cache_dir={tmp_path / 'cache'}")
    with pytest.raises(ConfigError, match=r"a sequence takes 88 tokens, and model\.path has room for 64"):
        Pipeline(configure(*settings, "rollout.max_response_tokens=64")).sft()
    assert not (tmp_path / "cache").exists()


def test_a_model_without_room_for_a_longer_evaluation_is_refused_before_any_work(tmp_path: Path) -> None:
    save_backbone(tiny_lm(), tiny_tokenizer(), tmp_path / "model")  # of a context of 64 tokens
    settings = ("experiment=smoke", f"model.path={tmp_path / 'model'}", f"cache_dir={tmp_path / 'cache'}")
    Pipeline(configure(*settings, "evaluation.max_response_tokens=40"))
    with pytest.raises(ConfigError, match=r"a sequence takes 65 tokens, and model\.path has room for 64"):
        Pipeline(configure(*settings, "evaluation.max_response_tokens=41"))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("no.such.function", "Error locating target"),
        ("math.sqrt", "it must take log-probabilities of policy and reference"),
        ("torch.dist", "it must return a tensor of its arguments' shape"),
        ("operator.is_", "it must return a tensor of its arguments' shape"),
    ],
)
def test_a_penalty_of_ones_own_that_can_not_be_used_is_refused_at_once(function: str, reason: str) -> None:
    own = ("regularizer=custom", f"regularizer.function._target_={function}")
    with pytest.raises(ConfigError) as refused:
        Pipeline(configure("experiment=smoke", *own))
    assert f"regularizer.function._target_={function} is not allowed: {reason}" in str(refused.value)


def test_a_model_that_is_not_fine_tuned_is_the_base_itself(tmp_path: Path) -> None:
    save_backbone(tiny_lm(), tiny_tokenizer(), tmp_path / "model")
    pipeline = Pipeline(configure("experiment=smoke", f"model.path={tmp_path / 'model'}", "sft.epochs=0"))
    assert pipeline.sft() == pipeline.base()
    assert pipeline.finished == {}
