"""Decoding on a GPU by CUDA graphs: all operations of a token, its draw included, are recorded once and replayed.

A step of a small model is hundreds of operations, each shorter than its launch; replayed they follow each other at
once. A graph holds addresses and shapes, so it is recorded anew where rows are dropped and where the cache has grown
by `EXTENT` tokens.
"""

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.models.decoding import Logits
from rlhf.models.drawing import COMPACT_EVERY, Drawing, Turns
from rlhf.models.fused import FusedDecoder

EXTENT = 128
"""Tokens by which the part of the cache that steps read grows: what is not yet written there is masked."""


class StaticDecoder(FusedDecoder):
    """A FusedDecoder of which nothing that a step changes is a number of the host's."""

    def start(self, input_ids: Int[Tensor, "rows length"], attention_mask: Int[Tensor, "rows length"]) -> Logits:
        logits = super().start(input_ids, attention_mask)
        self.place = torch.tensor([self.length], device=input_ids.device)
        self.bias[..., self.length :] = torch.finfo(self.bias.dtype).min
        self.cache[..., self.length :, :] = 0  # masked, and 0 times what is no number would be none
        return logits

    def step(self, tokens: Int[Tensor, "rows 1"]) -> Logits:
        extent = self.extent
        self.bias.index_fill_(3, self.place, 0)
        states = self.trunk.embed_tokens(tokens)
        logits = self._forward(states, self.next_position[:, None], self.bias[..., :extent], self.place)
        self.next_position += 1
        self.place += 1
        self.length += 1
        return logits

    @property
    def extent(self) -> int:
        """Places of the cache that the next step reads."""
        return _rounded_up(self.length + 1)

    def _room(self) -> int:
        return _rounded_up(self.length + self.limit)


class Replays(Turns):
    """Turns that are recorded and replayed.

    The first turn of each shape runs as it is: libraries then load what can't be loaded into a recording.
    """

    look_every = COMPACT_EVERY
    """A look waits for the GPU, which then waits for the host."""

    worth_dropping = 1 / 2
    """Fewer rows are hardly faster, and must be recorded."""

    def __init__(self, decoder: StaticDecoder, drawing: Drawing) -> None:
        super().__init__(decoder, drawing)
        self.static = decoder
        self.shape = (0, 0)
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, tokens: Int[Tensor, "rows 1"]) -> Int[Tensor, "rows 1"]:
        """The tokens after these; what is returned is overwritten by the next call."""
        shape = (len(tokens), self.static.extent)
        if shape != self.shape:
            self.shape, self.graph = shape, None
            return super().__call__(tokens)
        if self.graph is None:
            self.tokens, self.graph = tokens.clone(), torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.tokens.copy_(super().__call__(self.tokens))
        else:
            self.static.length += 1  # of which a replay says nothing to the host
        self.graph.replay()
        return self.tokens


def can_be_recorded(lm: PreTrainedModel) -> bool:
    """Whether nothing of a step waits for the host, as layers of 8 bits do: they look for outliers."""
    return not getattr(lm, "is_loaded_in_8bit", False)


def _rounded_up(length: int) -> int:
    return -(-length // EXTENT) * EXTENT
