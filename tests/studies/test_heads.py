"""Heads on made-up states."""

import torch

from studies.heads import States, measure


def test_a_head_learns_what_its_states_tell_and_nothing_of_length() -> None:
    """The better of two has the larger mean state, whatever its length; the last state is noise."""
    generator = torch.Generator().manual_seed(0)

    def states() -> States:
        lengths = torch.randint(5, 50, (2,), generator=generator).float()
        noise = torch.randn(2, 1, generator=generator)
        return States([(0, 1)], lengths, torch.tensor([[1.0], [0.0]]), noise)

    held_out, trained = ([states() for _ in range(40)] for _ in range(2))
    accuracy, correlation = measure(held_out, trained, "mean", rate=0.1, seed=0)
    assert accuracy == 1.0
    assert abs(correlation) < 0.3
    assert 0.2 < measure(held_out, trained, "last_token", rate=0.1, seed=0)[0] < 0.8
