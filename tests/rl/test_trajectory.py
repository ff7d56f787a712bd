"""A rollout's record, and its targets from end to end by hand: PPO's, the published code's, the other algorithms'."""

import itertools
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from rlhf.config.rl import AlgorithmConfig, PPOConfig
from rlhf.models.batch import collate
from rlhf.rl import regularizer
from rlhf.rl.loss import policy_loss
from rlhf.rl.regularizer import Regularizer, SampledForm
from rlhf.rl.trajectory import Targets, Trajectory, targets, whiten

SETTINGS = PPOConfig(
    steps=1,
    epochs=1,
    step_batch_size=2,
    micro_batch_size=2,
    lr=1e-3,
    lr_full=1e-4,
    lr_schedule="constant",
    warmup_steps=0,
    adam_eps=1e-5,
    max_grad_norm=1.0,
    clip=0.2,
    gamma=1.0,
    lam=0.5,
    whiten_rewards=False,
    whiten_advantages=False,
    missing_eos_score=-3.0,
    early_stop_kl=None,
    entropy_coef=0.0,
    dropout=False,
    average="tokens",
    repeat_micro_batch=False,
    whiten_padding=False,
    bootstrap_padding=False,
    retokenize=False,
)
PPO = AlgorithmConfig("ppo", samples_per_prompt=1, scale_by_deviation=False)


def in_reward(form: SampledForm) -> Regularizer:
    return Regularizer(form, None, in_reward=True, in_loss=False)


KL = in_reward(regularizer.kl)
NONE = in_reward(regularizer.none)


def two_responses() -> Trajectory:
    """A finished response of two tokens, and one cut off after three."""
    return Trajectory(
        batch=collate([[4], [5, 6]], [[7, 2], [8, 9, 10]], 0, torch.device("cpu")),
        logprobs=torch.tensor([[-1.0, -2.0, 0.0], [-1.0, -1.0, -3.0]]),
        ref_logprobs=torch.tensor([[-2.0, -1.0, 0.0], [-1.0, -3.0, -2.0]]),
        kl=torch.tensor([[0.1, 0.2, 0.0], [0.3, 0.4, 0.5]]),
        entropy=torch.ones(2, 3),
        divergence=torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 5.0]]),
        values=torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]]),
        features=torch.arange(24.0).view(2, 3, 4),
        ref_states=torch.arange(12.0).view(2, 3, 2),
        scores=torch.tensor([5.0, 7.0]),
        score_spread=torch.tensor([0.5, 0.25]),
        finished=torch.tensor([True, False]),
    )


@pytest.fixture
def trajectory() -> Trajectory:
    return two_responses()


def goal_of(trajectory: Trajectory, form: Regularizer = KL, **changes: bool) -> Targets:
    return targets(trajectory, form, 0.5, PPO, replace(SETTINGS, **changes))


def close(actual: Tensor, wanted: list[list[float]]) -> None:
    torch.testing.assert_close(actual, torch.tensor(wanted, dtype=torch.float32), rtol=1e-5, atol=1e-6)


# Penalties D: 1, -1 and 0, 2, -1. The scores: 5, and -3 in place of 7. Rewards with a coefficient of 0.5:
# -0.5, 0.5 + 5 and 0, -1, 0.5 - 3.
REWARDS = [[-0.5, 5.5, 0], [0, -1, -2.5]]
# Deltas: -0.5 + 2 - 1 = 0.5, 5.5 - 2 = 3.5; and 0 + 1 - 0 = 1, -1 - 1 - 1 = -3, -2.5 + 1 = -1.5. With lam = 0.5:
# 0.5 + 3.5 / 2 = 2.25, 3.5; and 1 - 3.75 / 2 = -0.875, -3 - 1.5 / 2 = -3.75, -1.5.
ADVANTAGES = [[2.25, 3.5, 0], [-0.875, -3.75, -1.5]]
RETURNS = [[3.25, 5.5, 0], [-0.875, -2.75, -2.5]]  # with the values added: 1, 2 and 0, 1, -1


