"""Reward training: pairwise Bradley-Terry on comparisons, then standardised on the SFT model's responses.

The judge of text is trained by the same code on comparisons set aside for it.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
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
from rlhf.evaluation.judges import Score
from rlhf.evaluation.winrate import ratio_and_error
from rlhf.models.adapters import SharedBase
from rlhf.models.batch import Batch
from rlhf.models.ensemble import RewardEnsemble
from rlhf.models.external_reward import ExternalReward, load_external
from rlhf.models.layers import room
from rlhf.models.reward import RewardModel
from rlhf.models.sampler import Sampler
from rlhf.models.value import Reward
from rlhf.stages.checks import check_finite
from rlhf.stages.fit import fit, shuffled_batches
from rlhf.stages.progress import NOT_KEPT, Progress
from rlhf.storage.files import read_json, write_json
from rlhf.validate import check

log = logging.getLogger(__name__)

VERSION, SAMPLES_VERSION, ENSEMBLE_VERSION = 4, 1, 1

REWARD, JUDGE = "reward", "judge"
"""The reward model that PPO optimizes, and the second one that judges text: stages, adapters and messages say which."""

PAIR_PROMPTS = 512
"""Tuning prompts with two responses at temperature 1 each: pairs like those that PPO chooses between."""

SCORE_BATCH = 64


@dataclass(frozen=True)
class Samples:
    """The SFT model's responses that reward training reads: `compared`, in the order in which they were asked for."""

    compared: list[list[Response]]
    standard: list[Response]
    pairs: list[list[Response]]


def draw_samples(config: Config, source: Source, base: SharedBase, sampler: Sampler, directory: Path) -> dict[str, Any]:
    """Draw all responses that reward training needs, once for all reward models on this SFT model."""
    generator = torch.Generator(sampler.device).manual_seed(config.data_seed)
    compared: list[list[Response]] = []

    def sample(prompts: Sequence[Prompt], temperature: float) -> list[Response]:
        return sampler.sample(base.reference(), prompts, temperature, generator)

    def recorded(prompts: Sequence[Prompt], temperature: float) -> list[Response]:
        compared.append(sample(prompts, temperature))
        return compared[-1]

    source.comparisons(sampler.tokenizer, recorded, judge=False)
    prompts = standardize_prompts(config, source)
    standard = sample(prompts, config.rollout.temperature)
    is_oracle = source.utility(prompts[0], standard[0]) is not None
    pairs = [sample(pair_prompts(config, source), 1.0) for _ in range(2)] if is_oracle else []
    write_json(directory / "samples.json", asdict(Samples(compared, standard, pairs)))
    return {"responses": sum(map(len, compared)) + len(standard) + sum(map(len, pairs))}


def load_samples(directory: Path) -> Samples:
    found = read_json(directory / "samples.json")
    compared, pairs = ([[Response(**row) for row in draw] for draw in found[name]] for name in ("compared", "pairs"))
    return Samples(compared, [Response(**row) for row in found["standard"]], pairs)


def standardize_prompts(config: Config, source: Source) -> list[Prompt]:
    return source.prompts("train", config.reward.standard_prompts, Random(f"{config.data_seed}/standardize"))


def pair_prompts(config: Config, source: Source) -> list[Prompt]:
    return source.prompts("tune", PAIR_PROMPTS, Random(f"{config.data_seed}/pairs"))


def train_reward(
    config: Config,
    source: Source,
    base: SharedBase,
    sampler: Sampler,
    samples: Samples,
    directory: Path,
    name: str,
    member: int = 0,
    progress: Progress = NOT_KEPT,
) -> dict[str, Any]:
    """Train the model called `name`, REWARD or JUDGE, and save it in `directory`; of one that is given, its scale only.

    Each `member` of an ensemble has other first weights and another order, and with `reward.resample` each but the
    first other comparisons. Returns its figures on comparisons kept aside, the same for all members.
    """
    torch.manual_seed(config.data_seed + member)
    settings = settings_of(config.reward, name)
    held_out, trained = divided_comparisons(config, source, base, sampler, samples, name)
    figures: dict[str, Any] = {}
    if settings.is_external:
        model = load_external(settings, config.model.dtype, sampler.device)
    else:
        model = RewardModel.create(base, settings, name, config.rollout.temperature)
        if member and settings.resample:
            trained = Random(f"{config.data_seed}/{name} {member} resample").choices(trained, k=len(trained))
        figures["loss"] = _fit(model, trained, config, sampler, f"{name} {member}" if member else name, progress)
    return figures | _finish(model, held_out, config, source, sampler, samples, directory)


def combine_rewards(
    ensemble: RewardEnsemble,
    config: Config,
    source: Source,
    base: SharedBase,
    sampler: Sampler,
    samples: Samples,
    directory: Path,
) -> dict[str, Any]:
    """Save the scale of an ensemble of trained members; returns its figures on comparisons kept aside."""
    held_out, _ = divided_comparisons(config, source, base, sampler, samples, REWARD)
    return _finish(ensemble, held_out, config, source, sampler, samples, directory)


