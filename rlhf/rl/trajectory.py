"""What one rollout leaves behind for the update: a typed record of tensors, all per response or per response token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf.config.rl import AlgorithmConfig, PPOConfig
from rlhf.models.batch import Batch
from rlhf.rl.advantage import (
    effective_scores,
    generalized_advantages,
    leave_one_out,
    masked_deviation,
    masked_whiten,
    own_share,
    published_whiten,
    standardize,
    token_rewards,
)
from rlhf.rl.regularizer import Regularizer

Tokens = Float[Tensor, "batch response"]


@dataclass(frozen=True)
class Trajectory:
    """Responses as the policy of the rollout, the reference and the reward model saw them; 0 off the mask.

    `logprobs`, `ref_logprobs`, `kl` (exact, policy to reference), `entropy` and `divergence` (of a full-vocabulary
    regularizer) in nats; `values` and `scores` in standard deviations of the SFT model's scores, `score_spread` the
    deviation of an ensemble's members around theirs; `features` are the reward model's states and `ref_states` the
    reference's, where the update reads them; `finished` responses end in EOS.
    """

    batch: Batch
    logprobs: Tokens
    ref_logprobs: Tokens
    kl: Tokens
    entropy: Tokens
    divergence: Tokens
    values: Tokens
    features: Float[Tensor, "batch response features"]
    ref_states: Float[Tensor, "batch response hidden"]
    scores: Float[Tensor, " batch"]
    score_spread: Float[Tensor, " batch"]
    finished: Bool[Tensor, " batch"]

    def select(self, rows: Int[Tensor, " rows"]) -> "Trajectory":
        """Some of the responses."""
        return Trajectory(self.batch.select(rows), *(getattr(self, name)[rows] for name in self._tensors()))

    @classmethod
    def cat(cls, batch: Batch, parts: Sequence["Trajectory"], gather: Callable[[Tensor], Tensor]) -> "Trajectory":
        """The parts, which are this rank's, and with `gather` the other ranks': in order the rows of `batch`."""
        return cls(batch, *(gather(torch.cat([getattr(part, name) for part in parts])) for name in cls._tensors()))

    @classmethod
    def _tensors(cls) -> list[str]:
        return [field.name for field in fields(cls) if field.name != "batch"]


@dataclass(frozen=True)
class Targets:
    """What the update moves towards, per response token; 0 off the mask, but for what counts padding in.

    `objectives` are what PPO is to raise, of each response: its score less the coefficient times the sum of its
    penalties, wherever those are placed; 0 on average at the SFT model. `scale` is what whitening, and
    GRPO's standardisation, have multiplied each response's own rewards with. A penalty in the loss is multiplied with
    it too, so that a coefficient means the same in both placements.
    """

    objectives: Float[Tensor, " batch"]
    penalties: Tokens
    rewards: Tokens
    advantages: Tokens
    returns: Tokens
    scale: Float[Tensor, "batch 1"]

    def select(self, rows: Int[Tensor, " rows"]) -> "Targets":
        """Some of the responses."""
        return replace(self, **{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def targets(
    trajectory: Trajectory, regularizer: Regularizer, coef: float, algorithm: AlgorithmConfig, config: PPOConfig
) -> Targets:
    """Penalties, rewards, advantages and returns, in the order in which each needs the one before."""
    mask = trajectory.batch.mask
    penalties = regularizer.penalties(trajectory.logprobs, trajectory.ref_logprobs, trajectory.divergence) * mask
    scores = effective_scores(trajectory.scores, trajectory.finished, config.missing_eos_score)
    rewards = token_rewards(scores, penalties, mask, coef if regularizer.in_reward else 0.0)
    scale = torch.ones_like(rewards[:, :1])
    if config.whiten_rewards:
        rewards, deviation = whiten(rewards, mask, shift_mean=False, padding=config.whiten_padding)
        scale = scale / deviation
    advantages, returns = _advantages(trajectory, rewards, algorithm, config)
    if algorithm.name == "grpo":
        own = own_share(rewards.sum(1), algorithm.samples_per_prompt, algorithm.scale_by_deviation)
        scale = scale * own[:, None]
    if config.whiten_advantages:
        advantages, deviation = whiten(advantages, mask, shift_mean=True, padding=config.whiten_padding)
        scale = scale / deviation
    objectives = scores - coef * penalties.sum(1)
    return Targets(objectives, penalties, rewards, advantages, returns, scale)


def whiten(
    values: Tokens, mask: Bool[Tensor, "batch response"], shift_mean: bool, padding: bool
) -> tuple[Tokens, float]:
    """Over the real tokens, or over padding too as published; and the deviation that was divided by."""
    if padding:
        return published_whiten(values, shift_mean), masked_deviation(values, torch.ones_like(mask)).item()
    return masked_whiten(values, mask, shift_mean), masked_deviation(values, mask).item()


def _advantages(
    trajectory: Trajectory, rewards: Tokens, algorithm: AlgorithmConfig, config: PPOConfig
) -> tuple[Tokens, Tokens]:
    """Advantages and returns: by the value in PPO, else the whole response's, the same at each of its tokens."""
    mask = trajectory.batch.mask
    if algorithm.name == "ppo":
        counted = torch.ones_like(mask) if config.bootstrap_padding else mask
        return generalized_advantages(rewards, trajectory.values, counted, config.gamma, config.lam)
    returns = rewards.sum(1)
    if algorithm.name == "grpo":
        advantages = standardize(returns, algorithm.samples_per_prompt, algorithm.scale_by_deviation)
    else:
        advantages = leave_one_out(returns, algorithm.samples_per_prompt if algorithm.name == "rloo" else len(returns))
    return advantages[:, None] * mask, returns[:, None] * mask
