"""From scores and penalties to advantages: masked means, rewards per token, generalised advantage estimation.

All tensors are (batch, response) with `mask` true at a response's real tokens, EOS included; results are 0 elsewhere.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Tokens = Float[Tensor, "batch response"]
Mask = Bool[Tensor, "batch response"]


def masked_mean(values: Tokens, mask: Mask) -> Float[Tensor, ""]:
    """The mean over the real tokens of the whole batch."""
    return (values * mask).sum() / mask.sum()


def masked_whiten(values: Tokens, mask: Mask, shift_mean: bool) -> Tokens:
    """Deviation 1 over the real tokens, and mean 0 if `shift_mean`; else the values keep their signs."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean).square(), mask)
    centred = values - mean if shift_mean else values
    return centred / (variance + 1e-8).sqrt() * mask


def token_rewards(scores: Float[Tensor, " batch"], penalties: Tokens, mask: Mask, coef: float) -> Tokens:
    """-coef x penalty at each token, plus the response's score at its last real token."""
    last = mask & ~torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
    return (-coef * penalties + scores[:, None] * last) * mask


def effective_scores(
    scores: Float[Tensor, " batch"], finished: Bool[Tensor, " batch"], missing_eos_score: float
) -> Float[Tensor, " batch"]:
    """The scores, replaced by `missing_eos_score` where a response was cut off before its EOS."""
    return torch.where(finished, scores, torch.full_like(scores, missing_eos_score))


def generalized_advantages(
    rewards: Tokens, values: Tokens, mask: Mask, gamma: float, lam: float
) -> tuple[Tokens, Tokens]:
    """Advantages and returns (arXiv 1506.02438, equation 16); after the last real token the value is 0.

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lam A_{t+1};  R_t = A_t + V_t.
    """
    values = values * mask
    advantages = torch.zeros_like(values)
    following_value = following_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * following_value - values[:, t]
        following_advantage = (delta + gamma * lam * following_advantage) * mask[:, t]
        advantages[:, t] = following_advantage
        following_value = values[:, t]
    return advantages, (advantages + values) * mask
