"""The one loop of supervised training: AdamW, a linear warm-up and decay, gradients clipped to norm 1."""

from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import get_linear_schedule_with_warmup

from rlhf.console import Track

Item = TypeVar("Item")


@runtime_checkable
class Optimization(Protocol):
    """What the configurations of pretraining, supervised fine-tuning and reward training have in common."""

    lr: float
    warmup_steps: int
    weight_decay: float


def shuffled_batches(items: Sequence[Item], epochs: int, batch_size: int, rng: Random) -> list[list[Item]]:
    """Each epoch's items in an order of its own, cut into whole batches; what is left over waits for the next epoch."""
    batches = []
    for _ in range(epochs):
        order = rng.sample(items, len(items))
        batches += [order[start : start + batch_size] for start in range(0, len(order) - batch_size + 1, batch_size)]
    return batches


def fit(
    weights: list[nn.Parameter],
    batches: Iterable[Item],
    steps: int,
    loss: Callable[[Item], Float[Tensor, ""]],
    optimization: Optimization,
    title: str,
) -> float:
    """Train `weights` on `steps` batches; returns the mean loss of the last tenth of them."""
    optimizer = torch.optim.AdamW(
        weights, lr=optimization.lr, weight_decay=optimization.weight_decay, betas=(0.9, 0.98)
    )
    schedule = get_linear_schedule_with_warmup(optimizer, optimization.warmup_steps, steps)
    losses: list[float] = []
    track = Track(batches, steps, title)
    for batch in track:
        value = loss(batch)
        value.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(value.item())
        track.note(f"loss {losses[-1]:.3f}")
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)
