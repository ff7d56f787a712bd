"""Sequences laid side by side in rows, so that the trunk computes next to no padding.

transformers keeps sequences in one row apart by their positions, which begin at 0 again; it does so where it is given
no attention mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

TOLERANCE, COARSE_TOLERANCE = 1e-3, 5e-2
"""By what share of their size states may differ where a model packs, in float32 and with weights of fewer bits.

Both are far below what mixed sequences would do."""

WIDTHS = 8
"""Widths beside the narrowest that are tried: two sequences a little shorter than the longest may fill one."""

WIDE = 16
"""A slot costs as much as attention to so many times the longest sequence."""


@dataclass(frozen=True)
class Packing:
    """A batch's real tokens in as few rows as hold them.

    Token `sources[i]` of the flattened batch lies at `places[i]` of the flattened rows.
    """

    input_ids: Int[Tensor, "rows width"]
    position_ids: Int[Tensor, "rows width"]
    sources: Int[Tensor, " tokens"]
    places: Int[Tensor, " tokens"]

    @classmethod
    def of(
        cls, input_ids: Int[Tensor, "batch length"], attention_mask: Int[Tensor, "batch length"], tight: bool = False
    ) -> "Packing":
        """Rows as wide as the longest sequence, or where `tight` as `tightest` says.

        The real tokens of a sequence stand next to each other.
        """
        lengths, device = attention_mask.sum(1), input_ids.device
        width, rows, starts = (tightest if tight else narrowest)(lengths.tolist())
        begins = torch.tensor(rows, device=device) * width + torch.tensor(starts, device=device)
        sources = attention_mask.flatten().nonzero()[:, 0]
        within = (attention_mask.cumsum(1) - 1).flatten()[sources]
        places = begins.repeat_interleave(lengths) + within
        packed = input_ids.new_zeros(2, max(rows) + 1, width)  # padding is at position 0, by itself
        packed.flatten(1)[:, places] = torch.stack([input_ids.flatten()[sources], within])
        return cls(packed[0], packed[1], sources, places)

    def unpack(
        self, states: Float[Tensor, "rows width hidden"], shape: torch.Size
    ) -> Float[Tensor, "batch length hidden"]:
        """States of the rows in the batch's places, 0 at its padding; `shape` is (batch, length)."""
        size = states.shape[-1]
        found = states.reshape(-1, size).index_select(0, self.places)
        return states.new_zeros(shape.numel(), size).index_copy(0, self.sources, found).view(*shape, size)


def narrowest(lengths: Sequence[int]) -> tuple[int, list[int], list[int]]:
    """The width of the longest sequence, and for each its row and where in it it starts."""
    return max(lengths), *first_fit(lengths, max(lengths))


def tightest(lengths: Sequence[int]) -> tuple[int, list[int], list[int]]:
    """The width that costs least, up to twice the longest sequence, and for each its row and where in it it starts.

    Cost is slots, times a little more for wide rows, whose attention looks at more of them.
    """
    longest = max(lengths)
    widths = range(longest, 2 * longest + 1, max(1, longest // WIDTHS))
    found = [(width, *first_fit(lengths, width)) for width in widths]
    return min(found, key=lambda fit: (max(fit[1]) + 1) * fit[0] * (WIDE * longest + fit[0]))


def first_fit(lengths: Sequence[int], width: int) -> tuple[list[int], list[int]]:
    """For each sequence its row and where in it it starts: the longest first, each in the first row with room."""
    room: list[int] = []
    rows, starts = [0] * len(lengths), [0] * len(lengths)
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        fitting = (row for row, left in enumerate(room) if left >= lengths[index])
        row = next(fitting, len(room))
        if row == len(room):
            room.append(width)
        rows[index], starts[index] = row, width - room[row]
        room[row] -= lengths[index]
    return rows, starts


@torch.no_grad()
def keeps_apart(lm: PreTrainedModel) -> bool:
    """Whether this model's states of a sequence are the same with others in its row; not all architectures' are."""
    ids = torch.arange(1, 7, device=lm.device) % lm.config.get_text_config().vocab_size
    alone = torch.cat(
        [_states(lm, part[None], torch.arange(len(part), device=lm.device)) for part in ids.split([4, 2])], 1
    )
    positions = torch.tensor([0, 1, 2, 3, 0, 1], device=lm.device)
    together = _states(lm, ids[None], positions)
    coarse = any(weight.element_size() < together.element_size() for weight in lm.parameters())
    return bool((together - alone).norm() <= (COARSE_TOLERANCE if coarse else TOLERANCE) * alone.norm())


def _states(lm: PreTrainedModel, ids: Int[Tensor, "1 tokens"], positions: Int[Tensor, " tokens"]) -> Tensor:
    return lm.base_model(input_ids=ids, position_ids=positions[None], use_cache=False).last_hidden_state.float()
