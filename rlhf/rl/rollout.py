"""Sampling responses: one token at a time for all unfinished rows, in float32.

All chance is drawn beforehand, a number for each token of each response. So a response depends on its own row alone,
not on which rows are decoded beside it, or on which rank.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from rlhf.config.rl import RolloutConfig
from rlhf.data.source import Prompt, Response
from rlhf.infra.distributed import ALONE, Ranks
from rlhf.models.adapters import Role, next_token_logits
from rlhf.models.batch import Batch, collate, encode_prompt, encode_response, pad_left, positions, special_ids

COMPACT_EVERY = 8
"""Tokens between looks for finished rows, which are then dropped from the batch."""


class Sampler:
    """Draws responses from roles that share a tokenizer and a device, and turns them into batches."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: RolloutConfig,
        device: torch.device,
        ranks: Ranks = ALONE,
        agree: Callable[[Tensor], Tensor] = ALONE.same,
    ) -> None:
        """`ranks` divide rows among them; or all ranks do all rows, and `agree` on each token that is drawn."""
        self.tokenizer, self.config, self.device = tokenizer, config, device
        self.ranks, self.agree = ranks, agree
        self.pad_id, self.eos_id = special_ids(tokenizer)

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids, of longer prompts the last `max_prompt_tokens`."""
        limit = self.config.max_prompt_tokens
        return [encode_prompt(self.tokenizer, prompt)[-limit:] for prompt in prompts]

    def fits(self, prompt: Prompt) -> bool:
        return len(encode_prompt(self.tokenizer, prompt)) <= self.config.max_prompt_tokens

    def count_cut(self, prompts: Sequence[Prompt]) -> int:
        """How many of them `encode` shortens."""
        return sum(not self.fits(prompt) for prompt in prompts)

    def encode_text(self, response: Response) -> list[int]:
        """A response's text as tokens, without EOS."""
        return encode_response(self.tokenizer, response.text)[:-1]

    def collate(self, prompts: Sequence[list[int]], responses: Sequence[Response], width: int = 0) -> Batch:
        """Encoded prompts with their responses as one batch, padded to the longest or to `width`."""
        return collate(prompts, [response.token_ids for response in responses], self.pad_id, self.device, width)

    def sample(
        self,
        role: Role,
        prompts: Sequence[Prompt],
        temperature: float,
        generator: torch.Generator,
        max_tokens: int | None = None,
    ) -> list[Response]:
        """One response to each prompt, of at most `rollout.max_response_tokens` or `max_tokens`; greedy at 0.

        Each rank decodes its part of them and gets them all.
        """
        limit = self.config.max_response_tokens if max_tokens is None else max_tokens
        chance = torch.zeros(len(prompts), limit, device=self.device)
        if temperature > 0:
            chance.uniform_(generator=generator)
        mine, size = self.ranks.mine(len(prompts)), self.config.decode_batch_size
        encoded, chance = self.encode(prompts[mine]), chance[mine]
        responses: list[Response] = []
        for start in range(0, len(encoded), size):
            part = slice(start, start + size)
            responses += [self._response(ids) for ids in self._decode(role, encoded[part], temperature, chance[part])]
        return self.ranks.gather_objects(responses)

    def _response(self, token_ids: list[int]) -> Response:
        finished = token_ids[-1] == self.eos_id
        text = self.tokenizer.decode(token_ids[:-1] if finished else token_ids, skip_special_tokens=False)
        assert isinstance(text, str)
        return Response(token_ids, text, finished)

    @torch.no_grad()
    def _decode(
        self, role: Role, prompts: list[list[int]], temperature: float, chance: Float[Tensor, "prompts limit"]
    ) -> list[list[int]]:
        """Token ids up to EOS, or `limit` of them."""
        responses: list[list[int]] = [[] for _ in prompts]
        with role.on() as lm:
            rows = _Rows.start(lm, *pad_left(prompts, self.pad_id, self.device))
            for count in range(1, chance.shape[1] + 1):
                logits = next_token_logits(lm, rows.input_ids, rows.attention_mask, rows.position_ids, rows.cache)
                tokens = self.agree(draw_tokens(logits, temperature, chance[rows.indices, count - 1]))
                for index, token, going in zip(
                    rows.indices.tolist(), tokens[:, 0].tolist(), rows.going.tolist(), strict=True
                ):
                    if going:
                        responses[index].append(token)
                rows.extend(tokens, self.eos_id)
                if not rows.going.any():
                    break
                if count % COMPACT_EVERY == 0:
                    rows.drop_finished()
        return responses


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


@dataclass
class _Rows:
    """The rows still being decoded: which prompts they are, what the next step reads, and the cache behind it."""

    indices: Int[Tensor, " rows"]
    going: Bool[Tensor, " rows"]
    input_ids: Int[Tensor, "rows new"]
    attention_mask: Int[Tensor, "rows length"]
    position_ids: Int[Tensor, "rows new"]
    cache: DynamicCache

    @classmethod
    def start(cls, lm: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> "_Rows":
        indices = torch.arange(len(input_ids), device=input_ids.device)
        going = torch.ones_like(indices, dtype=torch.bool)
        return cls(indices, going, input_ids, attention_mask, positions(attention_mask), DynamicCache(config=lm.config))

    def extend(self, tokens: Int[Tensor, "rows 1"], eos_id: int) -> None:
        """Take the tokens just drawn as the next step's input."""
        self.going = self.going & (tokens[:, 0] != eos_id)
        self.input_ids, self.position_ids = tokens, self.position_ids[:, -1:] + 1
        self.attention_mask = torch.cat([self.attention_mask, torch.ones_like(tokens)], dim=1)

    def drop_finished(self) -> None:
        keep = self.going.nonzero()[:, 0]
        self.cache.batch_select_indices(keep)
        for name in ("indices", "going", "input_ids", "attention_mask", "position_ids"):
            setattr(self, name, getattr(self, name)[keep])
