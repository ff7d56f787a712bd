"""A rollout's record, and its targets from end to end by hand: PPO's, and the other algorithms'."""

import itertools
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf import regularizers
from rlhf.models.batch import collate
from rlhf.rl.loss import policy_loss
from rlhf.rl.regularizer import Regularizer
from rlhf.rl.trajectory import Trajectory
from tests.rl.rollouts import KL, goal_of, in_reward, two_responses

NONE, CLAMPED = in_reward(regularizers.none), in_reward(regularizers.clamped_kl)
IN_LOSS = Regularizer(regularizers.kl, None, in_reward=False, in_loss=True)
IN_BOTH = Regularizer(regularizers.kl, None, in_reward=True, in_loss=True)
FULL_IN_LOSS = Regularizer(None, regularizers.full_kl, in_reward=False, in_loss=True)
FULL_IN_BOTH = Regularizer(None, regularizers.full_kl, in_reward=True, in_loss=True)


@pytest.fixture
def trajectory() -> Trajectory:
    return two_responses()


def close(actual: Tensor, wanted: Any) -> None:
    torch.testing.assert_close(actual, torch.tensor(wanted, dtype=torch.float32), rtol=1e-5, atol=1e-6)


# Penalties D: 1, -1 and 0, 2, -1. The scores: 5, and -3 in place of 7. Rewards with a coefficient of 0.5:
# -0.5, 0.5 + 5 and 0, -1, 0.5 - 3.
PENALTIES, REWARDS = [[1, -1, 0], [0, 2, -1]], [[-0.5, 5.5, 0], [0, -1, -2.5]]
# Deltas: -0.5 + 2 - 1 = 0.5, 5.5 - 2 = 3.5; and 0 + 1 - 0 = 1, -1 - 1 - 1 = -3, -2.5 + 1 = -1.5. With lam = 0.5:
# 0.5 + 3.5 / 2 = 2.25, 3.5; and 1 - 3.75 / 2 = -0.875, -3 - 1.5 / 2 = -3.75, -1.5.
ADVANTAGES = [[2.25, 3.5, 0], [-0.875, -3.75, -1.5]]
RETURNS = [[3.25, 5.5, 0], [-0.875, -2.75, -2.5]]  # with the values added: 1, 2 and 0, 1, -1


@pytest.mark.parametrize("value_at_the_pad", [0.0, 4.0])
def test_targets_by_hand(trajectory: Trajectory, value_at_the_pad: float) -> None:
    values = torch.tensor([[1.0, 2.0, value_at_the_pad], [0.0, 1.0, -1.0]])
    goal = goal_of(replace(trajectory, values=values))
    close(goal.penalties, PENALTIES)
    close(goal.rewards, REWARDS)
    close(goal.advantages, ADVANTAGES)
    close(goal.returns, RETURNS)
    close(goal.scale, [[1], [1]])


@pytest.mark.parametrize(
    ("form", "penalties", "rewards"),
    [
        (KL, PENALTIES, REWARDS),
        (IN_LOSS, PENALTIES, [[0, 5, 0], [0, 0, -3]]),  # logged, and not in the rewards
        (IN_BOTH, PENALTIES, REWARDS),
        (CLAMPED, [[1, 0, 0], [0, 2, 0]], [[-0.5, 5, 0], [0, -1, -3]]),
        (NONE, [[0, 0, 0], [0, 0, 0]], [[0, 5, 0], [0, 0, -3]]),
        (FULL_IN_BOTH, [[1, 2, 0], [3, 4, 5]], [[-0.5, 4, 0], [-1.5, -2, -5.5]]),  # 5 - 1, and -3 - 2.5
    ],
)
def test_penalties_and_rewards_by_hand(trajectory: Trajectory, form: Regularizer, penalties: Any, rewards: Any) -> None:
    goal = goal_of(trajectory, form)
    close(goal.penalties, penalties)
    close(goal.rewards, rewards)


