"""Gradient checkpointing: a layer keeps its input only, and the backward pass computes it again."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

Contexts = Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]
"""Asked as a layer runs: what it runs in, and what it runs in again."""


def checkpointed_layers(lm: nn.Module) -> list[nn.Module]:
    """The layers that the model's family marks for it."""
    return [layer for layer in lm.modules() if isinstance(layer, GradientCheckpointingLayer)]


@contextmanager
def recomputed(lm: nn.Module, contexts: Contexts) -> Iterator[None]:
    """Inside the block layers keep no activations, in evaluation mode too; without gradients it changes nothing."""
    layers = checkpointed_layers(lm) if torch.is_grad_enabled() else []
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, context_fn=contexts)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
