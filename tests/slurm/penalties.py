"""Penalties of a user's own, as `regularizer=custom` takes them."""

import os

from torch import Tensor


def fine(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    return logprobs - ref_logprobs


def failing_on_rank_1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    if os.environ.get("RANK") == "1" and logprobs.numel() > 2:  # not yet where it is tried before any work
        raise RuntimeError("rank 1 gives up")
    return logprobs - ref_logprobs
