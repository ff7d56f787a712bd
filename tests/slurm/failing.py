"""A penalty that fails on one rank alone."""

import os

from torch import Tensor


def on_rank_1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    if os.environ.get("RANK") == "1" and len(logprobs) > 1:  # what tries it before any work has a single row
        raise RuntimeError("rank 1 gives up")
    return logprobs - ref_logprobs
