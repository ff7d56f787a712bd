"""Penalties that keep a policy near its reference: pure functions of log-probabilities, of tokens or of distributions.

    from rlhf.regularizers import full_kl, js

For a token a drawn from the policy p, with reference q: D = log p(a) - log q(a), u = exp(-D) = q(a) / p(a),
s = softplus, and m = (p + q) / 2. All in nats per token.

The gradient of E[penalty] has two parts: the policy changes which tokens are sampled, E[penalty grad log p(a)], and it
changes the penalty of a sampled token, E[grad penalty]. Placements:
- **reward**: coef x penalty is subtracted at each token, and counts in the returns of the tokens before it. This is the
  first part. In each state it is the gradient of a divergence only where the penalty is that divergence's derivative
  with respect to p(a), whatever the penalty is in expectation.
- **loss**: coef x penalty is added at each token and differentiated. This is the second part, E[penalty'(D) grad D].
- **both**: the whole gradient of the penalty's expectation, summed over whole responses.

docs/regularizers.md says what each placement does in practice, and `rlhf.config.rl.followed` what it follows.

Sources: arXiv 2309.09055 (the paper), its code for the forms that it names; J. Schulman, "Approximating KL divergence"
(k1 to k3); arXiv 2510.01555 and 2512.21852 (the gradients by placement); arXiv 2506.09477 (whole responses); arXiv
2504.10637 (exact per-state terms).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Logprobs = Float[Tensor, "*tokens"]
Penalty = Float[Tensor, "*tokens"]
Distributions = Float[Tensor, "*tokens vocabulary"]

LOG_2 = math.log(2)

# ---- Sampled forms: functions of log p(a) and log q(a) of the sampled token. ---------------------------------------


def none(logprobs: Logprobs, ref_logprobs: Logprobs) -> Penalty:
    """0 everywhere. Also `dropout_only`: the paper's variant that relies on LoRA's dropout in the update."""
    return torch.zeros_like(_log_ratio(logprobs, ref_logprobs))


def kl(logprobs: Logprobs, ref_logprobs: Logprobs) -> Penalty:
    """D (k1). Expectation: KL(p, q), with much variance.

    Reward: the whole gradient of KL(p, q). Loss: an expected gradient of 0, noise alone; a negative control. Both: the
    reward's, with that noise.
    """
    return _log_ratio(logprobs, ref_logprobs)


def clamped_kl(logprobs: Logprobs, ref_logprobs: Logprobs) -> Penalty:
    """max(D, 0). Expectation: more than KL(p, q).

    Reward: the gradient of another divergence, the sum of p log(p/q) - p + q over the tokens with D > 0. Loss: the
    gradient of the total variation distance. Both: the whole gradient of its expectation.
    """
    return _log_ratio(logprobs, ref_logprobs).clamp(min=0)


def squared_error(logprobs: Logprobs, ref_logprobs: Logprobs) -> Penalty:
    """D^2 / 2 (k2). Expectation: KL(p, q) to second order in D.

    Reward: biased, without a pull near the reference. Loss: exactly the gradient of KL(p, q) in each state. Both: the
    whole gradient of its expectation.
    """
    return _log_ratio(logprobs, ref_logprobs).square() / 2


def bregman(logprobs: Logprobs, ref_logprobs: Logprobs) -> Penalty:
    """u - 1 + D (k3). Expectation: KL(p, q); never negative, with a heavy tail where q is far larger than p.

    Reward: the gradient of KL(p, q) - KL(q, p), without a pull near the reference. Loss: exactly the gradient of
    KL(q, p) in each state. Both: the whole gradient of KL(p, q).
    """
    log_ratio = _log_ratio(logprobs, ref_logprobs)
    return torch.expm1(-log_ratio) + log_ratio


def js(logprobs: Logprobs, ref_logprobs: Logprobs) -> Penalty:
    """(log 2 - s(-|D|)) / 2 = (max(log p/m, 0) + max(log q/m, 0)) / 2, the paper's form, as published.

    At most (log 2) / 2, and even in D: it taxes a token that the policy has made rarer like one made likelier. Its
    expectation is not the Jensen-Shannon divergence: larger near the reference, smaller far from it.
    Reward: biased, without a pull near the reference. Loss: refused, its gradient follows no divergence. Both: the
    whole gradient of its expectation.
    """
    return (LOG_2 - F.softplus(-_log_ratio(logprobs, ref_logprobs).abs())) / 2


def js_unbiased(logprobs: Logprobs, ref_logprobs: Logprobs) -> Penalty:
    """(log 2 - s(-D)) / 2 + u (log 2 - s(D)) / 2. Expectation: JS(p, q), which it estimates without bias.

    Reward: biased, without a pull near the reference: an estimator of a divergence is not its derivative. Loss: biased,
    right to first order near the reference. Both: the whole gradient of JS(p, q).
    """
    log_ratio = _log_ratio(logprobs, ref_logprobs)
    return (LOG_2 - F.softplus(-log_ratio) + torch.exp(-log_ratio) * (LOG_2 - F.softplus(log_ratio))) / 2


def js_exact(logprobs: Logprobs, ref_logprobs: Logprobs) -> Penalty:
    """(log 2 - s(-D)) / 2 = log(p/m) / 2, signed. Expectation: KL(p, m) / 2, the policy's half of JS(p, q).

    Reward: exactly the gradient of JS(p, q) in each state; in the states that follow its expectation counts, which is
    half of that near the reference. Loss: refused, its gradient is that of -KL(q, m) / 2. Both: the whole gradient of
    KL(p, m) / 2.
    """
    return (LOG_2 - F.softplus(-_log_ratio(logprobs, ref_logprobs))) / 2


def forward_kl(logprobs: Logprobs, ref_logprobs: Logprobs) -> Penalty:
    """1 - u. Expectation: 0, so it taxes no length; heavy tail where q is far larger than p.

    Reward: exactly the gradient of KL(q, p) in each state. Loss: refused, its gradient is that of -KL(q, p). Both: an
    expected gradient of 0, noise alone, since the parts cancel.
    """
    return -torch.expm1(-_log_ratio(logprobs, ref_logprobs))


def negative_kl(logprobs: Logprobs, ref_logprobs: Logprobs) -> Penalty:
    """-D. Expectation: -KL(p, q): a bonus for leaving the reference, the paper's control.

    Reward: the whole gradient of -KL(p, q). Loss: refused, its expected gradient is 0. Both: the reward's, with more
    noise.
    """
    return -_log_ratio(logprobs, ref_logprobs)


# ---- Full-vocabulary forms: functions of log p and log q at every token, exact in each state. ----------------------
#
# In the loss they move the policy in the states it has reached, and ignore how its choices lead to others. As a reward
# they are the same for every action in a state, and count for the choices before it alone. `both` is the whole: the
# gradient of the states' divergences summed over a response, without the noise of the sampled token. For full_kl that
# sum is the KL of whole responses (arXiv 2504.10637).


def full_kl(logprobs: Distributions, ref_logprobs: Distributions) -> Penalty:
    """KL(p, q) = sum p (log p - log q): what `true KL` means everywhere here."""
    return (logprobs.exp() * (logprobs - ref_logprobs)).sum(-1)


def full_forward_kl(logprobs: Distributions, ref_logprobs: Distributions) -> Penalty:
    """KL(q, p) = sum q (log q - log p)."""
    return full_kl(ref_logprobs, logprobs)


def full_js(logprobs: Distributions, ref_logprobs: Distributions) -> Penalty:
    """JS(p, q) = (KL(p, m) + KL(q, m)) / 2, at most log 2."""
    mixture = torch.logaddexp(logprobs, ref_logprobs) - LOG_2
    return (full_kl(logprobs, mixture) + full_kl(ref_logprobs, mixture)) / 2


def full_alpha(logprobs: Distributions, ref_logprobs: Distributions, alpha: float) -> Penalty:
    """(1 - sum p^alpha q^(1 - alpha)) / (alpha (1 - alpha)), Amari's divergence: KL(p, q) at 1, KL(q, p) at 0.

    At 1/2 it is four times the squared Hellinger distance. Between, it ranges from covering q to seeking its modes.
    """
    if alpha in (0.0, 1.0):
        return full_kl(logprobs, ref_logprobs) if alpha == 1 else full_forward_kl(logprobs, ref_logprobs)
    overlap = torch.logsumexp(alpha * logprobs + (1 - alpha) * ref_logprobs, dim=-1)
    return -torch.expm1(overlap) / (alpha * (1 - alpha))


def entropy(logprobs: Distributions) -> Float[Tensor, "*tokens"]:
    """-sum p log p: not a penalty but a bonus, `ppo.entropy_coef` (arXiv 1707.06347, equation 9)."""
    return -(logprobs.exp() * logprobs).sum(-1)


def _log_ratio(logprobs: Logprobs, ref_logprobs: Logprobs) -> Float[Tensor, "*tokens"]:
    """D, in float32 at least: bfloat16 has three digits, and exp(-D) overflows in float16."""
    dtype = torch.promote_types(logprobs.dtype, torch.float32)
    return logprobs.to(dtype) - ref_logprobs.to(dtype)


# ---- By name. ----------------------------------------------------------------------------------------------------

SampledForm = Callable[[Logprobs, Logprobs], Penalty]
FullForm = Callable[[Distributions, Distributions], Penalty]

SAMPLED_FORMS: dict[str, SampledForm] = {
    "none": none,
    "dropout_only": none,
    "kl": kl,
    "clamped_kl": clamped_kl,
    "squared_error": squared_error,
    "bregman": bregman,
    "js": js,
    "js_unbiased": js_unbiased,
    "js_exact": js_exact,
    "forward_kl": forward_kl,
    "negative_kl": negative_kl,
}
FULL_FORMS: dict[str, Callable[..., Penalty]] = {
    "full_kl": full_kl,
    "full_forward_kl": full_forward_kl,
    "full_js": full_js,
    "full_alpha": full_alpha,
}
