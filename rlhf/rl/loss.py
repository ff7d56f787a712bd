"""PPO's losses per token (arXiv 1707.06347), left unsummed so that micro-batches can be normalised by a whole step."""

import torch
from jaxtyping import Float
from torch import Tensor

Tokens = Float[Tensor, "batch response"]


def probability_ratio(logprobs: Tokens, old_logprobs: Tokens) -> Tokens:
    """exp(logprobs - old_logprobs), at most e^20: beyond, an overflow would turn the gradient into NaN."""
    return torch.exp((logprobs - old_logprobs).clamp(max=20.0))


def policy_loss(logprobs: Tokens, old_logprobs: Tokens, advantages: Tokens, clip: float) -> Tokens:
    """-min(ratio A, clip(ratio, 1 - clip, 1 + clip) A), equation 7, with ratio = exp(logprobs - old_logprobs)."""
    ratio = probability_ratio(logprobs, old_logprobs)
    return torch.maximum(-ratio * advantages, -ratio.clamp(1 - clip, 1 + clip) * advantages)


def value_loss(values: Tokens, old_values: Tokens, returns: Tokens, clip: float) -> Tokens:
    """Half the squared error, or that of the value clipped to `clip` from its old one where that is larger."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum((values - returns).square(), (clipped - returns).square()) / 2


def policy_clipped(logprobs: Tokens, old_logprobs: Tokens, advantages: Tokens, clip: float) -> Tokens:
    """1 where the clipped surrogate is the one that counts, so that the token has no gradient, else 0."""
    ratio = probability_ratio(logprobs, old_logprobs)
    return (-ratio.clamp(1 - clip, 1 + clip) * advantages > -ratio * advantages).float()


def value_clipped(values: Tokens, old_values: Tokens, returns: Tokens, clip: float) -> Tokens:
    """1 where the clipped value's error is the one that counts, else 0."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return ((clipped - returns).square() > (values - returns).square()).float()


def approximate_kl(logprobs: Tokens, old_logprobs: Tokens) -> Tokens:
    """KL(old policy, policy) per token by the k3 estimate, the tokens being the old policy's: r - 1 - log r."""
    log_ratio = logprobs - old_logprobs
    return torch.expm1(log_ratio) - log_ratio
