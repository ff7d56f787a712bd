"""The algorithms beside PPO: what their rollouts, advantages and steps are, without any value."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rlhf.config.algorithms import NAMES, needs
from rlhf.data.source import Prompt
from tests.configure import configure
from tests.stages.by_hand import FREE, LENGTHS, TOKENS, disturb, gradients, logprobs, roll_out, same
from tests.stages.conftest import MakeSetting

SAMPLED = [f"algorithm={name}" for name in NAMES if needs(name).trains and not needs(name).value]


@pytest.mark.parametrize("overrides", [("algorithm=rloo",), ("algorithm.samples_per_prompt=4",)], ids=" ".join)
def test_a_prompts_responses_stand_one_after_another(make_setting: MakeSetting, overrides: tuple[str, ...]) -> None:
    prompts, _ = make_setting(*overrides).learner()._draw_prompts()
    assert len(prompts) == 8
    assert [prompts[0]] * 4 + [prompts[4]] * 4 == prompts
    assert prompts[0] != prompts[4]


def test_prompts_come_once_each_where_none_is_sampled_twice(make_setting: MakeSetting) -> None:
    prompts, _ = make_setting("algorithm=reinforce").learner()._draw_prompts()
    assert len({prompt.text for prompt in prompts}) > 4


def test_long_prompts_are_counted_by_the_prompt_and_not_by_the_response(make_setting: MakeSetting) -> None:
    learner = make_setting("algorithm=rloo", "rollout.max_prompt_tokens=3").learner()
    short, long = (Prompt("", text, "") for text in ("who is ?", "who is it then ?"))
    draws = iter([[long, short], [long, long], [short, short]])
    learner.source.prompts = lambda split, count, rng: next(draws)  # pyright: ignore[reportAttributeAccessIssue]
    # two are wanted, and drawn two at a time
    assert learner._draw_prompts() == ([short] * 8, 3)


@pytest.mark.parametrize("algorithm", SAMPLED)
def test_there_is_no_value_to_train(make_setting: MakeSetting, algorithm: str) -> None:
    learner = make_setting(algorithm, *FREE).learner()
    trajectory, goal = roll_out(learner)
    policy, value, row = gradients(learner, trajectory, goal)
    assert value == learner.value_weights == []
    assert not trajectory.values.any()
    assert row["ppo/value_grad_norm"] == 0.0
    learner.config.value.coef = 1e6
    assert same(gradients(learner, trajectory, goal)[0], policy)


@pytest.mark.parametrize("algorithm", SAMPLED)
def test_a_response_has_one_advantage_and_its_penalties_count_in_the_return(
    make_setting: MakeSetting, algorithm: str
) -> None:
    learner = make_setting(algorithm, "regularizer=kl", "regularizer.coef=0.5").learner()
    trajectory, goal = roll_out(learner)
    mask = trajectory.batch.mask
    penalties = ((trajectory.logprobs - trajectory.ref_logprobs) * mask).sum(1)
    assert penalties.abs().min() > 1e-3
    scores = trajectory.scores.clone()
    scores[2] = -3.0  # cut off: ppo.missing_eos_score
    returns = scores - 0.5 * penalties
    groups = returns.view(1, 8) if algorithm == "algorithm=reinforce" else returns.view(2, 4)
    others = (groups.sum(1, keepdim=True) - groups) / (groups.shape[1] - 1)
    wanted = groups - others
    if algorithm.endswith(("grpo", "gspo")):
        wanted = groups - groups.mean(1, keepdim=True)
    if algorithm in ("algorithm=grpo", "algorithm=gspo"):
        wanted = wanted / (groups.std(1, keepdim=True) + 1e-6)
    assert torch.allclose(goal.returns, returns[:, None] * mask, atol=1e-5)
    assert torch.allclose(goal.advantages, wanted.flatten()[:, None] * mask, atol=1e-5)


def test_reinforce_is_one_step_of_the_plain_policy_gradient(make_setting: MakeSetting) -> None:
    learner = make_setting("algorithm=reinforce", *FREE).learner()
    trajectory, goal = roll_out(learner)
    policy, _, row = gradients(learner, trajectory, goal)
    assert row["ppo/ratio_error"] < 1e-5
    assert row["ppo/clip_fraction"] == 0.0
    plain = -(goal.advantages * logprobs(learner, trajectory)).sum() / TOKENS
    assert same(policy, torch.autograd.grad(plain, learner.policy_weights))
    assert learner._update(trajectory, goal)["ppo/optimizer_steps"] == 1
    config = configure("algorithm=reinforce", "rollout.batch_size=96")
    assert (config.ppo.epochs, config.ppo.step_batch_size, config.ppo.whiten_advantages) == (1, 96, False)


def surrogate(ratio: Tensor, advantages: Tensor) -> Tensor:
    return torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)


def grpo(ratio: Tensor, advantages: Tensor) -> Tensor:
    """The mean over each response, then over responses."""
    return torch.stack([row[:length].mean() for row, length in rows(surrogate(ratio, advantages))]).mean()


def dr_grpo(ratio: Tensor, advantages: Tensor) -> Tensor:
    """The sum over 8 responses of at most 16 tokens, experiment=smoke's rollout.max_response_tokens."""
    return torch.stack([row[:length].sum() for row, length in rows(surrogate(ratio, advantages))]).sum() / (8 * 16)


