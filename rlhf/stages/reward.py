"""Reward training: pairwise Bradley-Terry on comparisons, then standardised on the SFT model's responses.

The judge of text is trained by the same code on comparisons set aside for it.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rlhf.config.models import RewardConfig
from rlhf.config.run import Config
from rlhf.data.source import Comparison, Prompt, Response, Source
from rlhf.errors import ConfigError
from rlhf.evaluation.winrate import ratio_and_error
from rlhf.infra.progress import console
from rlhf.models.adapters import SharedBase
from rlhf.models.batch import Batch
from rlhf.models.given_reward import GivenReward, load_given
from rlhf.models.reward import RewardModel
from rlhf.models.value import Reward
from rlhf.rl.rollout import Sampler
from rlhf.stages.fit import fit, shuffled_batches

VERSION = 2

REWARD, JUDGE = "reward", "judge"
"""The reward model that PPO optimizes, and the second one that judges text: stages, adapters and messages say which."""

STANDARDIZE_PROMPTS = 512
"""Training prompts whose SFT responses get mean score 0 and deviation 1."""

SCORE_BATCH = 64


def train_reward(
    config: Config, source: Source, base: SharedBase, sampler: Sampler, directory: Path, name: str
) -> dict[str, Any]:
    """Train the model called `name`, REWARD or JUDGE, and save it in `directory`; of one that is given, its scale only.

    Returns its figures on comparisons kept aside.
    """
    torch.manual_seed(config.data.seed)
    generator = torch.Generator(sampler.device).manual_seed(config.data.seed)
    reference = base.reference()

    def sample(prompts: Sequence[Prompt], temperature: float) -> list[Response]:
        return sampler.sample(reference, prompts, temperature, generator)

    given = source.comparisons(sampler.tokenizer, sample, judge=name == JUDGE)
    comparisons = _usable(given, sampler, base.lm.config.max_position_embeddings, name)
    settings, rng = settings_of(config.reward, name), Random(f"{config.data.seed}/reward split")
    figures: dict[str, Any] = {}
    if settings.is_given:
        model = load_given(settings, config.model.dtype, sampler.device)
        held_out = rng.sample(comparisons, len(comparisons))[: round(settings.holdout * len(comparisons))]
    else:
        model = RewardModel.create(base, settings, name)
        held_out, trained = split_comparisons(comparisons, settings, rng)
        figures["loss"] = _fit(model, trained, config, sampler, name)
    figures |= _accuracy(model, held_out, source, sampler)
    prompts = source.prompts("train", STANDARDIZE_PROMPTS, Random(f"{config.data.seed}/standardize"))
    model.standardize(torch.tensor(score(model, sampler, prompts, sample(prompts, config.rollout.temperature))))
    model.save(directory)
    return figures


def settings_of(config: RewardConfig, name: str) -> RewardConfig:
    """Those of the model called `name`: where the reward is given, a judge is trained all the same, as an adapter."""
    if name == JUDGE and config.is_given:
        return replace(config, backbone="adapter", path=None, function=None)
    return config


def split_comparisons(
    comparisons: list[Comparison], config: RewardConfig, rng: Random
) -> tuple[list[Comparison], list[Comparison]]:
    """Comparisons kept aside, and those trained on; split by prompt."""
    shuffled = rng.sample(comparisons, len(comparisons))
    kept = round(config.holdout * len(shuffled))
    if kept < 2 or len(shuffled) - kept < config.batch_size:
        raise ConfigError(
            f"reward.holdout={config.holdout} is not allowed: of {len(shuffled)} compared prompts it keeps {kept} aside"
        )
    return shuffled[:kept], shuffled[kept:]


def pairwise_loss(
    scores: Float[Tensor, " responses"], better: list[int], worse: list[int], score_penalty: float
) -> Float[Tensor, ""]:
    """-log sigmoid(score of the better - score of the worse), averaged, plus score_penalty x the mean squared score."""
    return -F.logsigmoid(scores[better] - scores[worse]).mean() + score_penalty * scores.square().mean()


@torch.no_grad()
def score(model: Reward, sampler: Sampler, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[float]:
    """Each response's score, in the order given; sorted by length on the way, so that little padding is computed.

    Each rank computes some of the batches and gets all scores.
    """
    encoded = sampler.encode(prompts)
    order = sorted(range(len(responses)), key=lambda index: len(encoded[index]) + len(responses[index].token_ids))
    scores = torch.zeros(len(responses), device=sampler.device)
    for start in sampler.ranks.every(range(0, len(order), SCORE_BATCH)):
        rows = order[start : start + SCORE_BATCH]
        chosen = [responses[row] for row in rows]
        if isinstance(model, GivenReward):
            scores[rows] = model.scores([prompts[row] for row in rows], chosen).to(scores.device)
        else:
            scores[rows] = model.scores(sampler.collate([encoded[row] for row in rows], chosen))
    return sampler.ranks.sum(scores).tolist()


def _usable(comparisons: list[Comparison], sampler: Sampler, context: int, name: str) -> list[Comparison]:
    """The verdicts between responses that fit the context.

    How many others there are, and how many prompts are cut, stands on the console.
    """
    prompts = [comparison.prompt for comparison in comparisons]
    encoded, cut = sampler.encode(prompts), sampler.count_cut(prompts)
    if cut:
        console.print(f"{name}: of {cut} of {len(prompts)} prompts only the last rollout.max_prompt_tokens are read")
    fitting = [without_long(item, context - len(prompt)) for item, prompt in zip(comparisons, encoded, strict=True)]
    given = sum(len(comparison.verdicts) for comparison in comparisons)
    left = sum(len(comparison.verdicts) for comparison in fitting)
    if left < given:
        console.print(f"{name}: {given - left} of {given} verdicts are on responses beyond {context} tokens, left out")
    return [comparison for comparison in fitting if comparison.verdicts]


def without_long(comparison: Comparison, limit: int) -> Comparison:
    """The comparison without responses of more than `limit` tokens and the verdicts on them."""
    kept = [index for index, response in enumerate(comparison.responses) if len(response.token_ids) <= limit]
    place = {index: new for new, index in enumerate(kept)}
    verdicts = [(place[win], place[lose]) for win, lose in comparison.verdicts if win in place and lose in place]
    return Comparison(comparison.prompt, [comparison.responses[index] for index in kept], verdicts)


def _fit(model: RewardModel, comparisons: list[Comparison], config: Config, sampler: Sampler, title: str) -> float:
    settings = config.reward
    rng = Random(f"{config.data.seed}/{title} order")
    groups = shuffled_batches(comparisons, settings.epochs, settings.batch_size, rng)

    def loss(group: list[Comparison]) -> Float[Tensor, ""]:
        batch, better, worse = collate_comparisons(group, sampler)
        return pairwise_loss(model.scores(batch), better, worse, settings.score_penalty)

    model.trunk.lm.train()
    last = fit(model.parameters(), groups, len(groups), loss, settings, title)
    model.trunk.lm.eval()
    return last


def collate_comparisons(comparisons: Sequence[Comparison], sampler: Sampler) -> tuple[Batch, list[int], list[int]]:
    """All responses of all comparisons as one batch, and the rows of the better and the worse of each verdict."""
    prompts, responses, better, worse = [], [], [], []
    for comparison, encoded in zip(comparisons, sampler.encode([item.prompt for item in comparisons]), strict=True):
        better += [len(responses) + winner for winner, _ in comparison.verdicts]
        worse += [len(responses) + loser for _, loser in comparison.verdicts]
        prompts += [encoded] * len(comparison.responses)
        responses += comparison.responses
    return sampler.collate(prompts, responses), better, worse


def _accuracy(model: Reward, comparisons: list[Comparison], source: Source, sampler: Sampler) -> dict[str, Any]:
    """The share of pairs that the model ranks as the annotator did and, where there is an oracle, as the oracle does.

    Standard errors are over prompts, since the pairs of one prompt share responses.
    """
    labels, oracle = [], []
    for comparison in comparisons:
        prompts = [comparison.prompt] * len(comparison.responses)
        scores = score(model, sampler, prompts, comparison.responses)
        labels.append(_agreement(scores, comparison.verdicts))
        utilities = [source.utility(comparison.prompt, response) for response in comparison.responses]
        oracle.append(_agreement(scores, ranked_pairs([utility for utility in utilities if utility is not None])))
    figures: dict[str, Any] = {}
    for name, counts in (("accuracy", labels), ("oracle_agreement", oracle)):
        pairs = [total for _, total in counts]
        if sum(pairs) > 0:
            figures[name], figures[f"{name}_se"] = ratio_and_error([right for right, _ in counts], pairs)
    return figures


def ranked_pairs(utilities: Sequence[float]) -> list[tuple[int, int]]:
    """(index of the better, index of the worse) for all pairs of unequal utility."""
    indices = range(len(utilities))
    return [(first, second) for first in indices for second in indices if utilities[first] > utilities[second]]


def _agreement(scores: Sequence[float], pairs: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """How many of the pairs have the better one score higher, and how many pairs there are."""
    return float(sum(scores[better] > scores[worse] for better, worse in pairs)), float(len(pairs))
