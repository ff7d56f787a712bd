"""What one rollout leaves behind for the update: a typed record of tensors, all per response or per response token."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf.config import PPOConfig
from rlhf.models.batch import Batch
from rlhf.rl.advantage import effective_scores, generalized_advantages, masked_whiten, token_rewards
from rlhf.rl.regularizer import REGULARIZERS


@dataclass(frozen=True)
class Trajectory:
    """Responses as the policy of the rollout, the reference and the reward model saw them; 0 off the mask.

    `logprobs`, `ref_logprobs`, `kl` (exact, policy to reference) and `entropy` in nats; `values` and `scores` in
    standard deviations of the SFT model's scores; `features` are the reward model's states; `finished` responses end
    in EOS.
    """

    batch: Batch
    logprobs: Float[Tensor, "batch response"]
    ref_logprobs: Float[Tensor, "batch response"]
    kl: Float[Tensor, "batch response"]
    entropy: Float[Tensor, "batch response"]
    values: Float[Tensor, "batch response"]
    features: Float[Tensor, "batch response features"]
    scores: Float[Tensor, " batch"]
    finished: Bool[Tensor, " batch"]

    def select(self, rows: Int[Tensor, " rows"]) -> "Trajectory":
        """Some of the responses."""
        return Trajectory(self.batch.select(rows), *(getattr(self, name)[rows] for name in self._tensors()))

    @classmethod
    def cat(cls, batch: Batch, parts: Sequence["Trajectory"]) -> "Trajectory":
        """The parts, in order the rows of `batch`, as one."""
        return cls(batch, *(torch.cat([getattr(part, name) for part in parts]) for name in cls._tensors()))

    @classmethod
    def _tensors(cls) -> list[str]:
        return [field.name for field in fields(cls) if field.name != "batch"]


@dataclass(frozen=True)
class Targets:
    """What the update moves towards, per response token; 0 off the mask."""

    penalties: Float[Tensor, "batch response"]
    rewards: Float[Tensor, "batch response"]
    advantages: Float[Tensor, "batch response"]
    returns: Float[Tensor, "batch response"]

    def select(self, rows: Int[Tensor, " rows"]) -> "Targets":
        return Targets(*(getattr(self, field.name)[rows] for field in fields(self)))


def targets(trajectory: Trajectory, regularizer: str, coef: float, config: PPOConfig) -> Targets:
    """Penalties, rewards, advantages and returns, in the order in which each needs the one before."""
    mask = trajectory.batch.mask
    penalties = REGULARIZERS[regularizer](trajectory.logprobs, trajectory.ref_logprobs) * mask
    scores = effective_scores(trajectory.scores, trajectory.finished, config.missing_eos_score)
    rewards = token_rewards(scores, penalties, mask, coef)
    if config.whiten_rewards:
        rewards = masked_whiten(rewards, mask, shift_mean=False)
    advantages, returns = generalized_advantages(rewards, trajectory.values, mask, config.gamma, config.lam)
    if config.whiten_advantages:
        advantages = masked_whiten(advantages, mask, shift_mean=True)
    return Targets(penalties, rewards, advantages, returns)
