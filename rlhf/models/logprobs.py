"""Log-probabilities of response tokens under a role.

Only real response tokens are computed, some at a time, so that the logits of a batch never exist at once: with
gradients, each chunk's are computed again in the backward pass.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlhf.models.adapters import Role
from rlhf.models.batch import Batch

CHUNK = 2**24
"""Logits that exist at once: 64 MiB in float32, of 512 tokens with a vocabulary of 32768."""

Tokens = Float[Tensor, "batch response"]
States = Float[Tensor, "batch response hidden"]
Distributions = Float[Tensor, "tokens vocabulary"]


def token_logprobs(role: Role, states: States, batch: Batch, temperature: float) -> Tokens:
    """Log-probability of each response token, given the states before it; 0 off the mask, differentiable."""

    def rows(states: Tensor, tokens: Tensor) -> Float[Tensor, "1 tokens"]:
        return pick(log_softmax(role, states, temperature), tokens)[None]

    inputs = [values[batch.mask] for values in (states, batch.responses)]
    return spread(in_chunks(rows, inputs, chunk_tokens(role))[0], batch.mask)


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
    return max(1, CHUNK // role.lm.config.get_text_config().vocab_size)


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
