"""Small rollouts whose targets are known by hand, and targets with settings of their own."""

import torch

from rlhf import regularizers
from rlhf.models.batch import collate
from rlhf.regularizers import SampledForm
from rlhf.rl.advantage import Mask, Tokens, masked_whiten
from rlhf.rl.algorithm import Estimate, Settings, load_algorithm
from rlhf.rl.regularizer import Regularizer
from rlhf.rl.trajectory import Targets, Trajectory, targets


def in_reward(form: SampledForm) -> Regularizer:
    return Regularizer(form, None, in_reward=True, in_loss=False)


KL = in_reward(regularizers.kl)


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


def goal_of(
    trajectory: Trajectory,
    form: Regularizer = KL,
    coef: float = 0.5,
    algorithm: str = "ppo",
    group: int = 1,
    scaled: bool = False,
    bootstrap_padding: bool = False,
    whiten=masked_whiten,
    missing_eos_score: float | None = -3.0,
    whiten_rewards: bool = False,
    whiten_advantages: bool = False,
) -> Targets:
    """Targets with gamma = 1 and lam = 0.5."""
    settings = Settings(group, scaled, gamma=1.0, lam=0.5)

    def estimate(rewards: Tokens, values: Tokens, mask: Mask) -> Estimate:
        counted = torch.ones_like(mask) if bootstrap_padding else mask
        return load_algorithm(algorithm).advantages(rewards, values, counted, settings)

    return targets(trajectory, form, coef, estimate, whiten, missing_eos_score, whiten_rewards, whiten_advantages)
