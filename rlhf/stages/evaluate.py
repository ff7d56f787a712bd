"""Evaluation: a policy's responses to prompts that its training never saw, beside the SFT model's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from rlhf.config.run import Config
from rlhf.data.source import Prompt, Response, Source
from rlhf.errors import EndpointError
from rlhf.evaluation.factuality import Factuality, Figures
from rlhf.evaluation.judge import Judge
from rlhf.evaluation.judgements import Judgement, win_rates
from rlhf.evaluation.repeats import repeated_share
from rlhf.evaluation.winrate import mean_and_error
from rlhf.infra.progress import console
from rlhf.models.adapters import Role
from rlhf.models.value import Reward
from rlhf.rl.rollout import Sampler
from rlhf.rl.statistics import token_statistics
from rlhf.stages.reward import score

KL_BATCH = 64


class Evaluation(NamedTuple):
    """The figures of metrics.json, the responses they are of, and of each what the judge made and the reward model."""

    figures: dict[str, Any]
    responses: list[Response]
    judgements: list[Judgement]
    scores: list[float]


@dataclass(frozen=True)
class Evaluator:
    """All that stays the same from one evaluation of a run to the next."""

    config: Config
    source: Source
    sampler: Sampler
    reference: Role
    reward: Reward
    judge: Judge
    prompts: list[Prompt]
    references: list[list[Response]]
    factuality: Factuality

    def __call__(self, policy: Role, seed: int) -> Evaluation:
        """Sample the policy's responses, of several to a prompt take the reward model's favourite, and measure them."""
        settings = self.config.evaluation
        generator = torch.Generator(self.sampler.device).manual_seed(seed)
        draws = [self._sample(policy, settings.temperature, generator) for _ in range(settings.best_of)]
        if len(draws) == 1:
            return self.measure(policy, draws[0])
        responses = favourites(draws, [score(self.reward, self.sampler, self.prompts, draw) for draw in draws])
        # the divergence of the policy that is sampled from is not that of the choice among its responses
        bound = {"true_kl_per_token": None, "kl_bound_per_response": best_of_n_kl_bound(settings.best_of)}
        evaluation = self.measure(policy, responses)
        return evaluation._replace(figures=evaluation.figures | bound)

    def greedy(self, policy: Role) -> Figures:
        """Factuality of greedy responses: what a policy takes for true, apart from the noise of sampling."""
        generator = torch.Generator(self.sampler.device)
        responses = self._sample(policy, 0.0, generator)
        figures = self.factuality(self.prompts, responses)
        return {name.replace("factuality", "factuality_greedy"): value for name, value in figures.items()}

    def _sample(self, policy: Role, temperature: float, generator: torch.Generator) -> list[Response]:
        limit = self.config.evaluation.max_response_tokens
        return self.sampler.sample(policy, self.prompts, temperature, generator, limit)

    def measure(self, policy: Role, responses: list[Response]) -> Evaluation:
        """The figures of metrics.json: rates in per cent, lengths in tokens, rewards in the SFT scores' deviations."""
        judgements, problem = self.judge_responses(responses)
        scores = score(self.reward, self.sampler, self.prompts, responses)
        reward, reward_se = mean_and_error(scores)
        length, length_se = mean_and_error([float(len(response.token_ids)) for response in responses])
        figures = {
            **win_rates(judgements),
            "judge_problem": problem,
            **self.factuality(self.prompts, responses),
            "true_kl_per_token": self._true_kl(policy, responses),
            "response_length": length,
            "response_length_se": length_se,
            "reward": reward,
            "reward_se": reward_se,
            "repeats": _mean([repeated_share(response.token_ids) for response in responses]),
            "finished": _mean([float(response.finished) for response in responses]),
            **self._describe(responses),
        }
        return Evaluation(figures, responses, judgements, scores)

    def judge_responses(self, responses: list[Response]) -> tuple[list[Judgement], str | None]:
        """What the judge makes of each; nothing where the reward model was trained on the prompt.

        Where the judge can't be asked, all its preferences are None, and the reason stands beside them: a policy is
        worth more than one judgement of it, and can be judged later.
        """
        rows = [index for index, prompt in enumerate(self.prompts) if not self.source.seen_by_reward(prompt)]
        prompts, outputs = [self.prompts[row] for row in rows], [responses[row] for row in rows]
        columns: list[list[float | None]] = [[None] * len(rows) for _ in self.references]
        problem = None
        try:
            columns = [self.judge(prompts, outputs, [draw[row] for row in rows]) for draw in self.references]
        except EndpointError as error:
            problem = str(error)
            console.print(f"no win rate: {problem}", markup=False)
        preferences = dict(zip(rows, (list(row) for row in zip(*columns, strict=True)), strict=True))
        judgements = [
            Judgement(
                preferences.get(row), len(response.token_ids), [len(draw[row].token_ids) for draw in self.references]
            )
            for row, response in enumerate(responses)
        ]
        return judgements, problem

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
