"""Prompts with their responses as tensors: prompts padded on the left, responses on the right.

Lengths are carried in masks made from the token lists themselves, so nothing depends on what the pad token is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf.models.packing import Packing


@dataclass(frozen=True)
class Batch:
    """`prompt_length` columns of prompts, then responses; `mask` is true at a response's real tokens, EOS included."""

    input_ids: Int[Tensor, "batch length"]
    attention_mask: Int[Tensor, "batch length"]
    position_ids: Int[Tensor, "batch length"]
    mask: Bool[Tensor, "batch response"]
    prompt_length: int

    @cached_property
    def packing(self) -> Packing:
        """Its real tokens without the padding, in rows as wide as the longest sequence."""
        return Packing.of(self.input_ids, self.attention_mask)

    @cached_property
    def tight_packing(self) -> Packing:
        """The same in rows that leave less of them empty."""
        return Packing.of(self.input_ids, self.attention_mask, tight=True)

    @property
    def responses(self) -> Int[Tensor, "batch response"]:
        return self.input_ids[:, self.prompt_length :]

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        """Tokens of each response, EOS included."""
        return self.mask.sum(1)

    def before_responses(self, states: Float[Tensor, "batch length *rest"]) -> Float[Tensor, "batch response *rest"]:
        """For each response token, the state just before it: the one that predicts it."""
        return states[:, self.prompt_length - 1 : -1]

    def select(self, rows: Int[Tensor, " rows"]) -> "Batch":
        """Some of the rows, at the same width."""
        names = ("input_ids", "attention_mask", "position_ids", "mask")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


def collate(
    prompts: Sequence[list[int]],
    responses: Sequence[list[int]],
    pad_id: int,
    device: torch.device,
    width: int = 0,
) -> Batch:
    """Token lists as one batch, responses at least `width` wide; no prompt may be empty."""
    width = max(width, *map(len, responses))
    padded = [response + [pad_id] * (width - len(response)) for response in responses]
    real = [[1] * len(response) + [0] * (width - len(response)) for response in responses]
    prompt_ids, prompt_mask = pad_left(prompts, pad_id, device)
    mask = torch.tensor(real, device=device)
    attention_mask = torch.cat([prompt_mask, mask], dim=1)
    input_ids = torch.cat([prompt_ids, torch.tensor(padded, device=device)], dim=1)
    return Batch(input_ids, attention_mask, positions(attention_mask), mask.bool(), prompt_ids.shape[1])


def pad_left(
    prompts: Sequence[list[int]], pad_id: int, device: torch.device
) -> tuple[Int[Tensor, "batch length"], Int[Tensor, "batch length"]]:
    """Token ids and attention mask of prompts that all end in the last column."""
    width = max(map(len, prompts))
    padded = [[pad_id] * (width - len(prompt)) + prompt for prompt in prompts]
    real = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(padded, device=device), torch.tensor(real, device=device)


def positions(attention_mask: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
    """Positions that count real tokens only, so that padding on the left changes nothing."""
    return (attention_mask.cumsum(1) - 1).clamp(min=0)
