"""States of torch's global random generators, which dropout and fresh weights draw from: each run has its own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def generator_states() -> list[Tensor]:
    """Return the states of torch's global generators: the CPU's, and the current GPU's where there is one."""
    on_gpu = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *on_gpu]


def set_generator_states(states: list[Tensor]) -> None:
    """Set the global generators to what `generator_states` has returned."""
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Give the global generators back as they were, whatever the block seeds and draws."""
    outside = generator_states()
    try:
        yield
    finally:
        set_generator_states(outside)
