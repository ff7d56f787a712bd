"""PPO's losses per token (arXiv 1707.06347), left unsummed so that micro-batches can be normalised by a whole step."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlhf.rl.regularizer import bregman, probability_ratio

Tokens = Float[Tensor, "batch response"]


def loss_weights(mask: Bool[Tensor, "batch response"], average: str) -> Tokens:
    """How much each position of a step's responses counts in its losses; the weights sum to 1.

    `tokens`: all real tokens alike. `responses`: all responses alike, and in each its real tokens (GRPO, arXiv
    2402.03300). `positions`: all positions alike, padding too (the code of arXiv 2309.09055).
    """
    if average == "positions":
        return torch.full(mask.shape, 1 / mask.numel(), device=mask.device)
    if average == "responses":
        return mask / mask.sum(1, keepdim=True) / len(mask)
    return mask / mask.sum()


def policy_loss(logprobs: Tokens, old_logprobs: Tokens, advantages: Tokens, clip: float) -> Tokens:
    """-min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), equation 7, with ratio = exp(logprobs - old_logprobs)."""
    return torch.maximum(*_surrogates(logprobs, old_logprobs, advantages, clip))


def policy_clipped(logprobs: Tokens, old_logprobs: Tokens, advantages: Tokens, clip: float) -> Tokens:
    """1 where the clipped surrogate is the one that counts, so that the token has no gradient, else 0."""
    free, clipped = _surrogates(logprobs, old_logprobs, advantages, clip)
    return (clipped > free).float()


def value_loss(values: Tokens, old_values: Tokens, returns: Tokens, clip: float) -> Tokens:
    """Half the squared error, or that of the value clipped to `clip` from its old one where that is larger."""
    return torch.maximum(*_value_errors(values, old_values, returns, clip)) / 2


def value_clipped(values: Tokens, old_values: Tokens, returns: Tokens, clip: float) -> Tokens:
    """1 where the clipped value's error is the one that counts, else 0."""
    free, clipped = _value_errors(values, old_values, returns, clip)
    return (clipped > free).float()


def _surrogates(logprobs: Tokens, old_logprobs: Tokens, advantages: Tokens, clip: float) -> tuple[Tokens, Tokens]:
    """The losses -ratio A, free and with the ratio clipped."""
    ratio = probability_ratio(logprobs, old_logprobs)
    return -ratio * advantages, -ratio.clamp(1 - clip, 1 + clip) * advantages


def _value_errors(values: Tokens, old_values: Tokens, returns: Tokens, clip: float) -> tuple[Tokens, Tokens]:
    """The squared errors, free and of the value clipped around its old one."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return (values - returns).square(), (clipped - returns).square()


def approximate_kl(logprobs: Tokens, old_logprobs: Tokens) -> Tokens:
    """KL(old policy, policy) per token by the k3 estimate, the tokens being the old policy's: r - 1 - log r."""
    return bregman(old_logprobs, logprobs)
