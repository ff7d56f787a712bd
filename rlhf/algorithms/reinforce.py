"""REINFORCE (Williams, 1992): a response's advantage is its return less the mean return of the rollout's others.

The baseline leaves the response itself out, so that it adds no bias: over one prompt's responses it is that of rloo
(arXiv 2402.14740), here it is over the whole rollout's. Its preset makes one step of each rollout, where the ratio is 1
and the clipped loss has the plain policy gradient. Left out: discounting.
"""

from rlhf.rl.advantage import Mask, Tokens, leave_one_out
from rlhf.rl.algorithm import Algorithm, Estimate, Settings, whole_response


def advantages(rewards: Tokens, values: Tokens, mask: Mask, settings: Settings) -> Estimate:
    returns = rewards.sum(1)
    return whole_response(leave_one_out(returns, len(returns)), returns, mask)


ALGORITHM = Algorithm(advantages=advantages)