def _finish(
    model: Reward,
    held_out: list[Comparison],
    config: Config,
    source: Source,
    sampler: Sampler,
    samples: Samples,
    directory: Path,
) -> dict[str, Any]:
    """Measure, standardise and save."""
    figures = accuracy(model, held_out, sampler)
    if samples.pairs:
        ranked = partial(score, model, sampler)
        figures |= oracle_agreement(ranked, source, pair_prompts(config, source), samples.pairs)
    scores = torch.tensor(score(model, sampler, standardize_prompts(config, source), samples.standard))
    check_finite("the reward", {"the mean score of SFT responses": scores.mean().item()}, "look at its weights")
    model.standardize(scores)
    model.save(directory)
    return figures


def divided_comparisons(
    config: Config, source: Source, base: SharedBase, sampler: Sampler, samples: Samples, name: str
) -> tuple[list[Comparison], list[Comparison]]:
    """Comparisons kept aside, and those that the model called `name` is trained on."""
    draws = iter(samples.compared)
    given = source.comparisons(sampler.tokenizer, lambda prompts, temperature: next(draws), judge=name == JUDGE)
    settings = settings_of(config.reward, name)
    comparisons = _usable(given, sampler, room(base.lm), name, settings.max_response_tokens)
    rng = Random(f"{config.data_seed}/reward split")
    if settings.is_external:
        return rng.sample(comparisons, len(comparisons))[: round(settings.holdout * len(comparisons))], []
    return split_comparisons(comparisons, settings, rng)


def settings_of(config: RewardConfig, name: str) -> RewardConfig:
    """Those of the model called `name`: where the reward is given, a judge is trained all the same, as an adapter."""
    if name == JUDGE and config.is_external:
        return replace(config, backbone="adapter", path=None, function=None)
    return config


def split_comparisons(
    comparisons: list[Comparison], config: RewardConfig, rng: Random
) -> tuple[list[Comparison], list[Comparison]]:
    """Comparisons kept aside, and those trained on; split by prompt."""
    shuffled = rng.sample(comparisons, len(comparisons))
    kept = check_size(len(shuffled), config)
    return shuffled[:kept], shuffled[kept:]


def check_size(compared: int, config: RewardConfig) -> int:
    """Return how many prompts are kept aside; raises ConfigError where they, or what is left to train, are too few."""
    kept = round(config.holdout * compared)
    left = f"of {compared} compared prompts it keeps {kept} aside, and 2 are needed"
    check(kept >= 2, "reward.holdout", config.holdout, left)
    left = f"{compared - kept} compared prompts are left to train on"
    check(compared - kept >= config.batch_size, "reward.batch_size", config.batch_size, left)
    return kept


def pairwise_loss(
    scores: Float[Tensor, " responses"],
    better: list[int],
    worse: list[int],
    score_penalty: float,
    verdicts_share: float = 1.0,
    responses_share: float = 1.0,
) -> Float[Tensor, ""]:
    """-log sigmoid(score of the better - score of the worse), averaged, plus score_penalty x the mean squared score.

    Of a micro-batch, the part of its step's loss: the shares are its verdicts' and its responses' of the step's.
    """
    likelihood = F.logsigmoid(scores[better] - scores[worse]).mean()
    return -likelihood * verdicts_share + score_penalty * scores.square().mean() * responses_share


