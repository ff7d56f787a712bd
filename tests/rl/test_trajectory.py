"""A rollout's record, and its targets from end to end by hand."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor

from rlhf.config import PPOConfig
from rlhf.models.batch import collate
from rlhf.rl.trajectory import Targets, Trajectory, targets


def settings(whiten_rewards: bool = False, whiten_advantages: bool = False) -> PPOConfig:
    return PPOConfig(
        steps=1,
        epochs=1,
        step_batch_size=2,
        micro_batch_size=2,
        lr=1e-3,
        lr_schedule="constant",
        warmup_steps=0,
        adam_eps=1e-5,
        max_grad_norm=1.0,
        clip=0.2,
        gamma=1.0,
        lam=0.5,
        whiten_rewards=whiten_rewards,
        whiten_advantages=whiten_advantages,
        missing_eos_score=-3.0,
        early_stop_kl=None,
        dropout=False,
    )


@pytest.fixture
def trajectory() -> Trajectory:
    """A finished response of two tokens, and one cut off after three."""
    return Trajectory(
        batch=collate([[4], [5, 6]], [[7, 2], [8, 9, 10]], 0, torch.device("cpu")),
        logprobs=torch.tensor([[-1.0, -2.0, 0.0], [-1.0, -1.0, -3.0]]),
        ref_logprobs=torch.tensor([[-2.0, -1.0, 0.0], [-1.0, -3.0, -2.0]]),
        kl=torch.tensor([[0.1, 0.2, 0.0], [0.3, 0.4, 0.5]]),
        entropy=torch.ones(2, 3),
        values=torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]]),
        features=torch.arange(24.0).view(2, 3, 4),
        scores=torch.tensor([5.0, 7.0]),
        finished=torch.tensor([True, False]),
    )


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
    goal = targets(trajectory, "kl", 0.5, settings())
    close(goal.penalties, [[1, -1, 0], [0, 2, -1]])
    close(goal.rewards, REWARDS)
    close(goal.advantages, ADVANTAGES)
    close(goal.returns, RETURNS)


def test_the_penalty_is_the_one_named(trajectory: Trajectory) -> None:
    close(targets(trajectory, "clamped_kl", 0.5, settings()).penalties, [[1, 0, 0], [0, 2, 0]])
    close(targets(trajectory, "none", 0.5, settings()).rewards, [[0, 5, 0], [0, 0, -3]])


def test_whitened_advantages_leave_the_returns_alone(trajectory: Trajectory) -> None:
    goal = targets(trajectory, "kl", 0.5, settings(whiten_advantages=True))
    # Mean -0.375 / 5 = -0.075; deviations 2.325, 3.575, -0.8, -3.675, -1.425 with squares 5.405625, 12.780625, 0.64,
    # 13.505625, 2.030625, together 34.3625; over 5, the root is 2.6215454.
    close(goal.advantages, [[0.8868815, 1.3636995, 0], [-0.3051636, -1.4018449, -0.5435725]])
    close(goal.returns, RETURNS)
    close(goal.rewards, REWARDS)


def test_whitened_rewards_are_divided_not_shifted_and_come_before_the_advantages(trajectory: Trajectory) -> None:
    goal = targets(trajectory, "kl", 0.5, settings(whiten_rewards=True))
    # Mean 1.5 / 5 = 0.3; squares of the deviations 0.64, 27.04, 0.09, 1.69, 7.84, together 37.3; the root of 7.46 is
    # 2.7312999. Last tokens: 5.5 / 2.7312999 - 2 = 0.0136931, and -2.5 / 2.7312999 + 1 = 0.0846849.
    close(goal.rewards, [[-0.1830630, 2.0136931, 0], [0, -0.3661260, -0.9153151]])
    close(goal.advantages[:, -2:], [[0.0136931, 0], [-2.3237836, 0.0846849]])  # -0.366126 - 1 - 1 + 0.0846849 / 2
    close(goal.returns[:, -2:], [[2.0136931, 0], [-1.3237836, -0.9153151]])


def test_select_and_cat_undo_each_other(trajectory: Trajectory) -> None:
    parts = [trajectory.select(torch.tensor([row])) for row in range(2)]
    assert parts[1].scores.tolist() == [7.0]
    assert parts[1].batch.input_ids.tolist() == [[5, 6, 8, 9, 10]]
    assert parts[1].features.tolist() == trajectory.features[1:].tolist()
    whole = Trajectory.cat(trajectory.batch, parts)
    assert whole.batch is trajectory.batch
    for field in fields(Trajectory):
        if field.name != "batch":
            assert torch.equal(getattr(whole, field.name), getattr(trajectory, field.name)), field.name


def test_select_reorders_every_part_alike(trajectory: Trajectory) -> None:
    swapped, goal = torch.tensor([1, 0]), targets(trajectory, "kl", 0.5, settings())
    again = targets(trajectory.select(swapped), "kl", 0.5, settings())
    for field in fields(Targets):
        assert torch.equal(getattr(goal.select(swapped), field.name), getattr(again, field.name)), field.name
