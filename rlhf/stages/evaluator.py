"""Evaluation: a policy's responses to prompts that its training never saw, beside the SFT model's."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch

from rlhf.config.run import Config
from rlhf.data.source import Prompt, Response, Source
from rlhf.errors import EndpointError
from rlhf.evaluation.factuality import Factuality, repeated_share
from rlhf.evaluation.judges import Judge, asked
from rlhf.evaluation.winrate import Judgement, mean_and_error, win_rates
from rlhf.models.adapters import Role
from rlhf.models.external_reward import ExternalReward
from rlhf.models.sampler import Sampler
from rlhf.models.value import Reward
from rlhf.rl.advantage import effective_scores
from rlhf.rl.regularizer import Regularizer
from rlhf.rl.statistics import token_statistics
from rlhf.stages.reward import score

log = logging.getLogger(__name__)

KL_BATCH = 64

GREEDY = ("win_rate", "factuality", "response_length")
"""Figures that greedy responses have too, as `win_rate_greedy`, `win_rate_greedy_se` and so on."""


class Evaluation(NamedTuple):
    """The figures of metrics.json, the sampled responses they are of, and what judge and reward model made of each.

    Beside them the greedy responses and what the judge made of those, where there are any.
    """

    figures: dict[str, Any]
    responses: list[Response]
    judgements: list[Judgement]
    scores: list[float]
    greedy: list[Response] | None = None
    greedy_judgements: list[Judgement] | None = None


@dataclass(frozen=True)
class Evaluator:
    """All that stays the same from one evaluation of a run to the next.

    Sampled responses are compared with `references`, sampled alike, greedy ones with `greedy_reference`: a comparison
    across would reward a policy for being sharper, which a lower temperature gives for nothing.
    """

    config: Config
    source: Source
    sampler: Sampler
    reference: Role
    reward: Reward
    judge: Judge
    prompts: list[Prompt]
    references: list[list[Response]]
    greedy_reference: list[Response]
    factuality: Factuality
    regularizer: Regularizer

    def __call__(self, policy: Role, seed: int, coef: float = 0.0) -> Evaluation:
        """Sample the policy's responses, of several to a prompt take the reward model's favourite, and measure them.

        Greedy ones are measured beside them; `coef` is the penalty's weight in the objective.
        """
        settings = self.config.evaluation
        generator = torch.Generator(self.sampler.device).manual_seed(seed)
        draws = [self.sample(policy, settings.temperature, generator) for _ in range(settings.best_of)]
        if len(draws) > 1:
            responses = favourites(draws, [score(self.reward, self.sampler, self.prompts, draw) for draw in draws])
            evaluation = self.measure(policy, responses, coef)
            # the divergence of the policy that is sampled from is not that of the choice among its responses
            unknown = dict.fromkeys(name for name in evaluation.figures if name.startswith(("true_kl", "objective")))
            bound = {"kl_bound_per_response": best_of_n_kl_bound(settings.best_of)}
            return evaluation._replace(figures=evaluation.figures | unknown | bound)
        evaluation = self.measure(policy, draws[0], coef)
        if settings.temperature == 0:
            same = {greedy_name(name): value for name, value in evaluation.figures.items() if greedy_name(name)}
            figures = evaluation.figures | same
            return evaluation._replace(
                figures=figures, greedy=evaluation.responses, greedy_judgements=evaluation.judgements
            )
        return self.add_greedy(evaluation, self.sample(policy, 0.0, generator))

    def add_greedy(self, evaluation: Evaluation, responses: list[Response]) -> Evaluation:
        """The evaluation with greedy responses measured beside the sampled ones."""
        judgements, problem = self.judge_responses(responses, [self.greedy_reference])
        length, length_se = mean_and_error([float(len(response.token_ids)) for response in responses])
        found = {
            **win_rates(judgements),
            **self.factuality(self.prompts, responses),
            "response_length": length,
            "response_length_se": length_se,
        }
        figures = {greedy_name(name): value for name, value in found.items() if greedy_name(name)}
        problem = evaluation.figures["judge_problem"] or problem
        return evaluation._replace(
            figures=evaluation.figures | figures | {"judge_problem": problem},
            greedy=responses,
            greedy_judgements=judgements,
        )

    def sample(self, policy: Role, temperature: float, generator: torch.Generator) -> list[Response]:
        """A response to each evaluation prompt."""
        limits = self.config.evaluation.max_response_tokens, self.config.evaluation.max_prompt_tokens
        return self.sampler.sample(policy, self.prompts, temperature, generator, *limits)

    def measure(
        self, policy: Role, responses: list[Response], coef: float = 0.0, temperature: float | None = None
    ) -> Evaluation:
        """The figures of metrics.json: rates in per cent, lengths in tokens, rewards in the SFT scores' deviations.

        Divergences are those of the policy at `temperature`, by default that at which PPO trains it.
        """
        judgements, problem = self.judge_responses(responses, self.references)
        lengths = [float(len(response.token_ids)) for response in responses]
        divergences, penalties, scores = self._read(policy, responses, temperature)
        figures = {
            **win_rates(judgements),
            "judge_problem": problem,
            **self.factuality(self.prompts, responses),
            "true_kl_per_token": sum(divergences) / sum(lengths),
            **_with_error("true_kl_per_response", divergences),
            **_with_error("response_length", lengths),
            **_with_error("reward", scores),
            **self._unscaled(scores),
            **_with_error("objective", self._objectives(responses, scores, penalties, coef)),
            "repeats": _mean([repeated_share(response.token_ids) for response in responses]),
            "finished": _mean([float(response.finished) for response in responses]),
            **self._describe(responses),
        }
        return Evaluation(figures, responses, judgements, scores)

    def asked(self) -> dict[str, Any]:
        """Return what language models were asked: questions, tokens, costs, and how the judge leant, over the run."""
        return asked(judge=self.judge, factuality=self.factuality)

    def first(self, count: int | None) -> "Evaluator":
        """The same on the first `count` prompts alone; on all where it is None."""
        references = [draw[:count] for draw in self.references]
        greedy = self.greedy_reference[:count]
        return replace(self, prompts=self.prompts[:count], references=references, greedy_reference=greedy)

    @cached_property
    def judged_rows(self) -> list[int]:
        """The prompts that count in win rates: those that the reward model was not trained on."""
        return [index for index, prompt in enumerate(self.prompts) if not self.source.seen_by_reward(prompt)]

    def judge_responses(
        self, responses: list[Response], references: Sequence[list[Response]]
    ) -> tuple[list[Judgement], str | None]:
        """What the judge makes of each; nothing where the reward model was trained on the prompt.

        Where the judge can't be asked, all its preferences are None, and the reason stands beside them: a policy is
        worth more than one judgement of it, and can be judged later.
        """
        rows = self.judged_rows
        prompts, outputs = [self.prompts[row] for row in rows], [responses[row] for row in rows]
        columns: list[list[float | None]] = [[None] * len(rows) for _ in references]
        problem = None
        try:
            columns = [self.judge(prompts, outputs, [draw[row] for row in rows]) for draw in references]
        except EndpointError as error:
            problem = str(error)
            log.info(f"no win rate: {problem}")
        preferences = dict(zip(rows, (list(row) for row in zip(*columns, strict=True)), strict=True))
        judgements = [
            Judgement(preferences.get(row), len(response.token_ids), [len(draw[row].token_ids) for draw in references])
            for row, response in enumerate(responses)
        ]
        return judgements, problem

    def _read(
        self, policy: Role, responses: list[Response], temperature: float | None
    ) -> tuple[list[float], list[float], list[float]]:
        """Return each response's exact KL(policy, reference) in nats, its regularizer's penalty, and its reward score.

        KL and penalty are sums over tokens. They are those of the distributions that PPO trains, at
        rollout.temperature, in the states that evaluation reached.
        """
        encoded = self.sampler.encode(self.prompts, self.config.evaluation.max_prompt_tokens)
        ranks = self.sampler.ranks
        trained, order = self.config.rollout.temperature, by_length(responses)
        sums = torch.zeros(len(responses), 3, dtype=torch.float64, device=self.sampler.device)

        def read(rows: list[int]) -> list[list[float]]:
            batch = self.sampler.collate([encoded[row] for row in rows], [responses[row] for row in rows])
            found, _, _ = token_statistics(
                policy, self.reference, batch, trained, self.regularizer.full, temperature or trained
            )
            penalties = self.regularizer.penalties(found.logprobs, found.ref_logprobs, found.divergence) * batch.mask
            scores = torch.zeros(len(rows), device=sums.device)
            if not isinstance(self.reward, ExternalReward):
                with torch.no_grad():
                    scores = self.reward.scores(batch, found.ref_logprobs)
            columns = found.kl.double().sum(1), penalties.double().sum(1), scores.double()
            return torch.stack(columns, dim=1).tolist()

        for rows in ranks.turns(order, KL_BATCH):
            if known := self.sampler.piece(lambda rows=rows: read(rows) if rows else []):
                sums[rows] = torch.tensor(known, dtype=sums.dtype, device=sums.device)
        divergences, penalties, scores = ranks.sum(sums).T.tolist()
        if isinstance(self.reward, ExternalReward):
            scores = score(self.reward, self.sampler, self.prompts, responses)
        return divergences, penalties, scores

    def _objectives(
        self, responses: list[Response], scores: list[float], penalties: list[float], coef: float
    ) -> list[float]:
        """What PPO is to raise, of each response: its score, or that of a missing EOS, less the weighted penalty."""
        finished = torch.tensor([response.finished for response in responses])
        counted = effective_scores(torch.tensor(scores), finished, self.config.ppo.missing_eos_score).tolist()
        return [value - coef * penalty for value, penalty in zip(counted, penalties, strict=True)]

    def _unscaled(self, scores: list[float]) -> dict[str, float]:
        """A verifier's or another given reward's mean in its own unit."""
        if not isinstance(self.reward, ExternalReward):
            return {}
        return _with_error("raw_reward", [score * self.reward.deviation + self.reward.mean for score in scores])

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


def by_length(responses: Sequence[Response]) -> list[int]:
    """Rows from the shortest response to the longest: beside each other, little is padded."""
    return sorted(range(len(responses)), key=lambda row: len(responses[row].token_ids))


def greedy_name(name: str) -> str | None:
    """What a figure of greedy responses is called; None where it is not measured of them."""
    for part in GREEDY:
        if name == part or name.startswith(f"{part}_"):
            return name.replace(part, f"{part}_greedy", 1)
    return None


def _with_error(name: str, values: Sequence[float]) -> dict[str, float]:
    """The mean and its standard error, under `name` and `name_se`."""
    mean, error = mean_and_error(values)
    return {name: mean, f"{name}_se": error}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def judgement_rows(evaluator: Evaluator, evaluation: Evaluation) -> list[dict[str, Any]]:
    """The verdicts, a row per prompt: preferences, lengths in tokens, facts, the score.

    For reading, also the first of the references that it was compared with, and where in both texts facts stand.
    """
    columns = (evaluator.prompts, *evaluation[1:4], evaluator.references[0])
    rows = []
    for prompt, response, judgement, value, reference in zip(*columns, strict=True):
        correct, wrong = evaluator.source.facts(prompt, response) or (None, None)
        row = {"instruction": prompt.instruction, "dataset": prompt.dataset, **asdict(judgement)}
        row |= {"correct": correct, "wrong": wrong, "score": value, "reference": reference.text}
        row |= {"facts": evaluator.source.fact_spans(prompt, response)}
        rows.append(row | {"reference_facts": evaluator.source.fact_spans(prompt, reference)})
    for row, judgement in zip(rows, evaluation.greedy_judgements or [], strict=False):
        row |= {f"greedy_{name}": value for name, value in asdict(judgement).items()}
    return rows


def response_rows(evaluator: Evaluator, evaluation: Evaluation, step: int) -> list[dict[str, Any]]:
    """Rows of responses.jsonl: those of `judgement_rows` with the policy's responses after a step."""
    judged = judgement_rows(evaluator, evaluation)
    texts = [response.text for response in evaluation.responses]
    rows = [{"step": step, **row, "response": text} for row, text in zip(judged, texts, strict=True)]
    for row, own, reference in zip(rows, evaluation.greedy or [], evaluator.greedy_reference, strict=False):
        row |= {"greedy_response": own.text, "greedy_reference": reference.text}
    return rows
