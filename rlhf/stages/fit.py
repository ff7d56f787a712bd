"""The one loop of supervised training: AdamW, a linear warm-up and decay, gradients clipped to norm 1.

It saves its state as it goes, and goes on from the last one; it stops where the loss or a weight is no number.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from itertools import islice
from random import Random
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import get_linear_schedule_with_warmup

from rlhf.console import Track
from rlhf.errors import CheckError
from rlhf.models.randomness import generator_states, set_generator_states
from rlhf.stages.checks import check_finite
from rlhf.stages.progress import NOT_KEPT, Progress

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


class Fit:
    """The state of supervised training: weights, optimizer, schedule, and the losses so far."""

    def __init__(self, weights: list[nn.Parameter], steps: int, optimization: Optimization) -> None:
        decay = optimization.weight_decay
        self.weights, self.losses = weights, list[float]()
        self.optimizer = torch.optim.AdamW(weights, lr=optimization.lr, weight_decay=decay, betas=(0.9, 0.98))
        self.schedule = get_linear_schedule_with_warmup(self.optimizer, optimization.warmup_steps, steps)

    def step(self, losses: Iterable[Float[Tensor, ""]]) -> None:
        """Take one step down the gradient of the sum of `losses`, each computed after the one before is forgotten."""
        total = 0.0
        for loss in losses:
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.losses.append(total)

    def state(self) -> dict[str, Any]:
        """All that the following steps depend on."""
        return self.result() | {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}

    def result(self) -> dict[str, Any]:
        """What is left to go on from when all steps are taken."""
        weights = [weight.detach() for weight in self.weights]
        steps = {"step": len(self.losses), "losses": self.losses}
        return steps | {"weights": weights, "generators": generator_states()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` or `result` has returned."""
        with torch.no_grad():
            for weight, saved in zip(self.weights, state["weights"], strict=True):
                weight.copy_(saved)
        self.losses = state["losses"]
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
        set_generator_states(state["generators"])


def fit(
    weights: list[nn.Parameter],
    batches: Iterable[Item],
    steps: int,
    losses: Callable[[Item], Iterable[Float[Tensor, ""]]],
    optimization: Optimization,
    section: str,
    progress: Progress = NOT_KEPT,
) -> float:
    """Train `weights` on `steps` batches, from what `progress` knows on; returns the mean loss of the last tenth.

    The loss of a batch is the sum of its `losses`, one for each micro-batch. `section` holds the `optimization`. Raises
    CheckError where training has diverged, Preempted, after saving, where a signal has asked to stop.
    """
    state = Fit(weights, steps, optimization)
    if progress.training is not None:
        state.load(progress.training)
    done, title = len(state.losses), progress.title or section
    advice = f"lower {section}.lr, or look at the data and the weights that it starts from"
    track = Track(islice(batches, done, None), steps, title, done)
    with progress.saver.stop.held() if progress.saver else nullcontext():
        for batch in track:
            state.step(losses(batch))
            last = state.losses[-1]
            check_finite(title, {f"at step {len(state.losses)} the loss": last}, advice)
            track.note(f"loss {last:.3f}")
            progress.boundary(len(state.losses), state.state)
    if not all(weight.isfinite().all() for weight in weights):
        raise CheckError(f"{title} has diverged: at its end a weight is no number; {advice}")
    progress.trained(state.result())
    last = state.losses[-max(1, len(state.losses) // 10) :]
    return sum(last) / len(last)
