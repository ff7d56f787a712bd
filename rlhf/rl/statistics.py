"""Exact divergences and entropy at each response token, beside the log-probabilities of the tokens themselves."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.models.adapters import Role
from rlhf.models.batch import Batch
from rlhf.models.logprobs import States, Tokens, chunk_tokens, in_chunks, log_softmax, pick, spread
from rlhf.regularizers import FullForm, entropy, full_kl


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
    policy: Role,
    reference: Role,
    batch: Batch,
    temperature: float,
    full: FullForm | None = None,
    policy_temperature: float | None = None,
) -> tuple[TokenStatistics, States, States]:
    """The statistics, in one pass of each role; and policy's and reference's states before each response token.

    Both are taken at `temperature`, or the policy at one of its own.
    """
    policy_states = batch.before_responses(policy.hidden(batch))
    ref_states = batch.before_responses(reference.hidden(batch))

    def rows(states: Tensor, ref: Tensor, tokens: Tensor) -> Float[Tensor, "statistics tokens"]:
        logprobs = log_softmax(policy, states, policy_temperature or temperature)
        ref_logprobs = log_softmax(reference, ref, temperature)
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
    """Terms of each response token, given the states before it; `ref_states` are constants, read for `full` only."""

    def rows(states: Tensor, ref: Tensor, tokens: Tensor) -> Float[Tensor, "terms tokens"]:
        logprobs = log_softmax(policy, states, temperature)
        nothing = torch.zeros_like(logprobs[:, 0])
        divergence = full(logprobs, log_softmax(reference, ref, temperature).detach()) if full else nothing
        return torch.stack([pick(logprobs, tokens), divergence, entropy(logprobs) if with_entropy else nothing])

    inputs = [values[batch.mask] for values in (states, ref_states, batch.responses)]
    found = in_chunks(rows, inputs, chunk_tokens(policy))
    return TokenTerms(*(spread(row, batch.mask) for row in found))
