from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import pytest
import torch
from torch import nn

from rlhf.stages.fit import fit, shuffled_batches


@dataclass
class Settings:
    lr: float
    warmup_steps: int
    weight_decay: float


def test_fitting_finds_the_least_squares_line() -> None:
    # y = 2 x - 1 exactly, so the loss can fall to 0
    inputs = torch.linspace(-1, 1, 9)
    slope, offset = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def losses(batch: torch.Tensor) -> Iterator[torch.Tensor]:
        for part in batch.split(3):  # micro-batches: their losses add up
            yield (slope * part + offset - (2 * part - 1)).square().mean() / 3

    last = fit([slope, offset], [inputs] * 400, 400, losses, Settings(0.05, 10, 0.0), "line")
    assert slope.item() == pytest.approx(2, abs=0.01)
    assert offset.item() == pytest.approx(-1, abs=0.01)
    assert last < 1e-3


def test_the_loss_returned_is_the_mean_of_the_last_tenth() -> None:
    weight = nn.Parameter(torch.zeros(()))
    # losses 0 to 19 whatever the weight; the last tenth is 18 and 19
    last = fit([weight], range(20), 20, lambda step: [weight * 0 + float(step)], Settings(0.1, 0, 0.0), "steps")
    assert last == pytest.approx(18.5)


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    weight = nn.Parameter(torch.zeros(()))
    seen: list[float] = []

    def losses(step: int) -> list[torch.Tensor]:
        seen.append(weight.item())
        return [weight * 1.0]

    fit([weight], range(4), 4, losses, Settings(0.1, 2, 0.0), "steps")
    seen.append(weight.item())
    moves = [before - after for before, after in pairwise(seen)]
    # Adam moves by the learning rate under a constant gradient: 0, 1/2, 1, 1/2 of 0.1 with two steps of warm-up
    assert moves == pytest.approx([0, 0.05, 0.1, 0.05], abs=1e-6)


def test_gradients_are_clipped_to_norm_1(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = nn.Parameter(torch.zeros(()))
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def recorded(self: torch.optim.AdamW) -> None:
        norms.append(weight.grad.item())
        step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    fit([weight], range(2), 2, lambda step: [weight * 1000.0], Settings(0.1, 0, 0.0), "steps")
    assert norms == pytest.approx([1, 1], rel=1e-4)


def test_each_epoch_shuffles_all_items_into_whole_batches() -> None:
    batches = shuffled_batches(range(7), epochs=3, batch_size=2, rng=Random(0))
    assert [len(batch) for batch in batches] == [2] * 9  # three of two in each epoch, one item left over
    epochs = [[item for batch in batches[start : start + 3] for item in batch] for start in (0, 3, 6)]
    assert all(len(set(epoch)) == 6 and set(epoch) <= set(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
