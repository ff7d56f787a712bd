"""What one rollout leaves behind for the update: a typed record of tensors, all per response or per response token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf.models.batch import Batch
from rlhf.rl.advantage import Mask, Tokens, effective_scores, token_rewards
from rlhf.rl.algorithm import Estimate
from rlhf.rl.regularizer import Regularizer


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
    """What the update moves towards, per response token, 0 off the mask.

    `objectives` are what training is to raise, one a response: its score less the coefficient times the sum of its
    penalties, wherever those are placed; 0 on average at the SFT model. `scale` is what whitening and the algorithm
    (`Estimate.share`) have multiplied each response's own rewards with. A penalty in the loss is multiplied with it
    too, so that a coefficient means the same in both placements.
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
    trajectory: Trajectory,
    regularizer: Regularizer,
    coef: float,
    estimate: Callable[[Tokens, Tokens, Mask], Estimate],
    whiten: Callable[[Tokens, Mask, bool], tuple[Tokens, float]],
    missing_eos_score: float | None,
    whiten_rewards: bool,
    whiten_advantages: bool,
) -> Targets:
    """Penalties, rewards, advantages and returns, in the order in which each needs the one before.

    `estimate`, of (rewards, values, mask), is the algorithm's. `whiten`, of (values, mask, shift_mean), returns the
    whitened values and what they were divided by.
    """
    mask = trajectory.batch.mask
    penalties = regularizer.penalties(trajectory.logprobs, trajectory.ref_logprobs, trajectory.divergence) * mask
    scores = effective_scores(trajectory.scores, trajectory.finished, missing_eos_score)
    rewards = token_rewards(scores, penalties, mask, coef if regularizer.in_reward else 0.0)
    scale = torch.ones_like(rewards[:, :1])
    if whiten_rewards:
        rewards, deviation = whiten(rewards, mask, False)
        scale = scale / deviation
    advantages, returns, share = estimate(rewards, trajectory.values, mask)
    scale = scale * share[:, None]
    if whiten_advantages:
        advantages, deviation = whiten(advantages, mask, True)
        scale = scale / deviation
    return Targets(scores - coef * penalties.sum(1), penalties, rewards, advantages, returns, scale)
