"""What keeps the policy near the reference: penalties per token by name, and the coefficient they are weighted with.

For a token a drawn from the policy p, with reference q: D = log p(a) - log q(a), and m = (p + q) / 2. Every function
takes `logprobs` (of p) and `ref_logprobs` (of q), float tensors of one shape in nats, and gives the penalty per token,
in nats. The penalty is subtracted from the reward; its policy gradient is that of a divergence only where it equals
the divergence's derivative with respect to p(a): so for `kl`, and for none of the others, as is said at each.
Sources: arXiv 2309.09055 (the paper; its Jensen-Shannon form); J. Schulman, "Approximating KL divergence" (k1 to k3).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rlhf.config import RegularizerConfig

Logprobs = Float[Tensor, "*tokens"]
Penalty = Float[Tensor, "*tokens"]


def none(logprobs: Logprobs, ref_logprobs: Logprobs) -> Penalty:
    """0."""
    return torch.zeros_like(_log_ratio(logprobs, ref_logprobs))


def kl(logprobs: Logprobs, ref_logprobs: Logprobs) -> Penalty:
    """D (k1). Expectation: KL(p, q). As a reward penalty its gradient is exactly that of KL(p, q)."""
    return _log_ratio(logprobs, ref_logprobs)


def clamped_kl(logprobs: Logprobs, ref_logprobs: Logprobs) -> Penalty:
    """max(D, 0). Expectation: more than KL(p, q). Its gradient is biased: nothing rewards tokens with D < 0."""
    return _log_ratio(logprobs, ref_logprobs).clamp(min=0)


def js(logprobs: Logprobs, ref_logprobs: Logprobs) -> Penalty:
    """(log 2 - softplus(-|D|)) / 2 = (max(log p/m, 0) + max(log q/m, 0)) / 2, the paper's form.

    At most (log 2) / 2, and even in D: it taxes a token that the policy has made rarer like one made likelier. Its
    expectation is not the Jensen-Shannon divergence: larger near the reference, and smaller far from it, where that
    reaches log 2. Nor does its gradient follow that divergence's.
    """
    return (math.log(2) - F.softplus(-_log_ratio(logprobs, ref_logprobs).abs())) / 2


def bregman(logprobs: Logprobs, ref_logprobs: Logprobs) -> Penalty:
    """exp(-D) - 1 + D (k3). Expectation: KL(p, q), never negative, with a heavy tail where q is far larger than p.

    As a reward penalty its gradient is that of KL(p, q) - KL(q, p).
    """
    log_ratio = _log_ratio(logprobs, ref_logprobs)
    return torch.expm1(-log_ratio) + log_ratio


def squared_error(logprobs: Logprobs, ref_logprobs: Logprobs) -> Penalty:
    """D^2 / 2 (k2). Expectation: KL(p, q) to second order in D. As a reward penalty its gradient is biased."""
    return _log_ratio(logprobs, ref_logprobs).square() / 2


def negative_kl(logprobs: Logprobs, ref_logprobs: Logprobs) -> Penalty:
    """-D. Expectation: -KL(p, q): a bonus for leaving the reference, the paper's control."""
    return -_log_ratio(logprobs, ref_logprobs)


REGULARIZERS: dict[str, Callable[[Logprobs, Logprobs], Penalty]] = {
    "none": none,
    "kl": kl,
    "clamped_kl": clamped_kl,
    "js": js,
    "bregman": bregman,
    "squared_error": squared_error,
    "negative_kl": negative_kl,
}


def _log_ratio(logprobs: Logprobs, ref_logprobs: Logprobs) -> Float[Tensor, "*tokens"]:
    """D, in float32 at least: bfloat16 has three digits, and exp(-D) overflows in float16."""
    dtype = torch.promote_types(logprobs.dtype, torch.float32)
    return logprobs.to(dtype) - ref_logprobs.to(dtype)


@dataclass
class Coefficient:
    """The weight of the penalty: constant, or following the true KL (per token, not the penalty) to a target.

    The adaptive rule is that of Ziegler et al. (arXiv 1909.08593, section 2.2): a proportional controller in log space,
    whose error is the relative deviation from the target, clipped at 0.2.
    """

    value: float
    config: RegularizerConfig

    def update(self, true_kl: float, responses: int) -> None:
        """`true_kl` in nats per token, over the last rollout of `responses` responses."""
        if self.config.controller == "adaptive":
            error = min(max(true_kl / self.config.target_kl - 1, -0.2), 0.2)
            self.value *= 1 + error * responses / self.config.horizon
