"""Log-probabilities of response tokens, and the exact divergences and entropy at each.

Only real response tokens are computed, some at a time, so that the logits of a batch never exist at once: with
gradients, each chunk's are computed again in the backward pass.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlhf.models.adapters import Role
from rlhf.models.batch import Batch
from rlhf.rl.regularizer import FullForm, entropy, full_kl

CHUNK = 2**24
"""Logits that exist at once: 64 MiB in float32, of 512 tokens with a vocabulary of 32768."""

Tokens = Float[Tensor, "batch response"]
States = Float[Tensor, "batch response hidden"]
Distributions = Float[Tensor, "tokens vocabulary"]


def token_logprobs(role: Role, states: States, batch: Batch, temperature: float) -> Tokens:
    """Log-probability of each response token, given the states before it; differentiable."""

    def rows(states: Tensor, tokens: Tensor) -> Float[Tensor, "1 tokens"]:
        return pick(log_softmax(role, states, temperature), tokens)[None]

    inputs = [values[batch.mask] for values in (states, batch.responses)]
    return spread(in_chunks(rows, inputs, chunk_tokens(role))[0], batch.mask)


class TokenStatistics(NamedTuple):
    """In nats per response token, 0 off the mask; `kl`, exact, is KL(policy, reference), `entropy` the policy's.

    `divergence` is the full-vocabulary regularizer's, 0 where there is none.
    """

    logprobs: Tokens
    ref_logprobs: Tokens
    kl: Tokens
    entropy: Tokens
    divergence: Tokens


class TokenTerms(NamedTuple):
    """What a loss is made of, differentiable, 0 off the mask and where it was not asked for."""

    logprobs: Tokens
    divergence: Tokens
    entropy: Tokens


@torch.no_grad()
def token_statistics(
    policy: Role, reference: Role, batch: Batch, temperature: float, full: FullForm | None = None
) -> tuple[TokenStatistics, States, States]:
    """The statistics, in one pass of each role; and policy's and reference's states before each response token."""
    policy_states = batch.before_responses(policy.hidden(batch))
    ref_states = batch.before_responses(reference.hidden(batch))

    def rows(states: Tensor, ref: Tensor, tokens: Tensor) -> Float[Tensor, "statistics tokens"]:
        logprobs, ref_logprobs = log_softmax(policy, states, temperature), log_softmax(reference, ref, temperature)
        picked = [pick(logprobs, tokens), pick(ref_logprobs, tokens)]
        exact = [full_kl(logprobs, ref_logprobs), entropy(logprobs)]
        return torch.stack([*picked, *exact, full(logprobs, ref_logprobs) if full else torch.zeros_like(exact[0])])

    inputs = [values[batch.mask] for values in (policy_states, ref_states, batch.responses)]
    found = in_chunks(rows, inputs, chunk_tokens(policy))
    return TokenStatistics(*(spread(row, batch.mask) for row in found)), policy_states, ref_states


def token_terms(
    policy: Role,
    reference: Role,
    states: States,
    ref_states: Float[Tensor, "batch response ref_hidden"],
    batch: Batch,
    temperature: float,
    full: FullForm | None = None,
    with_entropy: bool = False,
) -> TokenTerms:
    """Of each response token, given the states before it; `ref_states` are read for `full` only, and not changed."""

    def rows(states: Tensor, ref: Tensor, tokens: Tensor) -> Float[Tensor, "terms tokens"]:
        logprobs = log_softmax(policy, states, temperature)
        nothing = torch.zeros_like(logprobs[:, 0])
        divergence = full(logprobs, log_softmax(reference, ref, temperature).detach()) if full else nothing
        return torch.stack([pick(logprobs, tokens), divergence, entropy(logprobs) if with_entropy else nothing])

    inputs = [values[batch.mask] for values in (states, ref_states, batch.responses)]
    found = in_chunks(rows, inputs, chunk_tokens(policy))
    return TokenTerms(*(spread(row, batch.mask) for row in found))


def in_chunks(
    function: Callable[..., Float[Tensor, "rows tokens"]], inputs: list[Tensor], size: int
) -> Float[Tensor, "rows tokens"]:
    """`function` of `size` tokens at a time; where there are several chunks, keeping nothing for the backward pass."""
    if len(inputs[0]) <= size:
        return function(*inputs)
    parts = zip(*(values.split(size) for values in inputs), strict=True)
    results = [checkpoint(function, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.cat(results, dim=1)  # pyright: ignore[reportArgumentType]


def chunk_tokens(role: Role) -> int:
    """How many tokens' logits may exist at once."""
    return max(1, CHUNK // role.lm.config.vocab_size)


def spread(values: Float[Tensor, " tokens"], mask: Bool[Tensor, "batch response"]) -> Tokens:
    """Values of the real tokens, row by row, back in their places; 0 elsewhere. Differentiable."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(mask, values)


def log_softmax(role: Role, states: Float[Tensor, "tokens hidden"], temperature: float) -> Distributions:
    """Log-probabilities of every word of the vocabulary after each state, in float32."""
    logits = role.logits(states)
    return (logits if temperature == 1.0 else logits / temperature).log_softmax(-1)


def pick(logprobs: Distributions, tokens: Int[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Those of the tokens that were sampled."""
    return logprobs.gather(-1, tokens[:, None]).squeeze(-1)