def test_targets_by_hand(trajectory: Trajectory) -> None:
    goal = goal_of(trajectory)
    close(goal.penalties, [[1, -1, 0], [0, 2, -1]])
    close(goal.rewards, REWARDS)
    close(goal.advantages, ADVANTAGES)
    close(goal.returns, RETURNS)
    close(goal.scale, [[1], [1]])


IN_LOSS = Regularizer(regularizer.kl, None, in_reward=False, in_loss=True)
IN_BOTH = Regularizer(regularizer.kl, None, in_reward=True, in_loss=True)


@pytest.mark.parametrize("form", [KL, IN_LOSS, IN_BOTH])
@pytest.mark.parametrize("switches", [(), ("whiten_rewards", "whiten_advantages", "whiten_padding")])
def test_objectives_by_hand_wherever_the_penalty_stands_and_whatever_is_whitened(
    trajectory: Trajectory, form: Regularizer, switches: tuple[str, ...]
) -> None:
    # 5 less half of 1 - 1; and of the response without EOS -3, in place of 7, less half of 0 + 2 - 1.
    goal = goal_of(trajectory, form, **dict.fromkeys(switches, True))
    close(goal.objectives[None], [[5, -3.5]])


def test_objectives_of_other_penalties_and_coefficients_by_hand(trajectory: Trajectory) -> None:
    close(goal_of(trajectory, NONE).objectives[None], [[5, -3]])
    # max(D, 0): 1 and 2
    close(goal_of(trajectory, in_reward(regularizer.clamped_kl)).objectives[None], [[4.5, -4]])
    # the divergences of the rollout: 3 and 12
    full = Regularizer(None, regularizer.full_kl, in_reward=False, in_loss=True)
    close(goal_of(trajectory, full).objectives[None], [[3.5, -9]])
    close(targets(trajectory, full, 2.0, PPO, SETTINGS).objectives[None], [[-1, -27]])
    close(targets(trajectory, full, 0.0, PPO, SETTINGS).objectives[None], [[5, -3]])
    # the reward model's own score of what was cut off
    kept = replace(SETTINGS, missing_eos_score=None)
    close(targets(trajectory, KL, 0.5, PPO, kept).objectives[None], [[5, 6.5]])


def test_what_a_penalty_says_of_padding_is_in_no_objective(trajectory: Trajectory) -> None:
    beyond = replace(
        trajectory,
        logprobs=torch.tensor([[-1.0, -2.0, -9.0], [-1.0, -1.0, -3.0]]),
        divergence=torch.tensor([[1.0, 2.0, 9.0], [3.0, 4.0, 5.0]]),
    )
    close(goal_of(beyond).penalties, [[1, -1, 0], [0, 2, -1]])
    close(goal_of(beyond).objectives[None], [[5, -3.5]])
    full = Regularizer(None, regularizer.full_kl, in_reward=True, in_loss=True)
    close(goal_of(beyond, full).objectives[None], [[3.5, -9]])


def test_the_penalty_is_the_one_named(trajectory: Trajectory) -> None:
    close(goal_of(trajectory, in_reward(regularizer.clamped_kl)).penalties, [[1, 0, 0], [0, 2, 0]])
    close(goal_of(trajectory, NONE).rewards, [[0, 5, 0], [0, 0, -3]])


def test_a_full_vocabulary_penalty_is_the_divergence_of_the_rollout(trajectory: Trajectory) -> None:
    goal = goal_of(trajectory, Regularizer(None, regularizer.full_kl, in_reward=True, in_loss=True))
    close(goal.penalties, [[1, 2, 0], [3, 4, 5]])
    close(goal.rewards, [[-0.5, 4, 0], [-1.5, -2, -5.5]])  # 5 - 1, and -3 - 2.5


def test_a_penalty_in_the_loss_alone_is_logged_and_leaves_the_rewards(trajectory: Trajectory) -> None:
    goal = goal_of(trajectory, Regularizer(regularizer.kl, None, in_reward=False, in_loss=True))
    close(goal.penalties, [[1, -1, 0], [0, 2, -1]])
    close(goal.rewards, [[0, 5, 0], [0, 0, -3]])


