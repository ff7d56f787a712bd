"""A base that does not fit one GPU: each rank holds a share of every layer, and the layers are put together as needed.

Adapters, embeddings and the head stay whole on every rank: they are small, and the adapters are what is trained.
"""

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from rlhf.process.distributed import Ranks


def shard(lm: PreTrainedModel, device: torch.device, ranks: Ranks) -> PreTrainedModel:
    """The frozen causal LM on `device`, its layers divided among the ranks; before any adapter is put on it.

    From then on all ranks must call it together, on batches of the same shape.
    """
    mesh = init_device_mesh(device.type, (ranks.size,))
    names = set(lm._no_split_modules or ())
    for layer in [module for module in lm.modules() if type(module).__name__ in names]:
        fully_shard(layer.requires_grad_(False), mesh=mesh, reshard_after_forward=True)
    return lm.to(device)  # pyright: ignore[reportArgumentType]
