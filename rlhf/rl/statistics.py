"""Log-probabilities of response tokens, and the exact divergence and entropy at each.

Only real response tokens are computed; without gradients some hundreds at a time, so that the logits of a batch never
exist at once.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf.models.adapters import Role
from rlhf.models.batch import Batch

CHUNK = 512
"""Tokens whose logits exist at once: 512 x 32000 in float32 are 66 MB."""

Tokens = Float[Tensor, "batch response"]


class TokenStatistics(NamedTuple):
    """In nats per response token, 0 off the mask; `kl`, exact, is KL(policy, reference), `entropy` the policy's."""

    logprobs: Tokens
    ref_logprobs: Tokens
    kl: Tokens
    entropy: Tokens


def token_logprobs(
    role: Role, states: Float[Tensor, "batch response hidden"], batch: Batch, temperature: float
) -> Tokens:
    """Log-probability of each response token, given the states before it; differentiable."""
    logprobs = _log_softmax(role, states[batch.mask], temperature)
    return spread(_pick(logprobs, batch.responses[batch.mask]), batch.mask)


@torch.no_grad()
def token_statistics(
    policy: Role, reference: Role, batch: Batch, temperature: float
) -> tuple[TokenStatistics, Float[Tensor, "batch response hidden"]]:
    """The statistics, in one pass of each role; and the policy's states before each response token. No gradients."""
    policy_states = batch.before_responses(policy.hidden(batch))
    states = policy_states[batch.mask]
    ref_states = batch.before_responses(reference.hidden(batch))[batch.mask]
    tokens = batch.responses[batch.mask]
    chunks = []
    for start in range(0, len(tokens), CHUNK):
        part = slice(start, start + CHUNK)
        logprobs = _log_softmax(policy, states[part], temperature)
        ref_logprobs = _log_softmax(reference, ref_states[part], temperature)
        picked = (_pick(logprobs, tokens[part]), _pick(ref_logprobs, tokens[part]))
        chunks.append(torch.stack([*picked, exact_kl(logprobs, ref_logprobs), exact_entropy(logprobs)]))
    statistics = TokenStatistics(*(spread(row, batch.mask) for row in torch.cat(chunks, dim=1)))
    return statistics, policy_states


def exact_kl(
    logprobs: Float[Tensor, "tokens vocabulary"], ref_logprobs: Float[Tensor, "tokens vocabulary"]
) -> Float[Tensor, " tokens"]:
    """KL(policy, reference) of each row, summed over the vocabulary."""
    return (logprobs.exp() * (logprobs - ref_logprobs)).sum(-1)


def exact_entropy(logprobs: Float[Tensor, "tokens vocabulary"]) -> Float[Tensor, " tokens"]:
    return -(logprobs.exp() * logprobs).sum(-1)


def spread(values: Float[Tensor, " tokens"], mask: Bool[Tensor, "batch response"]) -> Tokens:
    """Values of the real tokens, row by row, back in their places; 0 elsewhere. Differentiable."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def _log_softmax(
    role: Role, states: Float[Tensor, "tokens hidden"], temperature: float
) -> Float[Tensor, "tokens vocabulary"]:
    return (role.logits(states) / temperature).log_softmax(-1)


def _pick(logprobs: Float[Tensor, "tokens vocabulary"], tokens: Int[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    return logprobs.gather(-1, tokens[:, None]).squeeze(-1)
