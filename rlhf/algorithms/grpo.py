"""Group relative policy optimization (arXiv 2402.03300): returns standardised among the responses to a prompt.

A_i = (R_i - mean(R)) / std(R), its section 4.1.2, in PPO's clipped loss averaged over each response's tokens, then over
responses (equation 3; ppo.average=responses). Its KL, k3 in the loss, is regularizer=bregman
regularizer.placement=loss. Left out: process rewards (section 4.1.3) and the iterated reward model (algorithm 1).
"""

from rlhf.rl.advantage import Mask, Tokens, own_share, standardize
from rlhf.rl.algorithm import Algorithm, Estimate, Settings, whole_response


def advantages(rewards: Tokens, values: Tokens, mask: Mask, settings: Settings) -> Estimate:
    """`Settings.scale_by_deviation` decides on the division by the group's standard deviation."""
    returns, group, scaled = rewards.sum(1), settings.group, settings.scale_by_deviation
    return whole_response(standardize(returns, group, scaled), returns, mask, own_share(returns, group, scaled))


ALGORITHM = Algorithm(advantages=advantages, samples=2)
