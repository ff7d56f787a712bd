"""Losses per token (PPO: arXiv 1707.06347), left unsummed so that micro-batches can be normalised by a whole step."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlhf.regularizers import bregman

Tokens = Float[Tensor, "batch response"]
Mask = Bool[Tensor, "batch response"]
Ratio = Float[Tensor, "*tokens"]


class Loss(NamedTuple):
    """A loss per token; `clipped` is 1 where the clipped one counts, so that the token has no gradient, else 0."""

    loss: Tokens
    clipped: Tokens


def loss_weights(mask: Mask, average: str) -> Tokens:
    """How much each position of a step's responses counts in the losses' means; the weights sum to 1.

    `responses`: all responses alike, and in each its real tokens (GRPO, arXiv 2402.03300); else all real tokens alike.
    """
    if average == "responses":
        return mask / mask.sum(1, keepdim=True) / len(mask)
    return mask / mask.sum()


def loss_scale(mask: Mask, average: str, longest: int) -> float:
    """What the mean is multiplied with before it is descended: 1, but for `constant`.

    `constant`: tokens / (responses x `longest`), so that losses are summed over tokens and divided by a constant
    (Dr. GRPO, arXiv 2503.20783, whose constant is the longest a response may be).
    """
    return mask.sum().item() / (len(mask) * longest) if average == "constant" else 1.0


def probability_ratio(logprobs: Ratio, old_logprobs: Ratio) -> Ratio:
    """exp(logprobs - old_logprobs), at most e^20: beyond, an overflow would turn the gradient into NaN."""
    return torch.exp((logprobs - old_logprobs).clamp(max=20.0))


def clipped_surrogate(ratio: Tokens, advantages: Tokens, clip: float) -> Loss:
    """-min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), equation 7 of PPO."""
    free, clipped = -ratio * advantages, -ratio.clamp(1 - clip, 1 + clip) * advantages
    return Loss(torch.maximum(free, clipped), (clipped > free).float())


def policy_loss(logprobs: Tokens, old_logprobs: Tokens, advantages: Tokens, mask: Mask, clip: float) -> Loss:
    """The clipped surrogate by each token's own ratio, exp(logprobs - old_logprobs)."""
    return clipped_surrogate(probability_ratio(logprobs, old_logprobs), advantages, clip)


def value_loss(values: Tokens, old_values: Tokens, returns: Tokens, clip: float) -> Loss:
    """Half the squared error, or that of the value clipped to `clip` from its old one where that is larger."""
    near = old_values + (values - old_values).clamp(-clip, clip)
    free, clipped = (values - returns).square(), (near - returns).square()
    return Loss(torch.maximum(free, clipped) / 2, (clipped > free).float())


def approximate_kl(logprobs: Tokens, old_logprobs: Tokens) -> Tokens:
    """KL(old policy, policy) per token by the k3 estimate, the tokens being the old policy's: r - 1 - log r."""
    return bregman(old_logprobs, logprobs)
