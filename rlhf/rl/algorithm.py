"""What an algorithm is: how rewards become advantages, and the policy's loss.

Each file of rlhf/algorithms/ defines one, as `ALGORITHM`; its name is the file's, and conf/algorithm/ has a YAML of the
same name. How losses are averaged is `ppo.average`, which the YAML sets.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.config.algorithms import Needs
from rlhf.rl import loss
from rlhf.rl.advantage import Mask, Returns, Tokens


class Settings(NamedTuple):
    """What advantages may depend on beside the rollout; each algorithm reads what it needs."""

    group: int = 1  # responses to each prompt, one after another
    scale_by_deviation: bool = False
    gamma: float = 1.0
    lam: float = 1.0


class Estimate(NamedTuple):
    """Advantages and returns per token, 0 off the mask; `share` is what multiplies a response's own rewards in them.

    1 without a baseline that the response itself is part of. A penalty in the loss is multiplied with it too.
    """

    advantages: Tokens
    returns: Tokens
    share: Float[Tensor, " batch"]


Advantages = Callable[[Tokens, Tokens, Mask, Settings], Estimate]
"""(rewards, values, mask, settings) -> Estimate; values are 0 for an algorithm without a value."""

PolicyLoss = Callable[[Tokens, Tokens, Tokens, Mask, float], loss.Loss]
"""(logprobs, old_logprobs, advantages, mask, clip) -> Loss; each response by itself: micro-batches hold any of them."""


@dataclass(frozen=True, kw_only=True)
class Algorithm(Needs):
    """Pure functions of tensors, and what they need; without a `policy_loss`, PPO's clipped surrogate by token."""

    advantages: Advantages
    policy_loss: PolicyLoss = loss.policy_loss


def load_algorithm(name: str) -> Algorithm:
    """The `ALGORITHM` of the file of that name in rlhf/algorithms/."""
    return import_module(f"rlhf.algorithms.{name}").ALGORITHM


def whole_response(advantages: Returns, returns: Returns, mask: Mask, share: Returns | None = None) -> Estimate:
    """Each response's advantage and return at each of its tokens."""
    share = torch.ones_like(returns) if share is None else share
    return Estimate(advantages[:, None] * mask, returns[:, None] * mask, share)
