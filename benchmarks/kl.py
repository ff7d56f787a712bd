"""What the exact KL and entropy over the vocabulary cost: beside the log-probabilities of the sampled tokens alone."""

import statistics
from typing import Any

import torch

from benchmarks.options import Options, configure
from benchmarks.rollout import stopwatch
from benchmarks.synthetic import Setting, build_setting, load_lm
from benchmarks.table import ratios, show, spread
from rlhf.models.batch import Batch
from rlhf.models.logprobs import token_logprobs
from rlhf.rl.statistics import token_statistics
from rlhf.stages.learner import Learner

MODEL = "model=bench_25m"
"""A smaller model's step would be little beside a large vocabulary."""

VOCABULARIES = (1024, 32000)
LOSS = ("regularizer=kl", "regularizer=full_kl")
"""Regularizers of the two steps whose ratio shows what an exact divergence in the loss costs."""


def measure(options: Options) -> dict[str, Any]:
    """Measure, per vocabulary, the statistics' share of a step, and a step with full_kl against one with kl."""
    figures = {}
    for size in VOCABULARIES:
        overrides = [MODEL, f"model.vocab_size={size}", *options.overrides]
        figures[str(size)] = measure_vocabulary(overrides, options.rounds)
    report(figures)
    return figures


def measure_vocabulary(overrides: list[str], rounds: int) -> dict[str, Any]:
    """Measure all in turn, after a warm-up round."""
    sampled_only, with_full = (make(overrides, form) for form in LOSS)
    found: dict[str, list[float]] = {"step": [], "full_step": [], "exact": [], "sampled": []}
    for _ in range(rounds + 1):
        setting, learner = sampled_only
        device = setting.sampler.device
        found["step"].append(stopwatch(learner.step, device))
        found["full_step"].append(stopwatch(with_full[1].step, device))
        batches = parts(setting)
        found["exact"].append(stopwatch(lambda: exact(learner, batches), device))  # noqa: B023
        found["sampled"].append(stopwatch(lambda: sampled(learner, batches), device))  # noqa: B023
    seconds = {name: values[1:] for name, values in found.items()}
    pairs = zip(seconds["exact"], seconds["sampled"], seconds["step"], strict=True)
    shares = [(one - other) / step for one, other, step in pairs]
    return {"seconds": seconds, "shares": shares, "ratios": ratios(seconds["full_step"], seconds["step"])}


def make(overrides: list[str], form: str) -> tuple[Setting, Learner]:
    config = configure([*overrides, form])
    setting = build_setting(config, *load_lm(config, None))
    return setting, setting.learner()


def parts(setting: Setting) -> list[Batch]:
    """The last rollout, in the micro-batches that it was scored in."""
    sampler = setting.sampler
    batch = sampler.collate(sampler.encode(sampler.prompts), sampler.responses)
    rows = torch.arange(len(sampler.responses), device=sampler.device)
    return [batch.select(part) for part in rows.split(setting.config.micro_batch_size(1))]


def exact(learner: Learner, batches: list[Batch]) -> None:
    """Log-probabilities of policy and reference, exact KL and entropy."""
    for batch in batches:
        token_statistics(learner.policy, learner.reference, batch, learner.config.rollout.temperature)


@torch.no_grad()
def sampled(learner: Learner, batches: list[Batch]) -> None:
    """Log-probabilities of policy and reference."""
    for batch in batches:
        for role in (learner.policy, learner.reference):
            states = batch.before_responses(role.hidden(batch))
            token_logprobs(role, states, batch, learner.config.rollout.temperature)


def report(figures: dict[str, Any]) -> None:
    rows = []
    for size, found in figures.items():
        more = [one - other for one, other in zip(found["seconds"]["exact"], found["seconds"]["sampled"], strict=True)]
        shares = [100 * share for share in found["shares"]]
        step = f"{statistics.median(found['seconds']['step']):.3g}"
        rows.append([size, step, spread(more), spread(shares), spread(found["ratios"])])
    columns = ("vocabulary", "step, s", "exact KL, s more", "of a step, %", "full_kl / kl, whole step")
    show("medians (least to most)", columns, rows)
