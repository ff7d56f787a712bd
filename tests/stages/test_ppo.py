import pytest
import torch
from torch import Tensor

from rlhf.config import PPOConfig
from rlhf.errors import ConfigError
from rlhf.stages.ppo import Learner, lr_factor
from tests.configure import configure
from tests.stages.conftest import MakeSetting

ROLES = [
    ("value=reward_features",),
    ("value=head",),
    ("value=adapter", "reward=adapter"),
    ("value=adapter", "value.init=zero"),
    ("lora=full",),
    ("lora=full", "value=adapter", "reward=adapter"),
    ("lora.dora=true",),
]


def weights(learner: Learner) -> list[Tensor]:
    return [weight.detach().clone() for weight in learner.policy_weights + learner.value_weights]


@pytest.mark.parametrize("overrides", ROLES)
def test_a_step_trains_policy_and_value_and_nothing_else(make_setting: MakeSetting, overrides: tuple[str, ...]) -> None:
    setting = make_setting(*overrides)
    learner = setting.learner()
    own = {id(weight) for weight in learner.policy_weights + learner.value_weights}
    others = [weight for weight in setting.base.lm.parameters() if id(weight) not in own]
    others += setting.reward.parameters()
    before = [weight.detach().clone() for weight in others]
    started = weights(learner)
    row = learner.step()
    assert all(torch.equal(weight, old) for weight, old in zip(others, before, strict=True))
    policy_count = len(learner.policy_weights)
    moved = [not torch.equal(new, old) for new, old in zip(weights(learner), started, strict=True)]
    assert any(moved[:policy_count])
    assert any(moved[policy_count:])
    assert row["rollout/kl"] == 0.0
    assert row["rollout/k1"] == 0.0


@pytest.mark.parametrize("overrides", ROLES)
def test_the_ratio_is_1_in_the_first_pass(make_setting: MakeSetting, overrides: tuple[str, ...]) -> None:
    learner = make_setting("ppo.epochs=1", "ppo.step_batch_size=8", "ppo.micro_batch_size=8", *overrides).learner()
    for _ in range(2):
        row = learner.step()
        assert row["ppo/ratio_error"] < 1e-5
        assert row["ppo/approx_kl"] == pytest.approx(0, abs=1e-9)
        assert row["ppo/clip_fraction"] == 0


def test_dropout_in_the_update_is_off_unless_asked_for(make_setting: MakeSetting) -> None:
    one_pass = ("ppo.epochs=1", "ppo.step_batch_size=8", "ppo.micro_batch_size=8", "lora.dropout=0.5")
    quiet, noisy = make_setting(*one_pass).learner(), make_setting(*one_pass, "ppo.dropout=true").learner()
    for learner in (quiet, noisy):
        learner.step()  # LoRA's second factor leaves zero here; before that dropout has nothing to act on
    assert quiet.step()["ppo/ratio_error"] < 1e-5
    assert noisy.step()["ppo/ratio_error"] > 1e-4
    assert not noisy.policy.lm.training


def test_micro_batches_change_memory_and_not_the_result(make_setting: MakeSetting) -> None:
    rows, results = [], []
    for micro in (1, 2, 4):
        learner = make_setting(f"ppo.micro_batch_size={micro}").learner()
        rows.append(learner.step())
        results.append(torch.cat([weight.flatten() for weight in weights(learner)]))
    # responses differ in length, so equal weights per micro-batch instead of per token would show
    assert torch.allclose(results[0], results[2], atol=1e-6)
    assert torch.allclose(results[1], results[2], atol=1e-6)
    for name in ("ppo/policy_loss", "ppo/value_loss", "ppo/grad_norm", "rollout/score"):
        assert rows[0][name] == pytest.approx(rows[2][name], rel=1e-4, abs=1e-6)


def test_the_gradient_norm_is_that_before_clipping(make_setting: MakeSetting) -> None:
    one_step = ("ppo.epochs=1", "ppo.step_batch_size=8", "ppo.micro_batch_size=8")
    free, clipped = make_setting(*one_step).learner(), make_setting(*one_step, "ppo.max_grad_norm=1e-6").learner()
    first, second = free.step(), clipped.step()
    assert first["ppo/grad_norm"] > 1e-3
    assert second["ppo/grad_norm"] == pytest.approx(first["ppo/grad_norm"])


