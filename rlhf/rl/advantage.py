"""From scores and penalties to advantages: masked means, rewards per token, generalised advantages and baselines.

All tensors are (batch, response) with `mask` true at a response's real tokens, EOS included; results are 0 elsewhere.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Tokens = Float[Tensor, "batch response"]
Mask = Bool[Tensor, "batch response"]
Returns = Float[Tensor, " batch"]
Groups = Float[Tensor, "groups members"]

SMALLEST_DEVIATION = 1e-4
"""The deviation of a group's returns below which they differ by rounding alone."""


def masked_mean(values: Tokens, mask: Mask) -> Float[Tensor, ""]:
    """The mean over the real tokens of the whole batch."""
    return (values * mask).sum() / mask.sum()


def masked_deviation(values: Tokens, mask: Mask) -> Float[Tensor, ""]:
    """The standard deviation over the real tokens of the whole batch, a little above 0 where all are the same."""
    return (masked_mean((values - masked_mean(values, mask)).square(), mask) + 1e-8).sqrt()


def masked_whiten(values: Tokens, mask: Mask, shift_mean: bool) -> tuple[Tokens, float]:
    """Deviation 1 over the real tokens, and mean 0 if `shift_mean`, else signs are kept; and what was divided by."""
    centred = values - masked_mean(values, mask) if shift_mean else values
    deviation = masked_deviation(values, mask)
    return centred / deviation * mask, deviation.item()


def token_rewards(scores: Float[Tensor, " batch"], penalties: Tokens, mask: Mask, coef: float) -> Tokens:
    """-coef x penalty at each token, plus the response's score at its last real token."""
    last = mask & ~torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], dim=1)
    return (-coef * penalties + scores[:, None] * last) * mask


def effective_scores(
    scores: Float[Tensor, " batch"], finished: Bool[Tensor, " batch"], missing_eos_score: float | None
) -> Float[Tensor, " batch"]:
    """The scores, replaced by `missing_eos_score` (unless it is None) where a response was cut off before its EOS."""
    if missing_eos_score is None:
        return scores
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


def leave_one_out(returns: Returns, group_size: int) -> Returns:
    """Each return less the mean of the others of its group (arXiv 2402.14740); a baseline that adds no bias.

    Groups are `group_size` rows one after another; a group of one has the baseline 0.
    """
    groups = returns.view(-1, group_size)
    others = (groups.sum(1, keepdim=True) - groups) / max(1, group_size - 1)
    return (groups - others).flatten()


def own_share(returns: Returns, group_size: int, scale_by_deviation: bool) -> Returns:
    """The factor of each return in its own standardised value: (1 - 1 / n), over the deviation if asked.

    The rest of a group's standardised returns comes from the other responses, whose gradient is 0 in expectation. A
    group whose returns are all alike has no gradient, and the share 0 where the deviation would divide.
    """
    groups = returns.view(-1, group_size)
    share = torch.full_like(groups, 1 - 1 / group_size)
    return (_over_deviation(share, groups) if scale_by_deviation else share).flatten()


def standardize(returns: Returns, group_size: int, scale_by_deviation: bool) -> Returns:
    """Each return less its group's mean, over the group's deviation if asked (arXiv 2402.03300, section 4.1.2).

    Those of a group that differs by rounding alone are then 0.
    """
    groups = returns.view(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    return (_over_deviation(centred, groups) if scale_by_deviation else centred).flatten()


def _over_deviation(values: Groups, groups: Groups) -> Groups:
    """Values over the deviation of each group's returns; 0 where those are all alike."""
    deviation = groups.std(1, keepdim=True)
    return torch.where(deviation > SMALLEST_DEVIATION, values / (deviation + 1e-6), 0.0)
