"""Dr. GRPO (arXiv 2503.20783, "GRPO done right"): GRPO without its biases of difficulty and of length.

A_i = R_i - mean(R), not divided by the group's deviation, which would favour prompts whose responses score alike; and
losses are summed over tokens and divided by a constant, not by each response's length, which would favour short right
and long wrong responses (its section 3.2; ppo.average=constant, the constant being rollout.max_response_tokens).
Left out: nothing; its experiments have no KL, which is regularizer=none here.
"""

from rlhf.rl.advantage import Mask, Tokens, own_share, standardize
from rlhf.rl.algorithm import Algorithm, Estimate, Settings, whole_response


def advantages(rewards: Tokens, values: Tokens, mask: Mask, settings: Settings) -> Estimate:
    returns, group = rewards.sum(1), settings.group
    centred, share = (function(returns, group, scale_by_deviation=False) for function in (standardize, own_share))
    return whole_response(centred, returns, mask, share)


ALGORITHM = Algorithm(advantages=advantages, samples=2)
