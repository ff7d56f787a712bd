"""What the published code of arXiv 2309.09055 does otherwise than PPO as it should be; ppo=paper turns all of it on.

- `ppo.average=positions`: losses are means over all positions of a fixed width, padding included, so that short
  responses count for less.
- `ppo.whiten_padding`: rewards and advantages are whitened over padding too, and the mean reward is added back to each
  position, padding included.
- `ppo.bootstrap_padding`: values after EOS count, so that a response's last advantage bootstraps from padding.
- `ppo.repeat_micro_batch`: a step for each micro-batch, whose gradient is added up, and clipped, as often as a step has
  micro-batches.
- `ppo.retokenize`: the reward model reads the decoded text, tokenized again without special tokens, and never an EOS.

Three more of its ways are settings of their own: adapters in bfloat16 (`lora.dtype`), dropout in the update
(`ppo.dropout`), and a value that starts from the reward model's backbone with a head at 0 (`value.init=backbone`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlhf.config.run import Config
from rlhf.data.source import Prompt, Response
from rlhf.models.batch import Batch
from rlhf.models.external_reward import ExternalReward
from rlhf.rl.advantage import Mask, Tokens, masked_deviation
from rlhf.rl.algorithm import Estimate
from rlhf.rl.trajectory import Targets, Trajectory
from rlhf.stages.diagnostics import Row
from rlhf.stages.learner import Learner


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
    """A learner in which each switch is as the configuration says."""

    def _collate(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Batch:
        """As wide as responses may be, and with states at padding, where padding counts."""
        ppo = self.config.ppo
        if not (ppo.average == "positions" or ppo.whiten_padding or ppo.bootstrap_padding):
            return super()._collate(prompts, responses)
        width = self.config.rollout.max_response_tokens
        return replace(self.sampler.collate(self.sampler.encode(prompts), responses, width), packs=False)

    @torch.no_grad()
    def _score(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Trajectory:
        trajectory = super()._score(prompts, responses)
        if not self.config.ppo.retokenize or isinstance(self.reward, ExternalReward):
            return trajectory
        return replace(trajectory, scores=self._text_scores(prompts, responses))

    def _text_scores(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Float[Tensor, " batch"]:
        """The reward model's scores of the decoded text, tokenized again without special tokens."""
        assert not isinstance(self.reward, ExternalReward)
        texts = [Response(self.sampler.encode_text(response), response.text, False) for response in responses]
        batch = self.sampler.collate(self.sampler.encode(prompts), texts, 1)
        parts = [self.reward.scores(batch.select(part)) for part in self._micro_batches(len(texts))]
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
        return self.micro_batch_size * self.ranks.size

    def _add_gradient(self, trajectory: Trajectory, goal: Targets, chosen: Int[Tensor, " rows"]) -> Row:
        """With `ppo.repeat_micro_batch`, the chosen are one micro-batch, again and again."""
        ppo, row = self.config.ppo, Row()
        for _ in range(ppo.step_batch_size // len(chosen) if ppo.repeat_micro_batch else 1):
            if not self.ranks.is_main:
                self.optimizer.zero_grad()  # what has been added up is on all ranks, and counts once
            row = super()._add_gradient(trajectory, goal, chosen)
        return row
