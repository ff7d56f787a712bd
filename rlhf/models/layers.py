"""Layers of causal LMs of all families: where families differ, gradient checkpointing, and sharding over ranks."""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from rlhf.process.distributed import Ranks

Contexts = Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]
"""Called as a layer runs: what its forward pass runs in, and what it is computed again in."""


def attention_layers(lm: PreTrainedModel) -> list[str]:
    """Names by which peft finds the linear layers of attention in any family; `lm` carries no adapter yet.

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


def module_names(lm: PreTrainedModel) -> list[str]:
    """Paths of the linear layers that an adapter can be on, those of a base with adapters as they were before."""
    wrapped = (path for path, layer in lm.named_modules() if isinstance(layer, (nn.Linear, Conv1D)))
    plain = (re.sub(r"\.(base_layer|lora_[A-Z]\w*\..*)$", "", path) for path in wrapped)
    head = lm.get_output_embeddings()
    return list(dict.fromkeys(path for path in plain if lm.get_submodule(path) is not head))


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


def state_width(lm: PreTrainedModel) -> int:
    """Numbers in a last hidden state: what the output head reads, which OPT-350M's config.hidden_size is not."""
    head = lm.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    return head.in_features


def position_limit(model: nn.Module, shape: PreTrainedConfig) -> int | None:
    """The longest sequence that a model has positions for, in tokens; None where any length has (ALiBi, recurrence).

    RoBERTa's positions begin behind the id of its padding, so that it has fewer than rows of them.
    """
    text = shape.get_text_config()
    names = ("max_position_embeddings", "max_seq_len", "n_positions")  # MPT's is the second
    limits = [limit for name in names if (limit := getattr(text, name, None)) is not None and limit > 0][:1]
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Embedding) and name.endswith("position_embeddings") and layer.padding_idx is not None:
            limits.append(layer.num_embeddings - layer.padding_idx - 1)
    return min(limits, default=None)


def room(lm: PreTrainedModel) -> int:
    """The longest sequence, in tokens; a number beyond any without a limit."""
    limit = position_limit(lm, lm.config)
    return sys.maxsize if limit is None else limit


def reads_padded(lm: PreTrainedModel) -> bool:
    """Whether a family masks padding out in attention: recurrent ones (Mamba, RWKV) carry it in their states."""
    known = inspect.signature(lm.base_model.forward).parameters
    return "attention_mask" in known and not lm._is_stateful


def leave_out_unknown(lm: PreTrainedModel, known: int) -> None:
    """Give logits for the first `known` ids only: embeddings are often padded with rows that no token stands for."""
    head = lm.get_output_embeddings()
    if isinstance(head, nn.Module) and known < lm.config.get_text_config().vocab_size:
        head.register_forward_hook(lambda module, inputs, logits: logits[..., :known])


def checkpointed_layers(lm: nn.Module) -> list[nn.Module]:
    """The layers that the model's family marks for gradient checkpointing."""
    return [layer for layer in lm.modules() if isinstance(layer, GradientCheckpointingLayer)]


@contextmanager
def recomputed(lm: nn.Module, contexts: Contexts) -> Iterator[None]:
    """Gradient checkpointing inside the block, in evaluation mode too; without gradients it changes nothing."""
    layers = checkpointed_layers(lm) if torch.is_grad_enabled() else []
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, context_fn=contexts)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def shard(lm: PreTrainedModel, device: torch.device, ranks: Ranks) -> PreTrainedModel:
    """The frozen causal LM on `device`, each of its layers divided among the ranks (FSDP2), before it has adapters.

    For a base that does not fit one GPU. What is small stays whole on every rank: embeddings, the head, and adapters,
    which are what is trained. From then on all ranks must call it together, on batches of the same shape.
    """
    mesh = init_device_mesh(device.type, (ranks.size,))
    names = set(lm._no_split_modules or ())
    for layer in [module for module in lm.modules() if type(module).__name__ in names]:
        fully_shard(layer.requires_grad_(False), mesh=mesh, reshard_after_forward=True)
    return lm.to(device)  # pyright: ignore[reportArgumentType]
