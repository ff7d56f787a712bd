"""Proximal policy optimization (arXiv 1707.06347): a clipped surrogate of generalised advantages (arXiv 1506.02438).

A_t = delta_t + gamma lam A_{t+1} by a value function (equation 11), and per token the loss
-min(ratio A, clipped ratio A) (equation 7). The details are those of arXiv 2403.17031. Left out: the adaptive KL
penalty of its section 4, since penalties are the regularizer's.
"""

import torch

from rlhf.rl.advantage import Mask, Tokens, generalized_advantages
from rlhf.rl.algorithm import Algorithm, Estimate, Settings


def advantages(rewards: Tokens, values: Tokens, mask: Mask, settings: Settings) -> Estimate:
    found, returns = generalized_advantages(rewards, values, mask, settings.gamma, settings.lam)
    return Estimate(found, returns, torch.ones_like(rewards[:, 0]))


ALGORITHM = Algorithm(advantages=advantages, value=True)
