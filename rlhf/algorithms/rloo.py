"""REINFORCE leave-one-out (arXiv 2402.14740): the baseline is the mean return of the other responses to the prompt.

A_i = R_i - sum of the others' R_j / (k - 1), its section 2.3. Unlike there, a rollout may serve several steps, whose
ratios are clipped as in PPO; set ppo.epochs=1 and ppo.step_batch_size to rollout.batch_size for the plain gradient.
"""

from rlhf.rl.advantage import Mask, Tokens, leave_one_out
from rlhf.rl.algorithm import Algorithm, Estimate, Settings, whole_response


def advantages(rewards: Tokens, values: Tokens, mask: Mask, settings: Settings) -> Estimate:
    returns = rewards.sum(1)
    return whole_response(leave_one_out(returns, settings.group), returns, mask)


ALGORITHM = Algorithm(advantages=advantages, samples=2)
