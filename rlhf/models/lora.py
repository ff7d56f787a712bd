"""LoRA on a frozen linear layer in few operations; the numbers are peft's up to the order of sums.

peft multiplies an adapter beside its layer, in five operations that each pass over all states. Here the adapter is
merged into the weight for as long as the layer runs, where the states hold more numbers than that, or else added in
place to the layer's product. Of other adapters and layers (DoRA, dropout that is on, few bits, GPT-2's transposed
weights, states in 16 bits) peft's own forward pass goes on.
"""

from types import MethodType
from typing import Any

import torch
from jaxtyping import Float
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from rlhf.models.precision import MixedLinear, mixed_linear

EXACT = (torch.float32, torch.float64)
"""Formats of states in which the order of sums does not matter; an adapter merged in 16 bits would be rounded."""


def base_of(layer: nn.Module) -> Any:
    """The frozen layer below the adapters."""
    return layer.base_layer if isinstance(layer, LoraLinear) else layer


def adapters_on(layer: Any) -> list[str]:
    """The active adapters with weights in this layer: another role's may be all that is there."""
    if not isinstance(layer, LoraLinear) or layer.disable_adapters:
        return []
    return [name for name in layer.active_adapters if name in layer.lora_A]


def is_plain(layer: nn.Module) -> bool:
    """A plain linear layer, or one with plain LoRA on it; not a quantized one, nor one with DoRA on."""
    plain = type(base_of(layer)) in (nn.Linear, MixedLinear)
    return plain and (layer is base_of(layer) or (type(layer) is LoraLinear and not layer.lora_variant))


def merged(
    weight: Float[Tensor, "outputs inputs"],
    down: Float[Tensor, "rank inputs"],
    up: Float[Tensor, "outputs rank"],
    scale: float,
) -> Float[Tensor, "outputs inputs"]:
    """A weight with its adapter added."""
    return torch.addmm(weight, up, down, alpha=scale)


def quicken(layer: nn.Module) -> None:
    """Have a layer with adapters run as said above."""
    if type(layer) is LoraLinear and type(layer.base_layer) in (nn.Linear, MixedLinear):
        layer.forward = MethodType(_forward, layer)


def _forward(self: LoraLinear, states: Float[Tensor, "*tokens inputs"], *given: Any, **named: Any) -> Tensor:
    names = adapters_on(self)
    if not names:
        return self.base_layer(states)
    if len(names) > 1 or given or named or not _is_exact(self, states, names[0]):
        return LoraLinear.forward(self, states, *given, **named)
    base, name = self.base_layer, names[0]
    factors = self.lora_A[name].weight, self.lora_B[name].weight
    found = _Adapted.apply(states.flatten(0, -2), base.weight, base.bias, *factors, self.scaling[name])
    return found.unflatten(0, states.shape[:-1])  # pyright: ignore[reportOptionalMemberAccess]


def _is_exact(layer: LoraLinear, states: Tensor, name: str) -> bool:
    drops = layer.training and isinstance(layer.lora_dropout[name], nn.Dropout)
    return is_plain(layer) and not drops and states.dtype in EXACT and layer.lora_A[name].weight.dtype == states.dtype


def merges(states: Float[Tensor, "tokens inputs"], weight: Float[Tensor, "outputs inputs"]) -> bool:
    """Whether merging costs less: it passes over the weight, and what it spares over the layer's input and output."""
    return weight.dtype == states.dtype and len(states) * sum(weight.shape) > 2 * weight.numel()


class _Adapted(torch.autograd.Function):
    """states (W + scale B A)^T + bias, where W and bias are frozen."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(states, weight, down, up)
        ctx.scale = scale
        if merges(states, weight):
            return mixed_linear(states, merged(weight, down, up, scale), bias)
        return mixed_linear(states, weight, bias).addmm_(states @ down.T, up.T, alpha=scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (states, weight, down, up), (above,), scale = ctx.saved_tensors, gradients, ctx.scale
        below = up.T @ above.T  # such thin products are fastest with their rank first
        down_gradient = (below @ states).mul_(scale)
        up_gradient = ((down @ states.T) @ above).mul_(scale).T
        through = None
        if ctx.needs_input_grad[0] and merges(states, weight):
            through = above @ merged(weight, down, up, scale)
        elif ctx.needs_input_grad[0]:
            product = (above.to(weight.dtype) @ weight).to(above.dtype)
            through = product.addmm_(below.T, down, alpha=scale)
        return through, None, None, down_gradient, up_gradient, None