def test_without_a_missing_eos_score_the_reward_models_stays(trajectory: Trajectory) -> None:
    goal = targets(trajectory, NONE, 0.5, PPO, replace(SETTINGS, missing_eos_score=None))
    close(goal.rewards, [[0, 5, 0], [0, 0, 7]])


def test_whitened_advantages_leave_the_returns_alone(trajectory: Trajectory) -> None:
    goal = goal_of(trajectory, whiten_advantages=True)
    # Mean -0.375 / 5 = -0.075; deviations 2.325, 3.575, -0.8, -3.675, -1.425 with squares 5.405625, 12.780625, 0.64,
    # 13.505625, 2.030625, together 34.3625; over 5, the root is 2.6215454.
    close(goal.advantages, [[0.8868815, 1.3636995, 0], [-0.3051636, -1.4018449, -0.5435725]])
    close(goal.returns, RETURNS)
    close(goal.rewards, REWARDS)


def test_whitened_rewards_are_divided_not_shifted_and_come_before_the_advantages(trajectory: Trajectory) -> None:
    goal = goal_of(trajectory, whiten_rewards=True)
    # Mean 1.5 / 5 = 0.3; squares of the deviations 0.64, 27.04, 0.09, 1.69, 7.84, together 37.3; the root of 7.46 is
    # 2.7312999. Last tokens: 5.5 / 2.7312999 - 2 = 0.0136931, and -2.5 / 2.7312999 + 1 = 0.0846849.
    close(goal.rewards, [[-0.1830630, 2.0136931, 0], [0, -0.3661260, -0.9153151]])
    close(goal.advantages[:, -2:], [[0.0136931, 0], [-2.3237836, 0.0846849]])  # -0.366126 - 1 - 1 + 0.0846849 / 2
    close(goal.returns[:, -2:], [[2.0136931, 0], [-1.3237836, -0.9153151]])


# ---- The published code's ways, each by itself. -------------------------------------------------------------------


def test_published_reward_whitening_counts_the_pad_and_adds_the_mean_back(trajectory: Trajectory) -> None:
    goal = goal_of(trajectory, whiten_rewards=True, whiten_padding=True)
    # Over all six: mean 1.5 / 6 = 0.25; squares of the deviations 0.5625, 27.5625, 0.0625, 0.0625, 1.5625, 7.5625,
    # together 37.375; the root of 37.375 / 6 is 2.4958298. Each is (reward - 0.25) / 2.4958298 + 0.25, the pad's too.
    close(goal.rewards, [[-0.0505013, 2.3535089, 0.1498329], [0.1498329, -0.2508354, -0.8518379]])
    # the pad's reward is in no advantage: 2.3535089 - 2, and before it -0.0505013 + 2 - 1 + 0.3535089 / 2
    close(goal.advantages[:1], [[1.1262532, 0.3535089, 0]])


def test_published_advantage_whitening_counts_the_pad_too(trajectory: Trajectory) -> None:
    goal = goal_of(trajectory, whiten_advantages=True, whiten_padding=True)
    # Over all six: mean -0.375 / 6 = -0.0625; squares of the deviations 5.34765625, 12.69140625, 0.00390625,
    # 0.66015625, 13.59765625, 2.06640625, together 34.3671875; the root of a sixth is 2.3932958.
    close(goal.advantages, [[0.9662408, 1.4885331, 0.0261146], [-0.3394900, -1.5407623, -0.6006361]])
    close(goal.returns, RETURNS)