@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize(
    ("form", "coef", "missing_eos_score", "wanted"),
    [
        # 5 less half of 1 - 1; and of the response without EOS -3, in place of 7, less half of 0 + 2 - 1
        *[(form, 0.5, -3.0, [5, -3.5]) for form in (KL, IN_LOSS, IN_BOTH)],
        (NONE, 0.5, -3.0, [5, -3]),
        (CLAMPED, 0.5, -3.0, [4.5, -4]),  # max(D, 0): 1 and 2
        (FULL_IN_LOSS, 0.5, -3.0, [3.5, -9]),  # the divergences of the rollout: 3 and 12
        (FULL_IN_LOSS, 2.0, -3.0, [-1, -27]),
        (FULL_IN_LOSS, 0.0, -3.0, [5, -3]),
        (KL, 0.5, None, [5, 6.5]),  # the reward model's own score of what was cut off
    ],
)
def test_objectives_by_hand_wherever_the_penalty_stands_and_whatever_is_whitened(
    trajectory: Trajectory,
    form: Regularizer,
    coef: float,
    missing_eos_score: float | None,
    wanted: list[float],
    whitened: bool,
) -> None:
    switches = {"whiten_rewards": whitened, "whiten_advantages": whitened}
    close(goal_of(trajectory, form, coef, missing_eos_score=missing_eos_score, **switches).objectives, wanted)


def test_what_a_penalty_says_of_padding_is_in_no_objective(trajectory: Trajectory) -> None:
    beyond = replace(trajectory, logprobs=trajectory.logprobs.clone(), divergence=trajectory.divergence.clone())
    beyond.logprobs[0, 2], beyond.divergence[0, 2] = -9.0, 9.0
    close(goal_of(beyond).penalties, PENALTIES)
    close(goal_of(beyond).objectives, [5, -3.5])
    close(goal_of(beyond, FULL_IN_BOTH).objectives, [3.5, -9])


def test_without_a_missing_eos_score_the_reward_models_stays(trajectory: Trajectory) -> None:
    close(goal_of(trajectory, NONE, missing_eos_score=None).rewards, [[0, 5, 0], [0, 0, 7]])


def test_whitened_advantages_leave_the_returns_alone(trajectory: Trajectory) -> None:
    goal = goal_of(trajectory, whiten_advantages=True)
    # Mean -0.375 / 5 = -0.075; deviations 2.325, 3.575, -0.8, -3.675, -1.425 with squares 5.405625, 12.780625, 0.64,
    # 13.505625, 2.030625, together 34.3625; over 5, the root is 2.6215454.
    close(goal.advantages, [[0.8868815, 1.3636995, 0], [-0.3051636, -1.4018449, -0.5435725]])
    close(goal.returns, RETURNS)
    close(goal.rewards, REWARDS)
    close(goal.scale, [[1 / 2.6215454]] * 2)
    close(goal.select(torch.tensor([1])).scale, [[1 / 2.6215454]])


def test_whitened_rewards_are_divided_not_shifted_and_come_before_the_advantages(trajectory: Trajectory) -> None:
    goal = goal_of(trajectory, whiten_rewards=True)
    # Mean 1.5 / 5 = 0.3; squares of the deviations 0.64, 27.04, 0.09, 1.69, 7.84, together 37.3; the root of 7.46 is
    # 2.7312999. Last tokens: 5.5 / 2.7312999 - 2 = 0.0136931, and -2.5 / 2.7312999 + 1 = 0.0846849.
    close(goal.rewards, [[-0.1830630, 2.0136931, 0], [0, -0.3661260, -0.9153151]])
    close(goal.advantages[:, -2:], [[0.0136931, 0], [-2.3237836, 0.0846849]])  # -0.366126 - 1 - 1 + 0.0846849 / 2
    close(goal.returns[:, -2:], [[2.0136931, 0], [-1.3237836, -0.9153151]])
    close(goal.scale, [[1 / 2.7312999]] * 2)
    both = goal_of(trajectory, whiten_rewards=True, whiten_advantages=True)
    deviation = goal.advantages[trajectory.batch.mask].std(unbiased=False)
    close(both.scale, (goal.scale / deviation).tolist())


