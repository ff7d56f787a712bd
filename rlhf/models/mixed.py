"""Frozen linear layers in bfloat16 between states in float32: model.dtype=mixed.

Processors with bfloat16 products multiply up to twice as fast, and what lies between (norms, attention, the residual
stream, adapters, logits) stays as exact as in float32. On a CPU a model wholly in bfloat16 is slower than in float32.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.errors import ConfigError


class MixedLinear(nn.Linear):
    """A linear layer whose weight may be of another dtype than the states that it reads and gives."""

    def forward(self, states: Float[Tensor, "*tokens inputs"]) -> Float[Tensor, "*tokens outputs"]:
        return mixed_linear(states, self.weight, self.bias)


def mixed_linear(
    states: Float[Tensor, "*tokens inputs"], weight: Float[Tensor, "outputs inputs"], bias: Tensor | None
) -> Float[Tensor, "*tokens outputs"]:
    """The product in the weight's dtype, what comes of it in the states'; the bias is added there."""
    if weight.dtype == states.dtype:
        return F.linear(states, weight, bias)
    found = F.linear(states.to(weight.dtype), weight).to(states.dtype)
    return found if bias is None else found + bias


def mix(lm: PreTrainedModel) -> None:
    """Hold the trunk's linear layers in bfloat16; raises ConfigError where the model has none of its own.

    Embeddings and the output head stay as they are: they may be the same weights, and logits are compared closely.
    """
    plain = [(path, layer) for path, layer in lm.base_model.named_modules() if type(layer) is nn.Linear]
    if not plain:
        raise ConfigError(
            f"model.dtype=mixed is not allowed: {type(lm).__name__} has no plain linear layers; "
            "use model.dtype=float32 or bfloat16"
        )
    for path, layer in plain:
        with torch.device("meta"):
            mixed = MixedLinear(layer.in_features, layer.out_features, bias=False)
        mixed.weight = nn.Parameter(layer.weight.to(torch.bfloat16), requires_grad=False)
        mixed.bias = layer.bias
        lm.base_model.set_submodule(path, mixed)