def test_whitening_over_pads_by_hand() -> None:
    values, mask = torch.tensor([[1.0, 3.0]]), torch.tensor([[True, False]])
    # mean 2, deviation 1 over both positions
    close(whiten(values, mask, shift_mean=True, padding=True)[0], [[-1, 1]])
    close(whiten(values, mask, shift_mean=False, padding=True)[0], [[1, 3]])
    assert whiten(values, mask, shift_mean=True, padding=True)[1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("switches", "deviation"),
    [
        ((), 1.0),
        (("whiten_advantages",), 2.6215454),  # the deviations computed above
        (("whiten_rewards",), 2.7312999),
        (("whiten_advantages", "whiten_padding"), 2.3932958),
        (("whiten_rewards", "whiten_padding"), 2.4958298),
        (("whiten_padding",), 1.0),
    ],
)
def test_what_whitening_divides_by_is_the_scale_of_a_penalty_in_the_loss(
    trajectory: Trajectory, switches: tuple[str, ...], deviation: float
) -> None:
    goal = goal_of(trajectory, **dict.fromkeys(switches, True))
    close(goal.scale, [[1 / deviation], [1 / deviation]])
    close(goal.select(torch.tensor([1])).scale, [[1 / deviation]])


def test_scales_of_rewards_and_then_of_advantages_multiply(trajectory: Trajectory) -> None:
    rewards = goal_of(trajectory, whiten_rewards=True)
    both = goal_of(trajectory, whiten_rewards=True, whiten_advantages=True)
    advantages = rewards.advantages[trajectory.batch.mask]
    close(both.scale, (rewards.scale / advantages.std(unbiased=False)).tolist())


def with_a_value_at_the_pad(trajectory: Trajectory) -> Trajectory:
    return replace(trajectory, values=torch.tensor([[1.0, 2.0, 4.0], [0.0, 1.0, -1.0]]))


def test_values_after_the_last_token_count_for_nothing(trajectory: Trajectory) -> None:
    goal = goal_of(with_a_value_at_the_pad(trajectory))
    close(goal.advantages, ADVANTAGES)
    close(goal.returns, RETURNS)


def test_published_advantages_bootstrap_from_the_value_at_the_pad(trajectory: Trajectory) -> None:
    goal = goal_of(with_a_value_at_the_pad(trajectory), bootstrap_padding=True)
    # The pad: 0 - 4. The token before it: 5.5 + 4 - 2 = 7.5, with half of -4 added 5.5. The first: 0.5 + 5.5 / 2.
    # The other response has no pad.
    close(goal.advantages, [[3.25, 5.5, -4], ADVANTAGES[1]])
    close(goal.returns, [[4.25, 7.5, 0], RETURNS[1]])


# ---- Other algorithms: the whole response's advantage, the same at each of its tokens. ----------------------------


@pytest.fixture
def four() -> Trajectory:
    """Four responses, of 1, 2, 2 and 1 tokens, the second cut off."""
    logprobs = torch.tensor([[-1.0, 0.0], [-1.0, -1.0], [-4.0, -1.0], [-1.0, 0.0]])
    ref_logprobs = torch.tensor([[-1.0, 0.0], [-2.0, -4.0], [-2.0, -1.0], [-1.0, 0.0]])
    nothing = torch.zeros(4, 2)
    return Trajectory(
        batch=collate([[4]] * 4, [[2], [7, 8], [9, 2], [2]], 0, torch.device("cpu")),
        logprobs=logprobs,
        ref_logprobs=ref_logprobs,
        kl=nothing,
        entropy=nothing,
        divergence=nothing,
        values=nothing,
        features=torch.zeros(4, 2, 1),
        ref_states=torch.zeros(4, 2, 0),
        scores=torch.tensor([3.0, 9.0, -3.0, 0.0]),
        score_spread=torch.zeros(4),
        finished=torch.tensor([True, False, True, True]),
    )


# Scores 3, 3 (in place of 9), -3, 0, less half of the penalties D: 0, 1 + 3, -2 + 0, 0.
WHOLE_RETURNS = (3.0, 1.0, -2.0, 0.0)
LENGTHS = (1, 2, 2, 1)


def at_each_token(values: tuple[float, ...]) -> list[list[float]]:
    return [[value, value if length == 2 else 0.0] for value, length in zip(values, LENGTHS, strict=True)]