# ---- Other algorithms: the whole response's advantage, the same at each of its tokens. ----------------------------


@pytest.fixture
def four() -> Trajectory:
    """Four responses, of 1, 2, 2 and 1 tokens, the second cut off."""
    nothing = torch.zeros(4, 2)
    return Trajectory(
        batch=collate([[4]] * 4, [[2], [7, 8], [9, 2], [2]], 0, torch.device("cpu")),
        logprobs=torch.tensor([[-1.0, 0.0], [-1.0, -1.0], [-4.0, -1.0], [-1.0, 0.0]]),
        ref_logprobs=torch.tensor([[-1.0, 0.0], [-2.0, -4.0], [-2.0, -1.0], [-1.0, 0.0]]),
        **dict.fromkeys(("kl", "entropy", "divergence", "values"), nothing),
        features=torch.zeros(4, 2, 1),
        ref_states=torch.zeros(4, 2, 0),
        scores=torch.tensor([3.0, 9.0, -3.0, 0.0]),
        score_spread=torch.zeros(4),
        finished=torch.tensor([True, False, True, True]),
    )


# Scores 3, 3 (in place of 9), -3, 0, less half of the penalties D: 0, 1 + 3, -2 + 0, 0.
WHOLE_RETURNS = (3.0, 1.0, -2.0, 0.0)
LENGTHS = (1, 2, 2, 1)
DEVIATION = 2.0816660  # of all four: the root of (6.25 + 0.25 + 6.25 + 0.25) / 3


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
        *[(name, 2, False, (1, -1, -1, 1)) for name in ("grpo", "dr_grpo", "gspo")],
        ("grpo", 4, False, (2.5, 0.5, -2.5, -0.5)),
        ("dr_grpo", 4, True, (2.5, 0.5, -2.5, -0.5)),  # never over the deviation
        *[(name, 4, True, tuple(x / DEVIATION for x in (2.5, 0.5, -2.5, -0.5))) for name in ("grpo", "gspo")],
        ("best_of_n", 1, False, (0, 0, 0, 0)),
    ],
)
def test_advantages_without_a_value_by_hand(
    four: Trajectory, name: str, samples: int, scaled: bool, advantages: tuple[float, ...]
) -> None:
    goal = goal_of(four, algorithm=name, group=samples, scaled=scaled, missing_eos_score=3.0)
    close(goal.returns, at_each_token(WHOLE_RETURNS))
    close(goal.advantages, at_each_token(advantages))
    close(goal.objectives, list(WHOLE_RETURNS))


@pytest.mark.parametrize(
    ("name", "samples", "scaled", "scales"),
    [
        # a baseline that other responses make leaves a response's own return as it is
        ("reinforce", 1, False, (1, 1, 1, 1)),
        ("rloo", 2, False, (1, 1, 1, 1)),
        # of a group's mean a share is the response's own: 1 - 1/2 and 1 - 1/4 are left
        ("grpo", 2, False, (0.5, 0.5, 0.5, 0.5)),
        ("grpo", 4, False, (0.75, 0.75, 0.75, 0.75)),
        ("dr_grpo", 4, False, (0.75, 0.75, 0.75, 0.75)),
        # over the deviation of 3, 1, which is 1.4142136, and of -2, 4: 4.2426407
        ("grpo", 2, True, (0.3535534, 0.3535534, 0.1178511, 0.1178511)),
        # of all four, 3, 1, -2, 4, of mean 1.5: the root of (2.25 + 0.25 + 12.25 + 6.25) / 3 is 2.6457513
        ("grpo", 4, True, (0.2834734, 0.2834734, 0.2834734, 0.2834734)),
        ("gspo", 4, True, (0.2834734, 0.2834734, 0.2834734, 0.2834734)),
    ],
)
def test_the_scale_is_what_a_response_s_own_return_is_multiplied_with(
    four: Trajectory, name: str, samples: int, scaled: bool, scales: tuple[float, ...]
) -> None:
    settings = {"algorithm": name, "group": samples, "scaled": scaled, "missing_eos_score": 3.0}
    scored = replace(four, scores=torch.tensor([3.0, 9.0, -3.0, 4.0]))
    goal = goal_of(scored, **settings)
    close(goal.returns[:, 0], [3, 1, -2, 4])
    close(goal.scale, [[scale] for scale in scales])
    # whitened advantages are divided once more
    deviation = goal.advantages[four.batch.mask].std(unbiased=False).item()
    close(goal_of(scored, whiten_advantages=True, **settings).scale, [[scale / deviation] for scale in scales])
    # whitened rewards are smaller, but so is the deviation that their returns are divided by
    by = 1.0 if scaled else goal.rewards[four.batch.mask].std(unbiased=False).item()
    close(goal_of(scored, whiten_rewards=True, **settings).scale, [[scale / by] for scale in scales])


