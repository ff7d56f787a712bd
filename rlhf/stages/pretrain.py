"""Pretraining: a model without weights reads the data's documents, packed end to end into blocks."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config.models import ModelConfig, PretrainConfig
from rlhf.config.run import Config
from rlhf.data.encoding import tell_template
from rlhf.data.source import Source
from rlhf.models.backbone import build_backbone, load_backbone, random_backbone, resolve_device, save_backbone
from rlhf.stages.fit import fit
from rlhf.stages.progress import NOT_KEPT, Progress

VERSION = 1


def pretrain(config: Config, source: Source, directory: Path, progress: Progress = NOT_KEPT) -> dict[str, Any]:
    """Build a backbone, train it, and save it with its tokenizer in `directory`; returns its last loss and its size."""
    torch.manual_seed(config.data_seed)
    tokenizer = source.build_tokenizer(config.model.vocab_size)
    lm = build_backbone(config.model, tokenizer, resolve_device(config.device)).train()

    def losses(block: Int[Tensor, "batch length"]) -> Iterator[Tensor]:
        logits = lm(input_ids=block.to(lm.device)).logits
        yield F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), block[:, 1:].flatten().to(lm.device))

    blocks = packed_blocks(source, tokenizer, config.pretrain, Random(f"{config.data_seed}/pretrain"))
    last = fit(list(lm.parameters()), blocks, config.pretrain.steps, losses, config.pretrain, "pretrain", progress)
    save_backbone(lm.eval(), tokenizer, directory)
    return {"loss": last, "weights": lm.num_parameters()}


def load_model(
    config: Config, source: Source, path: str | None, model: ModelConfig, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal LM at `path` as `model` says; or where there is none, random weights, and a tokenizer for the data."""
    if path is not None:
        lm, tokenizer = load_backbone(path, model.dtype, device, model.attention, model.quantization)
        tell_template(tokenizer, getattr(config.data, "template_options", None))
        return lm, tokenizer
    torch.manual_seed(config.data_seed)
    tokenizer = source.build_tokenizer(model.vocab_size)
    return random_backbone(model, tokenizer, device), tokenizer


def packed_blocks(
    source: Source, tokenizer: PreTrainedTokenizerBase, config: PretrainConfig, rng: Random
) -> Iterator[Int[Tensor, "batch length"]]:
    """One tensor of token ids per step, cut from one endless stream of documents."""
    size = config.batch_size * config.block_size
    stream: list[int] = []
    for step in range(config.steps):
        while len(stream) < size:
            document = source.document(rng, step / config.steps)
            token_ids = tokenizer(document, add_special_tokens=False)["input_ids"]
            assert isinstance(token_ids, list)
            stream += token_ids
        yield torch.tensor(stream[:size]).view(config.batch_size, config.block_size)
        stream = stream[size:]
