"""Evaluation: a policy's responses to prompts that its training never saw, beside the SFT model's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlhf.config import Config
from rlhf.data.source import Prompt, Response, Source
from rlhf.evaluation.factuality import measure_factuality
from rlhf.evaluation.judge import Judge
from rlhf.evaluation.repeats import repeated_share
from rlhf.evaluation.winrate import mean_and_error, win_rate
from rlhf.models.adapters import Role
from rlhf.models.reward import RewardModel
from rlhf.rl.rollout import Sampler
from rlhf.rl.statistics import token_statistics
from rlhf.stages.reward import score

KL_BATCH = 64


@dataclass(frozen=True)
class Evaluator:
    """All that stays the same from one evaluation of a run to the next."""

    config: Config
    source: Source
    sampler: Sampler
    reference: Role
    reward: RewardModel
    judge: Judge
    prompts: list[Prompt]
    references: list[list[Response]]

    def __call__(self, policy: Role, seed: int) -> tuple[dict[str, Any], list[Response]]:
        """Sample the policy's responses, and measure them."""
        generator = torch.Generator(self.sampler.device).manual_seed(seed)
        responses = self.sampler.sample(policy, self.prompts, self.config.evaluation.temperature, generator)
        return self.measure(policy, responses), responses

    def measure(self, policy: Role, responses: list[Response]) -> dict[str, Any]:
        """The figures of metrics.json: rates in per cent, lengths in tokens, rewards in the SFT scores' deviations."""
        scores = score(self.reward, self.sampler, self.prompts, responses)
        reward, reward_se = mean_and_error(scores)
        length, length_se = mean_and_error([float(len(response.token_ids)) for response in responses])
        return {
            **self._win_rate(responses),
            **measure_factuality(self.config.factuality.name, self.source, self.prompts, responses),
            "true_kl_per_token": self._true_kl(policy, responses),
            "response_length": length,
            "response_length_se": length_se,
            "reward": reward,
            "reward_se": reward_se,
            "repeats": _mean([repeated_share(response.token_ids) for response in responses]),
            "finished": _mean([float(response.finished) for response in responses]),
            **self._describe(responses),
        }

    def _win_rate(self, responses: list[Response]) -> dict[str, Any]:
        """Over the prompts that the reward model was not trained on."""
        rows = [index for index, prompt in enumerate(self.prompts) if not self.source.seen_by_reward(prompt)]
        prompts, outputs = [self.prompts[row] for row in rows], [responses[row] for row in rows]
        columns = [self.judge(prompts, outputs, [draw[row] for row in rows]) for draw in self.references]
        rate = win_rate(list(zip(*columns, strict=True)))
        return {
            "win_rate": rate.win_rate,
            "win_rate_se": rate.standard_error,
            "win_rate_ties_as_losses": rate.ties_as_losses,
            "n_eval": rate.n_prompts,
        }

    def _true_kl(self, policy: Role, responses: list[Response]) -> float:
        """Exact KL(policy, reference) in nats, averaged over all tokens of the responses.

        It is that of the distributions that PPO trains, at rollout.temperature, in the states that evaluation reached.
        """
        encoded = self.sampler.encode(self.prompts)
        total, tokens = 0.0, 0
        for start in range(0, len(responses), KL_BATCH):
            part = slice(start, start + KL_BATCH)
            batch = self.sampler.collate(encoded[part], responses[part])
            statistics, _ = token_statistics(policy, self.reference, batch, self.config.rollout.temperature)
            total += statistics.kl.sum().item()
            tokens += int(batch.mask.sum())
        return total / tokens

    def _describe(self, responses: list[Response]) -> dict[str, float]:
        """What the source counts in a response, averaged."""
        rows = [
            self.source.describe(prompt, response) for prompt, response in zip(self.prompts, responses, strict=True)
        ]
        return {name: _mean([row[name] for row in rows]) for name in rows[0]}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
