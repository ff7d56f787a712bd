"""Where families of causal LMs differ: what attention's layers are called, and what comes after the output head."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D


def attention_layers(lm: PreTrainedModel) -> list[str]:
    """What peft finds the linear layers of attention by, whatever the family calls them; `lm` carries no adapter yet.

    Each name begins with the attention's own, because the feed-forward may use the same ones: GPT-2 has two `c_proj`.
    """
    names: dict[str, None] = {}
    inside: tuple[str, ...] = ()
    for path, block in lm.named_modules():
        if "Attention" not in type(block).__name__ or path.startswith(inside):
            continue
        inside += (f"{path}.",)
        linear = [name for name, layer in block.named_modules() if isinstance(layer, (nn.Linear, Conv1D))]
        names |= dict.fromkeys(f"{path.rsplit('.', 1)[-1]}.{name}" for name in linear)
    return list(names)


def stores_transposed(lm: PreTrainedModel) -> bool:
    """Whether the layers are GPT-2's, whose weights are (in, out)."""
    return any(isinstance(layer, Conv1D) for layer in lm.modules())


def finish_logits(logits: Tensor, config: PreTrainedConfig) -> Tensor:
    """What a model does with its head's output before it calls it logits: nothing, a scale, a soft cap."""
    shape = config.get_text_config()
    if (factor := getattr(shape, "logit_scale", None)) is not None:  # Cohere
        logits = logits * factor
    if (divisor := getattr(shape, "logits_scaling", None)) is not None:  # Granite
        logits = logits / divisor
    if (cap := getattr(shape, "final_logit_softcapping", None)) is not None:  # Gemma
        logits = torch.tanh(logits / cap) * cap
    return logits


def leave_out_unknown(lm: PreTrainedModel, known: int) -> None:
    """Give logits for the first `known` ids only: embeddings are often padded with rows that no token stands for."""
    head = lm.get_output_embeddings()
    if isinstance(head, nn.Module) and known < lm.config.get_text_config().vocab_size:
        head.register_forward_hook(lambda module, inputs, logits: logits[..., :known])
