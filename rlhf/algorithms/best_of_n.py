"""Best of n: no training. Of n responses the evaluation keeps the one with the highest reward (`evaluation.best_of`).

The policy is the SFT model, whatever ppo.steps, and how far the choice is from it is bounded by log n - (n - 1) / n
(arXiv 2112.09332). Left out: the weighted forms, and training on the chosen responses.
"""

import torch

from rlhf.rl.advantage import Mask, Tokens
from rlhf.rl.algorithm import Algorithm, Estimate, Settings, whole_response


def advantages(rewards: Tokens, values: Tokens, mask: Mask, settings: Settings) -> Estimate:
    """0: there is nothing to learn."""
    returns = rewards.sum(1)
    return whole_response(torch.zeros_like(returns), returns, mask)


ALGORITHM = Algorithm(advantages=advantages, trains=False)