@torch.no_grad()
def score(model: Reward, sampler: Sampler, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[float]:
    """Each response's score, in the order given; sorted by length on the way, so that little padding is computed.

    Each rank computes some of the batches and gets all scores.
    """
    encoded = sampler.encode(prompts)
    order = sorted(range(len(responses)), key=lambda index: len(encoded[index]) + len(responses[index].token_ids))
    scores = torch.zeros(len(responses), device=sampler.device)

    def read(rows: list[int]) -> list[float]:
        chosen = [responses[row] for row in rows]
        if isinstance(model, ExternalReward):
            return model.scores([prompts[row] for row in rows], chosen).tolist()
        return model.scores(sampler.collate([encoded[row] for row in rows], chosen)).tolist()

    for rows in sampler.ranks.turns(order, SCORE_BATCH):
        if known := sampler.piece(lambda rows=rows: read(rows) if rows else []):
            scores[rows] = torch.tensor(known, device=scores.device)
    return sampler.ranks.sum(scores).tolist()


def _usable(
    comparisons: list[Comparison], sampler: Sampler, context: int, name: str, longest: int | None = None
) -> list[Comparison]:
    """The verdicts between responses that fit the context and are no longer than `longest`.

    How many others there are, and how many prompts are cut, stands on the console.
    """
    prompts = [comparison.prompt for comparison in comparisons]
    encoded, cut = sampler.encode(prompts), sampler.count_cut(prompts)
    if cut:
        log.info(f"{name}: of {cut} of {len(prompts)} prompts only the last rollout.max_prompt_tokens are read")
    limits = [min(longest or context, context - len(prompt)) for prompt in encoded]
    fitting = [without_long(item, limit) for item, limit in zip(comparisons, limits, strict=True)]
    given = sum(len(comparison.verdicts) for comparison in comparisons)
    left = sum(len(comparison.verdicts) for comparison in fitting)
    if left < given:
        log.info(
            f"{name}: {given - left} of {given} verdicts are on responses beyond {longest or context} tokens, left out"
        )
    return [comparison for comparison in fitting if comparison.verdicts]


def without_long(comparison: Comparison, limit: int) -> Comparison:
    """The comparison without responses of more than `limit` tokens and the verdicts on them."""
    kept = [index for index, response in enumerate(comparison.responses) if len(response.token_ids) <= limit]
    place = {index: new for new, index in enumerate(kept)}
    verdicts = [(place[win], place[lose]) for win, lose in comparison.verdicts if win in place and lose in place]
    return Comparison(comparison.prompt, [comparison.responses[index] for index in kept], verdicts)


def _fit(
    model: RewardModel,
    comparisons: list[Comparison],
    config: Config,
    sampler: Sampler,
    name: str,
    progress: Progress,
) -> float:
    settings = config.reward
    rng = Random(f"{config.data_seed}/{name} order")
    groups = shuffled_batches(comparisons, settings.epochs, settings.batch_size, rng)

    def losses(group: list[Comparison]) -> Iterator[Float[Tensor, ""]]:
        verdicts, responses = (sum(len(getattr(item, name)) for item in group) for name in ("verdicts", "responses"))
        size = settings.micro_batch_size or len(group)
        for start in range(0, len(group), size):
            batch, better, worse = collate_comparisons(group[start : start + size], sampler)
            shares = len(better) / verdicts, len(batch.mask) / responses
            yield pairwise_loss(model.scores(batch), better, worse, settings.score_penalty, *shares)

    model.trunk.lm.train()
    last = fit(model.parameters(), groups, len(groups), losses, settings, "reward", progress)
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


def accuracy(model: Reward, comparisons: list[Comparison], sampler: Sampler) -> dict[str, Any]:
    """The share of the annotator's verdicts that the model agrees with; its standard error is over prompts.

    Beside it the share that preferring the longer response agrees with, and the scores' correlation with lengths.
    """
    prompts = [comparison.prompt for comparison in comparisons for _ in comparison.responses]
    responses = [response for comparison in comparisons for response in comparison.responses]
    lengths = [float(len(response.token_ids)) for response in responses]
    scores = score(model, sampler, prompts, responses)
    shares = {name: _counts(comparisons, values) for name, values in (("accuracy", scores), ("longer", lengths))}
    figures = agreement_figures("accuracy", shares["accuracy"]) | agreement_figures("longer", shares["longer"])
    figures.pop("longer_se", None)
    both = torch.tensor([scores, lengths], dtype=torch.float64)
    known = len(responses) > 1 and bool((both.std(1) > 0).all())
    return figures | ({"length_correlation": torch.corrcoef(both)[0, 1].item()} if known else {})


def _counts(comparisons: Sequence[Comparison], values: Sequence[float]) -> list[tuple[float, float]]:
    """`_agreement` of each comparison with the values of its responses, which follow one another."""
    left = iter(values)
    return [_agreement([next(left) for _ in item.responses], item.verdicts) for item in comparisons]


def oracle_agreement(
    score: Score, source: Source, prompts: Sequence[Prompt], draws: Sequence[Sequence[Response]]
) -> dict[str, Any]:
    """The share of pairs of unequal utility, among several draws at temperature 1, that `score` ranks as the oracle.

    Such pairs are what PPO chooses between; those of the comparisons, which spread over temperatures, flatter a model.
    """
    scores = zip(*(score(prompts, draw) for draw in draws), strict=True)
    counts = []
    for prompt, row, responses in zip(prompts, scores, zip(*draws, strict=True), strict=True):
        utilities = [source.utility(prompt, response) for response in responses]
        counts.append(_agreement(row, ranked_pairs([utility for utility in utilities if utility is not None])))
    return agreement_figures("oracle_agreement", counts)


def agreement_figures(name: str, counts: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The share of agreeing pairs and its standard error, from (agreeing, all) of each prompt.

    None without pairs, and of one prompt, which has no error.
    """
    pairs = [total for _, total in counts]
    if len(pairs) < 2 or sum(pairs) == 0:
        return {}
    share, error = ratio_and_error([right for right, _ in counts], pairs)
    return {name: share, f"{name}_se": error}


def ranked_pairs(utilities: Sequence[float]) -> list[tuple[int, int]]:
    """(index of the better, index of the worse) for all pairs of unequal utility."""
    indices = range(len(utilities))
    return [(first, second) for first in indices for second in indices if utilities[first] > utilities[second]]


def _agreement(scores: Sequence[float], pairs: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """How many of the pairs have the better one score higher, and how many pairs there are."""
    return float(sum(scores[better] > scores[worse] for better, worse in pairs)), float(len(pairs))