def test_the_same_seed_gives_the_same_steps_and_another_seed_others(make_setting: MakeSetting) -> None:
    runs = []
    for seed in (0, 0, 1):
        learner = make_setting(f"seed={seed}", "data.seed=0").learner()
        rows = [learner.step() for _ in range(2)]
        runs.append([{name: value for name, value in row.items() if "second" not in name} for row in rows])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_early_stop_leaves_the_passes_over_a_rollout(make_setting: MakeSetting) -> None:
    settings = ("ppo.epochs=5", "ppo.lr=0.1", "ppo.warmup_steps=0")
    assert make_setting(*settings).learner().step()["ppo/optimizer_steps"] == 10
    stopped = make_setting(*settings, "ppo.early_stop_kl=1e-6").learner().step()
    assert stopped["ppo/optimizer_steps"] == 2


def test_cut_off_responses_get_the_missing_eos_score(make_setting: MakeSetting) -> None:
    settings = ("rollout.max_response_tokens=1", "regularizer=none", "ppo.missing_eos_score=-7")
    row = make_setting(*settings).learner().step()
    # one token each: all rewards are scores; a response of one token is finished only if that token is EOS
    assert row["rollout/finished"] == 0.0
    assert row["rollout/reward"] == pytest.approx(-7.0)


def test_prompts_that_are_all_too_long_are_refused(make_setting: MakeSetting) -> None:
    learner = make_setting("rollout.max_prompt_tokens=2").learner()
    with pytest.raises(ConfigError, match=r"rollout\.max_prompt_tokens=2"):
        learner.step()


def test_longer_prompts_are_left_out_and_counted(make_setting: MakeSetting) -> None:
    # of the world's prompts, those of 7 tokens or fewer are some ("<bos> <user> who is NAME ? <assistant>")
    setting = make_setting("rollout.max_prompt_tokens=7")
    learner = setting.learner()
    prompts, long_prompts = learner._draw_prompts()
    assert len(prompts) == setting.config.rollout.batch_size
    assert long_prompts > 0
    assert all(len(prompt.text.split()) <= 7 for prompt in prompts)


def test_the_adaptive_coefficient_follows_the_true_kl(make_setting: MakeSetting) -> None:
    learner = make_setting("regularizer=kl", "regularizer.controller=adaptive", "regularizer.horizon=80").learner()
    learner.step()
    # the first rollout's true KL is 0: error -0.2, 8 responses over a horizon of 80
    assert learner.coefficient.value == pytest.approx(0.1 * (1 - 0.2 * 8 / 80))


def test_the_learning_rate_warms_up_and_then_stays_or_falls() -> None:
    ppo: PPOConfig = configure("ppo.steps=6", "ppo.warmup_steps=2", "ppo.lr_schedule=constant").ppo
    assert [lr_factor(step, ppo) for step in range(7)] == [0.5, 1, 1, 1, 1, 1, 1]
    ppo = configure("ppo.steps=6", "ppo.warmup_steps=2", "ppo.lr_schedule=linear").ppo
    assert [lr_factor(step, ppo) for step in range(7)] == [0.5, 1, 1, 0.75, 0.5, 0.25, 0]


def test_a_policy_that_differs_from_its_reference_at_the_start_is_noticed(make_setting: MakeSetting) -> None:
    learner = make_setting("lora=full").learner()
    with torch.no_grad():
        learner.policy_weights[0].add_(0.1 * torch.randn_like(learner.policy_weights[0]))
    with pytest.raises(RuntimeError, match="before the first update"):
        learner.step()


@pytest.mark.parametrize("overrides", [(), ("value=head",), ("value=adapter",)])
def test_a_bfloat16_base_trains_float32_adapters_from_no_divergence(
    make_setting: MakeSetting, overrides: tuple[str, ...]
) -> None:
    setting = make_setting("model.dtype=bfloat16", *overrides)
    setting.base.lm.to(torch.bfloat16)
    learner = setting.learner()
    assert {weight.dtype for weight in learner.policy_weights} == {torch.float32}
    assert learner.step()["rollout/kl"] == 0.0
    assert learner.step()["rollout/kl"] > 0.0
