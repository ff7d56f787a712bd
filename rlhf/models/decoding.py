"""Decoding with a cache, by the model's own forward pass: any model, however it is quantized or sharded."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rlhf.models.batch import positions

Logits = Float[Tensor, "rows vocabulary"]


@runtime_checkable
class Decoder(Protocol):
    """Some rows being decoded; logits are those of each row's next token, in float32."""

    def start(self, input_ids: Int[Tensor, "rows length"], attention_mask: Int[Tensor, "rows length"]) -> Logits:
        """Read the prompts, padded on the left."""
        ...

    def step(self, tokens: Int[Tensor, "rows 1"]) -> Logits:
        """Read one more token of each row."""
        ...

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these rows alone."""
        ...


class ModelDecoder:
    """By the forward pass of transformers, the adapter beside its layer as in training."""

    def __init__(self, lm: PreTrainedModel) -> None:
        self.lm = lm

    def start(self, input_ids: Int[Tensor, "rows length"], attention_mask: Int[Tensor, "rows length"]) -> Logits:
        self.attention_mask, self.position_ids = attention_mask, positions(attention_mask)
        self.cache = DynamicCache(config=self.lm.config)
        return self._forward(input_ids)

    def step(self, tokens: Int[Tensor, "rows 1"]) -> Logits:
        self.position_ids = self.position_ids[:, -1:] + 1
        self.attention_mask = torch.cat([self.attention_mask, torch.ones_like(tokens)], dim=1)
        return self._forward(tokens)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        self.cache.batch_select_indices(rows)  # pyright: ignore[reportArgumentType]
        self.attention_mask, self.position_ids = self.attention_mask[rows], self.position_ids[rows]

    def _forward(self, input_ids: Int[Tensor, "rows new"]) -> Logits:
        output = self.lm(
            input_ids=input_ids,
            attention_mask=self.attention_mask,
            position_ids=self.position_ids,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()