@pytest.mark.parametrize("name", ["squared_error", "js", "bregman"])
@pytest.mark.parametrize(
    ("algorithm", "samples", "share"),
    [("grpo", 2, 1 / 2), ("grpo", 3, 2 / 3), ("dr_grpo", 3, 2 / 3), ("rloo", 2, 1.0)],
)
def test_both_is_the_whole_gradient_of_the_objective_under_group_baselines_too(
    name: str, algorithm: str, samples: int, share: float
) -> None:
    """By enumeration of all groups of responses of one token: reward half and loss half have the same weight.

    Without GRPO's division by a deviation, which depends on the response too.
    """
    logits, reference = torch.tensor([0.4, -0.7, 0.2]), torch.tensor([-0.3, 0.1, 0.5]).log_softmax(0)
    scores, coef = torch.tensor([1.0, 3.0, -2.0]), 0.8
    form = Regularizer(regularizers.SAMPLED_FORMS[name], None, in_reward=True, in_loss=True)
    assert form.sampled is not None
    policy = logits.clone().requires_grad_()
    total, nothing = torch.zeros(()), torch.zeros(samples, 1)
    for chosen in itertools.product(range(3), repeat=samples):
        tokens = torch.tensor(chosen)
        logprobs, ref_logprobs = policy.log_softmax(0)[tokens][:, None], reference[tokens][:, None]
        rollout = Trajectory(
            batch=collate([[4]] * samples, [[7 + token] for token in chosen], 0, torch.device("cpu")),
            logprobs=logprobs.detach(),
            ref_logprobs=ref_logprobs,
            **dict.fromkeys(("kl", "entropy", "divergence", "values"), nothing),
            **dict.fromkeys(("features", "ref_states"), nothing[..., None]),
            scores=scores[tokens],
            score_spread=torch.zeros(samples),
            finished=torch.ones(samples, dtype=torch.bool),
        )
        goal = goal_of(rollout, form, coef, algorithm, samples)
        losses = policy_loss(logprobs, rollout.logprobs, goal.advantages, rollout.batch.mask, clip=0.2).loss
        losses = losses + goal.scale * coef * form.loss(logprobs, rollout.logprobs, ref_logprobs, nothing)
        total = total + logprobs.detach().sum().exp() * losses.mean()
    [found] = torch.autograd.grad(total, policy)
    whole = logits.clone().requires_grad_()
    logprobs = whole.log_softmax(0)
    objective = (logprobs.exp() * (scores - coef * form.sampled(logprobs, reference))).sum()
    [wanted] = torch.autograd.grad(objective, whole)
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(found, -share * wanted, rtol=1e-4, atol=1e-6)


def test_a_group_whose_returns_are_all_the_same_has_no_advantages(four: Trajectory) -> None:
    alike = replace(four, scores=torch.ones(4), finished=torch.ones(4, dtype=torch.bool))
    assert not goal_of(alike, NONE, algorithm="grpo", group=2, scaled=True).advantages.any()


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
    for field in fields(goal):
        assert torch.equal(getattr(goal.select(swapped), field.name), getattr(again, field.name)), field.name
