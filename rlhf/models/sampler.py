"""Sampling responses: one token at a time for all unfinished rows, in float32.

All chance is drawn beforehand, a number for each token of each response. So a response depends on its own row alone,
not on which rows are decoded beside it, or on which rank.
"""

import logging
from collections.abc import Callable, Sequence
from copy import copy
from functools import lru_cache, partial
from typing import Protocol, TypeVar, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config.rl import RolloutConfig
from rlhf.data.encoding import decode_response, encode_prompt, encode_response, special_ids
from rlhf.data.source import Prompt, Response
from rlhf.models.adapters import Role
from rlhf.models.batch import Batch, collate, pad_left
from rlhf.models.decoding import Decoder, ModelDecoder
from rlhf.models.drawing import COMPACT_EVERY, Drawing, Turns
from rlhf.models.fused import FusedDecoder, fits, matches
from rlhf.models.graphs import Replays, StaticDecoder, can_be_recorded
from rlhf.process.distributed import ALONE, Ranks

log = logging.getLogger(__name__)

MOST_ENCODED = 4096
"""Prompts whose tokens are kept: each evaluation asks for the same ones several times."""

Result = TypeVar("Result")


@runtime_checkable
class Piece(Protocol):
    """Returns what a function returns, a part of longer work; it may know that from before."""

    def __call__(self, compute: Callable[[], Result], /) -> Result:
        """Compute, or remember."""
        ...


def at_once(compute: Callable[[], Result], /) -> Result:
    """Compute, and remember nothing."""
    return compute()


