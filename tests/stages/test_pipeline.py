from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.config.evaluation import ChecksConfig
from rlhf.data.source import Response
from rlhf.errors import CheckError, ConfigError
from rlhf.models.backbone import save_backbone
from rlhf.stages import pipeline as pipeline_module
from rlhf.stages.baseline import Baseline
from rlhf.stages.checks import check_factuality, check_reward
from rlhf.stages.evaluator import Evaluator
from rlhf.stages.pipeline import Pipeline
from rlhf.storage.cache import Finished, Stage
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


@pytest.mark.parametrize("name", ["reward=full", "reward.backbone=full"])
def test_whole_models_are_no_members(name: str) -> None:
    with pytest.raises(ConfigError, match=r"reward\.members=2 is not allowed"):
        configure("experiment=smoke", name, "value=head", "reward.members=2")


# ---- The evaluation before the first step. ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "known"),
    [
        ((), True),
        (("lora=full",), True),
        (("evaluation.temperature=0",), True),
        (("evaluation.best_of=2",), False),
        (("lora.path={adapter}",), False),
        (("regularizer=custom", "regularizer.function._target_=torch.sub"), False),  # whatever it says of equals
    ],
    ids=str,
)
def test_the_start_is_known_where_the_policy_is_the_sft_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, overrides: tuple[str, ...], known: bool
) -> None:
    monkeypatch.setattr(pipeline_module, "check_start", lambda lora: None)
    pipeline = Pipeline(configure("experiment=smoke", *(each.format(adapter=tmp_path) for each in overrides)))
    baseline = Baseline([Response([7, 2], "own", True)], [[Response([8], "other", False)]], [], {})
    monkeypatch.setattr(pipeline, "load_baseline", lambda: baseline)
    measured = {"own": {"win_rate": 50.0}, "scores": [0.25], "controls": {}}
    monkeypatch.setattr(pipeline, "measured_baseline", lambda evaluator: measured)
    start = pipeline.evaluation_at_start(Evaluator.__new__(Evaluator))
    assert (start is not None) == known
    assert start is None or (start.figures, start.responses, start.scores) == ({"win_rate": 50.0}, baseline.own, [0.25])


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
