"""Group sequence policy optimization (arXiv 2507.18071): GRPO with one importance ratio a response, clipped as a whole.

s_i = (pi(y_i) / pi_old(y_i))^(1 / |y_i|), equation 7, the geometric mean of the tokens' ratios; the loss is
-min(s_i A_i, clip(s_i) A_i) averaged over responses (equation 5; ppo.average=responses), with GRPO's advantages.
The paper clips to [1 - 3e-4, 1 + 4e-4], its section 5.1: a mean over hundreds of tokens moves far less than one
token's ratio. `ppo.clip` is one number for both sides, and conf/algorithm/gspo.yaml takes the smaller; responses
of a few tokens want a larger one. Left out: GSPO-token (section 4.3), whose advantages differ within a response.
"""

from rlhf.algorithms.grpo import advantages
from rlhf.rl.advantage import Mask, Tokens
from rlhf.rl.algorithm import Algorithm
from rlhf.rl.loss import Loss, clipped_surrogate, probability_ratio


def policy_loss(logprobs: Tokens, old_logprobs: Tokens, advantages: Tokens, mask: Mask, clip: float) -> Loss:
    """The response's loss at each of its tokens, so that their mean is that of the response."""
    lengths = mask.sum(1, keepdim=True)
    means = [(each * mask).sum(1, keepdim=True) / lengths for each in (logprobs, old_logprobs)]
    return clipped_surrogate(probability_ratio(*means) * mask, advantages, clip)


ALGORITHM = Algorithm(advantages=advantages, policy_loss=policy_loss, samples=2)