@pytest.mark.parametrize(
    ("name", "samples", "scaled", "advantages"),
    [
        # each less the mean of the three others: 3 + 1/3, 1 - 1/3, -2 - 4/3, 0 - 2/3
        ("reinforce", 1, False, (10 / 3, 2 / 3, -10 / 3, -2 / 3)),
        # each less the other response to the same prompt, the next one: 3 - 1, 1 - 3, -2 - 0, 0 + 2
        ("rloo", 2, False, (2, -2, -2, 2)),
        ("rloo", 4, False, (10 / 3, 2 / 3, -10 / 3, -2 / 3)),
        # less the group's mean: 2 and -1, or 0.5 where all four answer one prompt
        ("grpo", 2, False, (1, -1, -1, 1)),
        ("grpo", 4, False, (2.5, 0.5, -2.5, -0.5)),
        # over the deviation: the root of (6.25 + 0.25 + 6.25 + 0.25) / 3 is 2.0816660
        ("grpo", 4, True, (1.2009611, 0.2401922, -1.2009611, -0.2401922)),
    ],
)
def test_advantages_without_a_value_by_hand(
    four: Trajectory, name: str, samples: int, scaled: bool, advantages: tuple[float, ...]
) -> None:
    settings = replace(SETTINGS, missing_eos_score=3.0)
    goal = targets(four, KL, 0.5, AlgorithmConfig(name, samples, scaled), settings)
    close(goal.returns, at_each_token(WHOLE_RETURNS))
    close(goal.advantages, at_each_token(advantages))
    close(goal.objectives[None], [list(WHOLE_RETURNS)])


@pytest.mark.parametrize(
    ("name", "samples", "scaled", "scales"),
    [
        # a baseline that other responses make leaves a response's own return as it is
        ("reinforce", 1, False, (1, 1, 1, 1)),
        ("rloo", 2, False, (1, 1, 1, 1)),
        # of a group's mean a share is the response's own: 1 - 1/2 and 1 - 1/4 are left
        ("grpo", 2, False, (0.5, 0.5, 0.5, 0.5)),
        ("grpo", 4, False, (0.75, 0.75, 0.75, 0.75)),
        # over the deviation of 3, 1, which is 1.4142136, and of -2, 4: 4.2426407
        ("grpo", 2, True, (0.3535534, 0.3535534, 0.1178511, 0.1178511)),
        # of all four, 3, 1, -2, 4, of mean 1.5: the root of (2.25 + 0.25 + 12.25 + 6.25) / 3 is 2.6457513
        ("grpo", 4, True, (0.2834734, 0.2834734, 0.2834734, 0.2834734)),
    ],
)
def test_the_scale_is_what_a_response_s_own_return_is_multiplied_with(
    four: Trajectory, name: str, samples: int, scaled: bool, scales: tuple[float, ...]
) -> None:
    settings, algorithm = replace(SETTINGS, missing_eos_score=3.0), AlgorithmConfig(name, samples, scaled)
    scored = replace(four, scores=torch.tensor([3.0, 9.0, -3.0, 4.0]))
    goal = targets(scored, KL, 0.5, algorithm, settings)
    close(goal.returns[:, :1], [[3], [1], [-2], [4]])
    close(goal.scale, [[scale] for scale in scales])
    # whitened advantages are divided once more
    whitened = targets(scored, KL, 0.5, algorithm, replace(settings, whiten_advantages=True))
    deviation = goal.advantages[four.batch.mask].std(unbiased=False).item()
    close(whitened.scale, [[scale / deviation] for scale in scales])
    # whitened rewards are smaller, but so is the deviation that their returns are divided by
    divided = targets(scored, KL, 0.5, algorithm, replace(settings, whiten_rewards=True))
    by = goal.rewards[four.batch.mask].std(unbiased=False).item()
    close(divided.scale, [[scale if scaled else scale / by] for scale in scales])


