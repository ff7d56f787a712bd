from pathlib import Path

import pytest

from rlhf.config.evaluation import ChecksConfig
from rlhf.errors import CheckError, ConfigError
from rlhf.models.backbone import save_backbone
from rlhf.stages.checks import check_factuality, check_reward
from rlhf.stages.pipeline import Pipeline
from rlhf.stages.preflight import check_stages, checked_pipeline
from tests.configure import configure
from tests.models.test_external_reward import save_alpaca_farm
from tests.tiny import tiny_lm, tiny_tokenizer

CHECKS = ChecksConfig(min_factuality=60.0, max_factuality=85.0, min_accuracy=0.55, min_oracle_agreement=0.65)
NO_CHECKS = ChecksConfig(min_factuality=None, max_factuality=None, min_accuracy=None, min_oracle_agreement=None)


@pytest.mark.parametrize("factuality", [60.0, 72.5, 85.0])
def test_factuality_within_its_bounds_passes(factuality: float) -> None:
    check_factuality(factuality, CHECKS)


@pytest.mark.parametrize(
    ("factuality", "bound"), [(59.9, "min_factuality"), (85.1, "max_factuality"), (None, "min_factuality")]
)
def test_factuality_outside_its_bounds_is_refused(factuality: float | None, bound: str) -> None:
    with pytest.raises(CheckError, match=rf"{factuality or 'unknown'}.*checks\.{bound}"):
        check_factuality(factuality, CHECKS)
    check_factuality(factuality, NO_CHECKS)


@pytest.mark.parametrize(
    ("accuracy", "agreement", "found"),
    [(0.512, 0.7, r"51\.2 %.*2\.0.*checks\.min_accuracy"), (0.6, 0.649, r"64\.9 %.*checks\.min_oracle_agreement")],
)
def test_a_reward_model_that_learnt_too_little_is_refused(accuracy: float, agreement: float, found: str) -> None:
    figures = {"accuracy": accuracy, "accuracy_se": 0.02, "oracle_agreement": agreement}
    with pytest.raises(CheckError, match=found):
        check_reward("reward", figures, CHECKS)
    check_reward("reward", figures, NO_CHECKS)


def test_text_has_no_oracle_to_agree_with() -> None:
    check_reward("judge", {"accuracy": 0.6, "accuracy_se": 0.02}, CHECKS)


@pytest.mark.parametrize(
    ("override", "tokens"), [("rollout.max_response_tokens=64", 88), ("evaluation.max_response_tokens=41", 65)]
)
def test_a_model_without_room_for_a_response_is_refused_before_any_work(
    tmp_path: Path, override: str, tokens: int
) -> None:
    save_backbone(tiny_lm(), tiny_tokenizer(), tmp_path / "model")  # its context has 64 tokens
    settings = ("experiment=smoke", f"model.path={tmp_path / 'model'}", f"cache_dir={tmp_path / 'cache'}")
    check_stages(Pipeline(configure(*settings, "evaluation.max_response_tokens=40")))
    with pytest.raises(ConfigError, match=rf"rollout\.max_response_tokens.* {tokens} tokens.* 64"):
        check_stages(Pipeline(configure(*settings, override)))
    assert not (tmp_path / "cache").exists()


def test_a_value_on_a_reward_model_of_other_tokens_is_refused_before_any_work(tmp_path: Path) -> None:
    save_backbone(tiny_lm(), tiny_tokenizer(), tmp_path / "model")  # 16 tokens
    save_alpaca_farm(tmp_path, "sft10k")  # 280
    given = ("reward=alpaca_farm", f"reward.path={tmp_path / 'rm'}", "value=paper", f"model.path={tmp_path / 'model'}")
    with pytest.raises(
        ConfigError, match=r"value\.init=backbone .* embeds 280 tokens, .* writes in 16: use value\.init"
    ):
        check_stages(Pipeline(configure("experiment=smoke", *given, "rollout.max_response_tokens=8")))


@pytest.mark.parametrize("function", ["no.such.function", "math.sqrt", "torch.dist", "operator.is_"])
def test_a_custom_penalty_that_can_not_be_used_is_refused_before_any_work(function: str) -> None:
    config = configure("experiment=smoke", "regularizer=custom", f"regularizer.function._target_={function}")
    with pytest.raises(ConfigError, match=rf"regularizer\.function\._target_={function}"):
        checked_pipeline(config)