def gspo(ratio: Tensor, advantages: Tensor) -> Tensor:
    """The mean over responses of one clipped surrogate each."""
    wholes = torch.stack([row[:length].prod() ** (1 / length) for row, length in rows(ratio)])
    return surrogate(wholes, advantages[:, 0]).mean()


def rows(values: Tensor) -> list[tuple[Tensor, int]]:
    return list(zip(values, LENGTHS, strict=True))


@pytest.mark.parametrize("micro_batch_size", [8, 2])
@pytest.mark.parametrize("objective", [grpo, dr_grpo, gspo], ids=lambda objective: objective.__name__)
def test_the_gradient_of_a_later_pass_is_that_of_the_objective(
    make_setting: MakeSetting, objective: Callable[[Tensor, Tensor], Tensor], micro_batch_size: int
) -> None:
    settings = (f"algorithm={objective.__name__}", "ppo.clip=0.2", f"ppo.micro_batch_size={micro_batch_size}")
    learner = make_setting(*settings, *FREE).learner()
    trajectory, goal = roll_out(learner)
    disturb(learner.policy_weights, 0.01, seed=1)
    policy, _, row = gradients(learner, trajectory, goal)
    ratio = (logprobs(learner, trajectory) - trajectory.logprobs).exp()
    assert row["ppo/ratio_error"] > 0.01
    wanted = torch.autograd.grad(-objective(ratio, goal.advantages), learner.policy_weights)
    assert same(policy, wanted)


def test_the_figures_of_an_update_are_means_whatever_the_losses_are_divided_by(make_setting: MakeSetting) -> None:
    found = []
    for average in ("tokens", "constant"):
        learner = make_setting("algorithm=dr_grpo", f"ppo.average={average}", "ppo.clip=0.01", *FREE).learner()
        trajectory, goal = roll_out(learner)
        disturb(learner.policy_weights, 0.02, seed=1)
        found.append(gradients(learner, trajectory, goal)[2])
    assert found[0]["ppo/clip_fraction"] > 0.1
    for name in ("ppo/clip_fraction", "ppo/approx_kl", "ppo/policy_loss"):
        assert found[1][name] == found[0][name]
    assert found[1]["ppo/grad_norm"] == pytest.approx(found[0]["ppo/grad_norm"] * TOKENS / (8 * 16), rel=1e-4)


def test_the_clip_fraction_of_gspo_is_of_responses(make_setting: MakeSetting) -> None:
    learner = make_setting("algorithm=gspo", "ppo.clip=0.02", *FREE).learner()
    trajectory, goal = roll_out(learner)
    disturb(learner.policy_weights, 0.01, seed=1)
    row = gradients(learner, trajectory, goal)[2]
    ratio = (logprobs(learner, trajectory) - trajectory.logprobs).exp()
    wholes = torch.stack([row[:length].prod() ** (1 / length) for row, length in rows(ratio)])
    advantages = goal.advantages[:, 0]
    clipped = ((wholes > 1.02) & (advantages > 0)) | ((wholes < 0.98) & (advantages < 0))
    assert 0 < clipped.sum() < 8
    assert row["ppo/clip_fraction"] == pytest.approx(clipped.float().mean().item())


@pytest.mark.parametrize("algorithm", SAMPLED)
def test_every_algorithm_steps(make_setting: MakeSetting, algorithm: str) -> None:
    # cut off as these responses are, they would all have the same return, and teach nothing
    learner = make_setting(algorithm, "ppo.missing_eos_score=null").learner()
    first, second = learner.step(), learner.step()
    assert first["rollout/kl"] == 0.0
    assert second["rollout/kl"] > 0.0
    assert second["ppo/grad_norm"] > 0.0


@pytest.mark.parametrize("steps", [0, 7])
def test_best_of_n_never_steps(make_setting: MakeSetting, steps: int) -> None:
    assert make_setting("algorithm=best_of_n", f"ppo.steps={steps}").learner().steps == 0