@pytest.mark.parametrize("name", ["squared_error", "js", "bregman"])
@pytest.mark.parametrize(("algorithm", "samples", "share"), [("grpo", 2, 1 / 2), ("grpo", 3, 2 / 3), ("rloo", 2, 1.0)])
def test_both_is_the_whole_gradient_of_the_objective_under_group_baselines_too(
    name: str, algorithm: str, samples: int, share: float
) -> None:
    """By enumeration of all groups of responses of one token: reward half and loss half have the same weight.

    Without GRPO's division by a deviation, which depends on the response too.
    """
    logits, reference = torch.tensor([0.4, -0.7, 0.2]), torch.tensor([-0.3, 0.1, 0.5]).log_softmax(0)
    scores, coef = torch.tensor([1.0, 3.0, -2.0]), 0.8
    form = Regularizer(regularizer.SAMPLED_FORMS[name], None, in_reward=True, in_loss=True)
    assert form.sampled is not None
    policy = logits.clone().requires_grad_()
    total = torch.zeros(())
    for chosen in itertools.product(range(3), repeat=samples):
        tokens = torch.tensor(chosen)
        logprobs, ref_logprobs = policy.log_softmax(0)[tokens][:, None], reference[tokens][:, None]
        nothing = torch.zeros(samples, 1)
        rollout = Trajectory(
            batch=collate([[4]] * samples, [[7 + token] for token in chosen], 0, torch.device("cpu")),
            logprobs=logprobs.detach(),
            ref_logprobs=ref_logprobs,
            **dict.fromkeys(("kl", "entropy", "divergence", "values"), nothing),
            features=nothing[..., None],
            ref_states=nothing[..., None],
            scores=scores[tokens],
            score_spread=torch.zeros(samples),
            finished=torch.ones(samples, dtype=torch.bool),
        )
        goal = targets(rollout, form, coef, AlgorithmConfig(algorithm, samples, False), SETTINGS)
        losses = policy_loss(logprobs, rollout.logprobs, goal.advantages, clip=0.2)
        losses = losses + goal.scale * coef * form.loss(logprobs, rollout.logprobs, ref_logprobs, nothing)
        total = total + logprobs.detach().sum().exp() * losses.mean()
    [found] = torch.autograd.grad(total, policy)
    whole = logits.clone().requires_grad_()
    logprobs = whole.log_softmax(0)
    objective = (logprobs.exp() * (scores - coef * form.sampled(logprobs, reference))).sum()
    [wanted] = torch.autograd.grad(objective, whole)
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(found, -share * wanted, rtol=1e-4, atol=1e-6)


def test_a_group_whose_returns_are_all_the_same_teaches_nothing(four: Trajectory) -> None:
    alike = replace(four, scores=torch.ones(4), finished=torch.ones(4, dtype=torch.bool))
    goal = targets(alike, NONE, 0.5, AlgorithmConfig("grpo", 2, scale_by_deviation=True), SETTINGS)
    assert torch.equal(goal.advantages, torch.zeros(4, 2))


# ---- Rows. --------------------------------------------------------------------------------------------------------


def test_select_and_cat_undo_each_other(trajectory: Trajectory) -> None:
    parts = [trajectory.select(torch.tensor([row])) for row in range(2)]
    assert parts[1].scores.tolist() == [7.0]
    assert parts[1].batch.input_ids.tolist() == [[5, 6, 8, 9, 10]]
    assert parts[1].features.tolist() == trajectory.features[1:].tolist()
    whole = Trajectory.cat(trajectory.batch, parts, lambda rows: rows)
    assert whole.batch is trajectory.batch
    for field in fields(Trajectory):
        if field.name != "batch":
            assert torch.equal(getattr(whole, field.name), getattr(trajectory, field.name)), field.name


def test_select_reorders_every_part_alike(trajectory: Trajectory) -> None:
    swapped, goal = torch.tensor([1, 0]), goal_of(trajectory)
    again = goal_of(trajectory.select(swapped))
    for name in ("objectives", "penalties", "rewards", "advantages", "returns", "scale"):
        assert torch.equal(getattr(goal.select(swapped), name), getattr(again, name)), name