class Sampler:
    """Draws responses from roles that share a tokenizer and a device, and turns them into batches."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: RolloutConfig,
        device: torch.device,
        ranks: Ranks = ALONE,
        agree: Callable[[Tensor], Tensor] = ALONE.broadcast,
    ) -> None:
        """`ranks` divide rows among them; or all ranks do all rows, and `agree` on each token that is drawn.

        `piece` calls what computes a batch, of responses or of scores; see `in_pieces`.
        """
        self.tokenizer, self.config, self.device = tokenizer, config, device
        self.ranks, self.agree, self.piece = ranks, agree, at_once
        self.pad_id, self.eos_id = special_ids(tokenizer)
        self._encode = lru_cache(maxsize=MOST_ENCODED)(
            lambda text, messages: tuple(encode_prompt(tokenizer, Prompt("", text, "", messages=messages)))
        )
        self.matching: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()
        self.warned = False

    def in_pieces(self, piece: Piece) -> "Sampler":
        """The same sampler whose batches are computed by `piece`, which may know their results from before."""
        sampler = copy(self)
        sampler.piece = piece
        return sampler

    def encode(self, prompts: Sequence[Prompt], limit: int | None = None) -> list[list[int]]:
        """Token ids, of longer prompts the last `limit` or `max_prompt_tokens`."""
        limit = limit or self.config.max_prompt_tokens
        return [list(self._encode(prompt.text, prompt.messages)[-limit:]) for prompt in prompts]

    def fits(self, prompt: Prompt, limit: int | None = None) -> bool:
        return len(self._encode(prompt.text, prompt.messages)) <= (limit or self.config.max_prompt_tokens)

    def count_cut(self, prompts: Sequence[Prompt], limit: int | None = None) -> int:
        """How many of them `encode` shortens."""
        return sum(not self.fits(prompt, limit) for prompt in prompts)

    def encode_text(self, response: Response) -> list[int]:
        """A response's text as tokens, without EOS."""
        return encode_response(self.tokenizer, response.text)[:-1]

    def collate(self, prompts: Sequence[list[int]], responses: Sequence[Response], width: int = 0) -> Batch:
        """Encoded prompts with their responses as one batch, padded to the longest or to `width`."""
        token_ids = [response.token_ids for response in responses]
        return collate(prompts, token_ids, self.pad_id, self.device, width)

    def sample(
        self,
        role: Role,
        prompts: Sequence[Prompt],
        temperature: float,
        generator: torch.Generator,
        max_tokens: int | None = None,
        max_prompt_tokens: int | None = None,
    ) -> list[Response]:
        """One response to each prompt, of at most `rollout.max_response_tokens` or `max_tokens`; greedy at 0.

        Each rank decodes its part of them and gets them all.
        """
        limit = self.config.max_response_tokens if max_tokens is None else max_tokens
        chance = torch.zeros(len(prompts), limit, device=self.device)
        if temperature > 0:
            chance.uniform_(generator=generator)
        mine = self.ranks.shard(len(prompts))
        encoded, chance = self.encode(prompts[mine], max_prompt_tokens), chance[mine]
        order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]))  # beside each other, little is padded
        size = self._rows(max(map(len, encoded), default=0) + limit)
        responses: dict[int, Response] = {}

        def decode(rows: list[int]) -> list[list[int]]:
            return self._decode(role, [encoded[row] for row in rows], temperature, chance[rows]) if rows else []

        starts = reversed(range(0, len(order), size))  # the longest first: where its cache was, the others' fit
        batches = [order[start : start + size] for start in starts]
        more = self.ranks.largest(len(batches)) - len(batches)
        for rows in batches + more * [[]]:  # all ranks have as many pieces
            drawn = self.piece(partial(decode, rows))
            responses |= zip(rows, map(self._response, drawn), strict=True)
        return self.ranks.gather_objects([responses[row] for row in range(len(encoded))])

    def _rows(self, length: int) -> int:
        """How many sequences of so many tokens are decoded together: fewer where they are longer than a rollout's."""
        config = self.config
        usual = config.max_prompt_tokens + config.max_response_tokens
        return max(1, min(config.decode_batch_size, config.decode_batch_size * usual // length))

    def _response(self, token_ids: list[int]) -> Response:
        finished = token_ids[-1] == self.eos_id
        text = decode_response(self.tokenizer, token_ids[:-1] if finished else token_ids)
        return Response(token_ids, text, finished)

    @torch.inference_mode()
    def _decode(
        self, role: Role, prompts: list[list[int]], temperature: float, chance: Float[Tensor, "prompts limit"]
    ) -> list[list[int]]:
        """Token ids up to EOS, or `limit` of them."""
        drawing = Drawing(chance, temperature, self.eos_id, self.agree)
        with role.on() as lm:
            decoder = self._decoder(lm, chance.shape[1])
            turn = Replays(decoder, drawing) if isinstance(decoder, StaticDecoder) else Turns(decoder, drawing)
            tokens = drawing.draw(decoder.start(*pad_left(prompts, self.pad_id, self.device)))
            for count in range(1, chance.shape[1]):
                left = int(drawing.going.sum()) if count % turn.look_every == 0 else len(tokens)
                if left == 0:
                    break
                if count % COMPACT_EVERY == 0 and left < (1 - turn.worth_dropping) * len(tokens):
                    keep = drawing.going.nonzero()[:, 0]
                    decoder.keep(keep)
                    drawing.keep(keep)
                    tokens = tokens[keep]
                tokens = turn(tokens)
        return drawing.responses()

    def _decoder(self, lm: PreTrainedModel, limit: int) -> Decoder:
        """As `rollout.engine` says, or the model's own forward pass, said once, where `fast` can't decode it."""
        if self.config.engine == "hf":
            return ModelDecoder(lm)
        if fits(lm) and self._matches(lm):
            graphs = self.config.cuda_graphs and self.device.type == "cuda" and can_be_recorded(lm)
            return StaticDecoder(lm, limit) if graphs else FusedDecoder(lm, limit)
        if not self.warned:
            log.info(f"rollout: {lm.config.model_type} is not decoded by rollout.engine=fast, so as by hf")
            self.warned = True
        return ModelDecoder(lm)

    def _matches(self, lm: PreTrainedModel) -> bool:
        if lm not in self.matching:
            self.matching[lm] = matches(lm)
        return self.matching[lm]
