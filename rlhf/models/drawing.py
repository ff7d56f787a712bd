"""Drawing tokens from logits by numbers of chance that were drawn beforehand, one for each token of each response."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlhf.models.decoding import Decoder

COMPACT_EVERY = 4
"""Tokens between looks for rows to drop."""


class Drawing:
    """What has been drawn for the rows of a batch; the host reads nothing in `draw`, so a CUDA graph can hold it."""

    def __init__(
        self,
        chance: Float[Tensor, "rows limit"],
        temperature: float,
        eos_id: int,
        agree: Callable[[Tensor], Tensor],
    ) -> None:
        """`agree` gives the tokens of one rank to all of them."""
        self.chance, self.temperature, self.eos_id, self.agree = chance, temperature, eos_id, agree
        self.drawn = torch.full(chance.shape, eos_id, device=chance.device)
        self.rows = torch.arange(len(chance), device=chance.device)
        self.going = torch.ones_like(self.rows, dtype=torch.bool)
        self.count = self.rows.new_zeros(1)

    def draw(self, logits: Float[Tensor, "rows vocabulary"]) -> Int[Tensor, "rows 1"]:
        """Return each row's next token, and remember it and which rows go on."""
        tokens = self.agree(draw_tokens(logits, self.temperature, self.chance[self.rows, self.count]))
        self.drawn[self.rows, self.count] = tokens[:, 0]
        self.going &= tokens[:, 0] != self.eos_id
        self.count += 1
        return tokens

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these rows alone."""
        self.rows, self.going = self.rows[rows], self.going[rows]

    def responses(self) -> list[list[int]]:
        """Each response's tokens up to EOS."""
        return [up_to(self.eos_id, row) for row in self.drawn.tolist()]


class Turns:
    """Turns of a decoder and a drawing, each a step of all rows and a draw."""

    look_every = 1
    """Tokens between looks whether any row goes on."""

    worth_dropping = 1 / 8
    """The share of rows that must have finished for the others to go on in a smaller batch."""

    def __init__(self, decoder: Decoder, drawing: Drawing) -> None:
        self.decoder, self.drawing = decoder, drawing

    def __call__(self, tokens: Int[Tensor, "rows 1"]) -> Int[Tensor, "rows 1"]:
        """The tokens after these."""
        return self.drawing.draw(self.decoder.step(tokens))


def up_to(eos_id: int, token_ids: list[int]) -> list[int]:
    """The tokens until EOS, which is among them; all where there is none."""
    return token_ids[: token_ids.index(eos_id) + 1] if eos_id in token_ids else token_ids


def draw_tokens(
    logits: Float[Tensor, "rows vocabulary"], temperature: float, chance: Float[Tensor, " rows"]
) -> Int[Tensor, "rows 1"]:
    """A token per row, where its number of `chance`, uniform in [0, 1), falls in the cumulative distribution.

    At temperature 0 the likeliest.
    """
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    cumulative = (logits / temperature).softmax(-1).cumsum(-1)
    total = cumulative[:, -1:]
    below = torch.minimum(chance[:, None] * total, total.nextafter(torch.zeros_like(total)))  # the product may round up
    return torch.searchsorted(cumulative, below, right=True)
