"""Evaluation: a policy's responses to prompts that its training never saw, beside the SFT model's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlhf.config.run import Config
from rlhf.data.source import Prompt, Response, Source
from rlhf.evaluation.factuality import Figures, measure_factuality
from rlhf.evaluation.judge import Judge
from rlhf.evaluation.length_control import length_controlled_win_rate
from rlhf.evaluation.repeats import repeated_share
from rlhf.evaluation.winrate import mean_and_error, win_rate_over_draws
from rlhf.models.adapters import Role
from rlhf.models.reward import RewardModel
from rlhf.rl.rollout import Sampler
from rlhf.rl.statistics import token_statistics
from rlhf.stages.reward import score

KL_BATCH = 64


@dataclass(frozen=True)
class Judgement:
    """Of one prompt: a preference per reference (None where the prompt is left out), and lengths in tokens."""

    preferences: list[float] | None
    length: int
    reference_lengths: list[int]


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
        """Sample the policy's responses, of several to a prompt take the reward model's favourite, and measure them."""
        settings = self.config.evaluation
        generator = torch.Generator(self.sampler.device).manual_seed(seed)
        draws = [self._sample(policy, settings.temperature, generator) for _ in range(settings.best_of)]
        if len(draws) == 1:
            return self.measure(policy, draws[0]), draws[0]
        responses = favourites(draws, [score(self.reward, self.sampler, self.prompts, draw) for draw in draws])
        # the divergence of the policy that is sampled from is not that of the choice among its responses
        bound = {"true_kl_per_token": None, "kl_bound_per_response": best_of_n_kl_bound(settings.best_of)}
        return self.measure(policy, responses) | bound, responses

    def greedy(self, policy: Role) -> Figures:
        """Factuality of greedy responses: what a policy takes for true, apart from the noise of sampling."""
        generator = torch.Generator(self.sampler.device)
        responses = self._sample(policy, 0.0, generator)
        figures = measure_factuality(self.config.factuality.name, self.source, self.prompts, responses)
        return {name.replace("factuality", "factuality_greedy"): value for name, value in figures.items()}

    def _sample(self, policy: Role, temperature: float, generator: torch.Generator) -> list[Response]:
        limit = self.config.evaluation.max_response_tokens
        return self.sampler.sample(policy, self.prompts, temperature, generator, limit)

    def measure(self, policy: Role, responses: list[Response]) -> dict[str, Any]:
        """The figures of metrics.json: rates in per cent, lengths in tokens, rewards in the SFT scores' deviations."""
        scores = score(self.reward, self.sampler, self.prompts, responses)
        reward, reward_se = mean_and_error(scores)
        length, length_se = mean_and_error([float(len(response.token_ids)) for response in responses])
        return {
            **win_rates(self.judge_responses(responses)),
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

    def judge_responses(self, responses: list[Response]) -> list[Judgement]:
        """What the judge makes of each; nothing where the reward model was trained on the prompt."""
        rows = [index for index, prompt in enumerate(self.prompts) if not self.source.seen_by_reward(prompt)]
        prompts, outputs = [self.prompts[row] for row in rows], [responses[row] for row in rows]
        columns = [self.judge(prompts, outputs, [draw[row] for row in rows]) for draw in self.references]
        preferences = dict(zip(rows, (list(row) for row in zip(*columns, strict=True)), strict=True))
        return [
            Judgement(
                preferences.get(row), len(response.token_ids), [len(draw[row].token_ids) for draw in self.references]
            )
            for row, response in enumerate(responses)
        ]

    def _true_kl(self, policy: Role, responses: list[Response]) -> float:
        """Exact KL(policy, reference) in nats, averaged over all tokens of the responses.

        It is that of the distributions that PPO trains, at rollout.temperature, in the states that evaluation reached.
        """
        encoded = self.sampler.encode(self.prompts)
        total, tokens, ranks = 0.0, 0, self.sampler.ranks
        for start in ranks.every(range(0, len(responses), KL_BATCH)):
            part = slice(start, start + KL_BATCH)
            batch = self.sampler.collate(encoded[part], responses[part])
            statistics, _, _ = token_statistics(policy, self.reference, batch, self.config.rollout.temperature)
            total += statistics.kl.sum().item()
            tokens += int(batch.mask.sum())
        total, tokens = ranks.sum(
            torch.tensor([total, tokens], dtype=torch.float64, device=self.sampler.device)
        ).tolist()
        return total / tokens

    def _describe(self, responses: list[Response]) -> dict[str, float]:
        """What the source counts in a response, averaged."""
        rows = [
            self.source.describe(prompt, response) for prompt, response in zip(self.prompts, responses, strict=True)
        ]
        return {name: _mean([row[name] for row in rows]) for name in rows[0]}


def win_rates(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """The win rate against the references, plain and at equal length, in per cent."""
    judged = [judgement for judgement in judgements if judgement.preferences is not None]
    preferences = [judgement.preferences or [] for judgement in judged]
    rate = win_rate_over_draws(preferences)
    lengths, references = zip(*((each.length, each.reference_lengths) for each in judged), strict=True)
    controlled = length_controlled_win_rate(preferences, lengths, references) or (None, None)
    return {
        "win_rate": rate.win_rate,
        "win_rate_se": rate.standard_error,
        "win_rate_ties_as_losses": rate.ties_as_losses,
        "win_rate_length_controlled": controlled[0],
        "win_rate_length_controlled_se": controlled[1],
        "n_eval": rate.n_total,
    }


def favourites(draws: Sequence[list[Response]], scores: Sequence[list[float]]) -> list[Response]:
    """For each prompt the response of the highest score, the earliest of several."""
    rows = zip(zip(*draws, strict=True), zip(*scores, strict=True), strict=True)
    return [responses[column.index(max(column))] for responses, column in rows]


def best_of_n_kl_bound(n: int) -> float:
    """log n - (n - 1) / n: at most so many nats per response is the best of n from what it chooses among.

    Exact where no two responses tie (arXiv 2009.01325, appendix G.3); else an upper bound (arXiv 2401.01879).
    """
    return math.log(n) - (n - 1) / n


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
