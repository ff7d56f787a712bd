"""Number formats: float32, bfloat16, both mixed, and a frozen base in 8 or 4 bits (bitsandbytes).

`mixed` holds frozen linear layers in bfloat16 between states in float32. Processors with bfloat16 products multiply up
to twice as fast, and what lies between (norms, attention, the residual stream, adapters, logits) stays as exact as in
float32. On a CPU a model wholly in bfloat16 is slower than in float32.
"""

import importlib.util

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from rlhf.validate import check

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "mixed": torch.float32}
"""By model.dtype: states between layers, embeddings and heads."""

LINEAR_DTYPES = DTYPES | {"mixed": torch.bfloat16}
"""By model.dtype: the weights of linear layers."""


def quantized(quantization: str | None, dtype: str) -> BitsAndBytesConfig | None:
    """How transformers is to load the linear layers, to compute in `dtype`; raises ConfigError without the library."""
    if quantization is None:
        return None
    allowed = "bitsandbytes is not installed; pip install bitsandbytes, or use quantization=null and dtype=bfloat16"
    check(importlib.util.find_spec("bitsandbytes") is not None, "model.quantization", quantization, allowed)
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[dtype],
    )


class MixedLinear(nn.Linear):
    """A linear layer whose weight may have another dtype than the states that it reads and gives."""

    def forward(self, states: Float[Tensor, "*tokens inputs"]) -> Float[Tensor, "*tokens outputs"]:
        return mixed_linear(states, self.weight, self.bias)


def mixed_linear(
    states: Float[Tensor, "*tokens inputs"], weight: Float[Tensor, "outputs inputs"], bias: Tensor | None
) -> Float[Tensor, "*tokens outputs"]:
    """The product in the weight's dtype, given in the states', where the bias is added."""
    if weight.dtype == states.dtype:
        return F.linear(states, weight, bias)
    found = F.linear(states.to(weight.dtype), weight).to(states.dtype)
    return found if bias is None else found + bias


def mix(lm: PreTrainedModel) -> None:
    """Hold the trunk's linear layers in bfloat16; raises ConfigError where the model has none of its own.

    Embeddings and the output head stay as they are: they may be the same weights, and logits are compared closely.
    """
    plain = [(path, layer) for path, layer in lm.base_model.named_modules() if type(layer) is nn.Linear]
    allowed = f"{type(lm).__name__} has no plain linear layers; use model.dtype=float32 or bfloat16"
    check(len(plain) > 0, "model.dtype", "mixed", allowed)
    for path, layer in plain:
        with torch.device("meta"):
            mixed = MixedLinear(layer.in_features, layer.out_features, bias=False)
        mixed.weight = nn.Parameter(layer.weight.to(torch.bfloat16), requires_grad=False)
        mixed.bias = layer.bias
        lm.base_model.set_submodule(path, mixed)
