"""What the published code of arXiv 2309.09055 does otherwise than PPO as it should be; ppo=paper turns all of it on.

docs/paper.md tells what each switch changes, and what differs still.

- `ppo.average=positions`: losses are means over all positions of a fixed width, padding included, so that short
  responses count for less.
- `ppo.whiten_padding`: rewards and advantages are whitened over padding too, and the mean reward is added back to each
  position, padding included.
- `ppo.bootstrap_padding`: values after EOS count, so that a response's last advantage bootstraps from padding. States
  are 0 there, as flash attention leaves them, and the value is its head's bias.
- `ppo.repeat_micro_batch`: a step for each micro-batch, whose gradient is added up, and clipped, as often as a step has
  micro-batches. Several ranks divide a micro-batch among them.
- `ppo.clip_jointly`: gradients of policy and value are clipped by their norm together.
- `ppo.retokenize`: the reward model reads the decoded text, tokenized again without special tokens, and never an EOS.
- `ppo.whole_epochs`: prompts come in shuffled epochs of the training split.

The rest are settings of their own: raw scores (`ppo.raw_scores`), adapters in bfloat16 (`lora.dtype`), dropout in the
update (`ppo.dropout`), the learning rate's course (`ppo.lr_steps`, `ppo.warmup_from_zero`), a value on the reward model
with an adapter of its own (`value=paper`), and an adaptive coefficient that follows the penalty
(`regularizer.schedule=published`).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rlhf.config.data import WorldConfig
from rlhf.config.run import Config
from rlhf.data.source import Prompt, Response
from rlhf.models.batch import Batch
from rlhf.models.external_reward import ExternalReward
from rlhf.rl.advantage import Mask, Tokens, masked_deviation
from rlhf.rl.algorithm import Estimate
from rlhf.rl.trajectory import Targets, Trajectory
from rlhf.stages.diagnostics import Row
from rlhf.stages.learner import Learner, Scores
from rlhf.stages.reward import score
from rlhf.validate import check


def build_learner(config: Config, *roles: Any) -> Learner:
    """The learner that is configured: the default one, or where a switch above is on that of the published code."""
    return (PublishedLearner if config.ppo.as_published else Learner)(config, *roles)


def published_whiten(values: Tokens, mask: Mask, shift_mean: bool) -> tuple[Tokens, float]:
    """Whiten over all positions; without `shift_mean` the mean is added back. And what a penalty is divided by."""
    mean = values.mean()
    centred = (values - mean) / (values.std(unbiased=False) + 1e-8)
    deviation = masked_deviation(values, torch.ones_like(mask)).item()
    return centred if shift_mean else centred + mean, deviation


class PublishedLearner(Learner):
    """A learner in which each switch is as the configuration says; `epoch` are the prompts left of this epoch."""

    def __init__(self, config: Config, *roles: Any) -> None:
        super().__init__(config, *roles)
        self.epoch: list[int] = []

    def _collate(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Batch:
        """As wide as responses may be, where padding counts."""
        ppo = self.config.ppo
        if not (ppo.average == "positions" or ppo.whiten_padding or ppo.bootstrap_padding):
            return super()._collate(prompts, responses)
        width = self.config.rollout.max_response_tokens
        return self.sampler.collate(self.sampler.encode(prompts), responses, width)

    def _draw_prompts(self) -> tuple[list[Prompt], int]:
        """With `ppo.whole_epochs`, the next of a shuffled epoch of all training prompts that are short enough."""
        if not self.config.ppo.whole_epochs:
            return super()._draw_prompts()
        samples = self.config.algorithm.samples_per_prompt
        wanted = self.config.rollout.batch_size // samples
        while len(self.epoch) < wanted:
            self.epoch += self.prompting.sample(range(len(self.fitting)), len(self.fitting))
        chosen, self.epoch = self.epoch[:wanted], self.epoch[wanted:]
        return [self.fitting[place] for place in chosen for _ in range(samples)], 0

    @cached_property
    def fitting(self) -> list[Prompt]:
        """All distinct training prompts that `rollout.max_prompt_tokens` has room for."""
        fitting = [prompt for prompt in self.source.all_prompts() if self.sampler.fits(prompt)]
        limit = self.config.rollout.max_prompt_tokens
        check(len(fitting) > 0, "rollout.max_prompt_tokens", limit, "no training prompt is that short")
        return fitting

    def state(self) -> dict[str, Any]:
        return super().state() | {"epoch": self.epoch}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.epoch = state.get("epoch", [])  # of a run that it branches off from: that had none

    @torch.no_grad()
    def _score(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Trajectory:
        trajectory = super()._score(prompts, responses)
        if not self.config.ppo.retokenize:
            return trajectory
        if isinstance(self.config.data, WorldConfig):
            return replace(trajectory, scores=self._scores(self._without_eos(prompts, responses)))
        encoded, tokenizer = self.sampler.encode(prompts), self.sampler.tokenizer
        texts = cleaned(tokenizer, encoded), cleaned(tokenizer, [response.token_ids for response in responses])
        if isinstance(self.reward, ExternalReward):
            given = [replace(prompt, text=text, messages=()) for prompt, text in zip(prompts, texts[0], strict=True)]
            read = [Response([], text, False) for text in texts[1]]
            scores = torch.tensor(score(self.reward, self.sampler, given, read), device=self.sampler.device)
            return replace(trajectory, scores=scores)
        given, read = in_one_go(tokenizer, *texts)
        batch = self.sampler.collate(given, [Response(token_ids, "", False) for token_ids in read], 1)
        return replace(trajectory, scores=self._scores(batch))

    def _without_eos(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Batch:
        """In the embedded world texts are words between spaces, and turns begin with special tokens: these stay."""
        texts = [Response(self.sampler.encode_text(response), response.text, False) for response in responses]
        return self.sampler.collate(self.sampler.encode(prompts), texts, 1)

    def _scores(self, batch: Batch) -> Scores:
        """The reward model's scores, of which each rank reads its part."""
        assert not isinstance(self.reward, ExternalReward)
        parts = [self.reward.scores(batch.select(part)) for part in self._micro_batches(len(batch.mask))]
        return self.ranks.gather(torch.cat(parts))

    def _kept_values(self, values: Tokens, mask: Mask) -> Tokens:
        return values if self.config.ppo.bootstrap_padding else super()._kept_values(values, mask)

    def _whiten(self, values: Tokens, mask: Mask, shift_mean: bool) -> tuple[Tokens, float]:
        if self.config.ppo.whiten_padding:
            return published_whiten(values, mask, shift_mean)
        return super()._whiten(values, mask, shift_mean)

    def _estimate(self, rewards: Tokens, values: Tokens, mask: Mask) -> Estimate:
        counts_padding = self.config.ppo.bootstrap_padding and self.algorithm.value
        return super()._estimate(rewards, values, torch.ones_like(mask) if counts_padding else mask)

    def _weights(self, mask: Mask) -> Tokens:
        if self.config.ppo.average != "positions":
            return super()._weights(mask)
        return torch.full(mask.shape, 1 / mask.numel(), device=mask.device)

    def _rows_per_step(self) -> int:
        if not self.config.ppo.repeat_micro_batch:
            return super()._rows_per_step()
        assert self.config.ppo.micro_batch_size is not None  # checked: it decides what is learnt
        return self.config.ppo.micro_batch_size

    def _add_gradient(self, trajectory: Trajectory, goal: Targets, chosen: Int[Tensor, " rows"]) -> Row:
        """With `ppo.repeat_micro_batch`, the chosen are one micro-batch, again and again."""
        ppo, row = self.config.ppo, Row()
        for _ in range(ppo.step_batch_size // len(chosen) if ppo.repeat_micro_batch else 1):
            if not self.ranks.is_main:
                self.optimizer.zero_grad()  # what has been added up is on all ranks, and counts once
            row = super()._add_gradient(trajectory, goal, chosen)
        return row

    def _clip(self) -> Row:
        """With `ppo.clip_jointly`, by the norm of both gradients together; logged are both, as they were before."""
        if not self.config.ppo.clip_jointly:
            return super()._clip()
        norms = [nn.utils.get_total_norm(gradients(weights)) for weights in (self.policy_weights, self.value_weights)]
        nn.utils.clip_grad_norm_(self.policy_weights + self.value_weights, self.config.ppo.max_grad_norm)
        return dict(zip(("ppo/grad_norm", "ppo/value_grad_norm"), (norm.item() for norm in norms), strict=True))


def gradients(weights: Sequence[nn.Parameter]) -> list[Tensor]:
    """The gradients of those weights that have one."""
    return [weight.grad for weight in weights if weight.grad is not None]


def cleaned(tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]]) -> list[str]:
    """The text of each row, without special tokens and without spaces before punctuation and contractions."""
    return tokenizer.batch_decode(list(rows), skip_special_tokens=True, clean_up_tokenization_spaces=True)  # pyright: ignore[reportReturnType]


def in_one_go(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], responses: Sequence[str]
) -> tuple[list[list[int]], list[list[int]]]:
    """Prompt and response tokenized together, by the tokenizer's rule, and divided where the prompt alone would end.

    Where the tokens at the seam are others than those of both alone, that is what the reward model reads.
    """
    whole = tokenizer([prompt + response for prompt, response in zip(prompts, responses, strict=True)])["input_ids"]
    starts = [len(token_ids) for token_ids in tokenizer(list(prompts))["input_ids"]]  # pyright: ignore[reportArgumentType]
    pairs = list(zip(whole, starts, strict=True))  # pyright: ignore[reportArgumentType]
    return [token_ids[:start] for token_ids, start in pairs], [token_ids[start:] for token_ids, start in pairs]
