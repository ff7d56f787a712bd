"""Whether a device computes what it should: log-probabilities and greedy decoding against float64 on the CPU.

The reference is transformers' own forward pass, one response at a time, so it shares neither padding nor a cache with
what it is compared with.
"""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.options import configure
from benchmarks.synthetic import build_setting, load_lm
from rlhf.config.run import Config
from rlhf.data.source import Response
from rlhf.models.adapters import Role, SharedBase
from rlhf.models.batch import Batch
from rlhf.rl.statistics import token_statistics
from rlhf.stages.learner import POLICY

TOLERANCES = {"float32": 1e-3, "bfloat16": 0.5}
"""Tolerances in nats: of a log-probability, and of a greedy token against the likeliest one."""

WORK = ("model=bench_tiny", "model.initializer_range=0.2", "rollout.batch_size=16", "regularizer.horizon=1000")
NOISE = 0.05
"""Standard deviation of the noise added to the adapter's weights, so that it has an effect."""


def worst_errors(device: torch.device, dtype: str) -> dict[str, float]:
    """Measure, in nats, the largest errors of policy's and reference's log-probabilities and of greedy tokens."""
    config = configure([*WORK, "device=cpu", f"model.dtype={dtype}"])
    lm, tokenizer = load_lm(config, None)
    exact = SharedBase(copy.deepcopy(lm).double())
    setting = build_setting(config, lm.to(device), tokenizer)  # pyright: ignore[reportArgumentType]
    policy, exact_policy = noisy_policy(setting.base, config), noisy_policy(exact, config)
    sampler = setting.sampler
    prompts = setting.source.pool[: config.rollout.batch_size]
    generator = torch.Generator(device).manual_seed(0)
    greedy = sampler.sample(policy, prompts, 0.0, generator)
    batch = sampler.collate(sampler.encode(prompts), greedy)
    statistics = token_statistics(policy, setting.base.reference(), batch, 1.0)[0]
    expected = exact_logprobs(exact_policy, batch, greedy)
    chosen = batch.responses[..., None].cpu()
    off = (statistics.logprobs.cpu() - expected.gather(-1, chosen)[..., 0]).abs().max().item()
    reference = exact_logprobs(exact.reference(), batch, greedy).gather(-1, chosen)[..., 0]
    reference_off = (statistics.ref_logprobs.cpu() - reference).abs().max().item()
    short = (expected.max(-1).values - expected.gather(-1, chosen)[..., 0]).max().item()
    return {"policy log-probabilities": off, "reference log-probabilities": reference_off, "greedy tokens": short}


def noisy_policy(base: SharedBase, config: Config) -> Role:
    """An adapter that is the same on every base, in the base's precision where that is float64."""
    policy, generator = base.add(POLICY, config.lora, trainable=False), torch.Generator().manual_seed(0)
    for weight in policy.parameters():
        values = NOISE * torch.randn(weight.shape, generator=generator)
        weight.data = values.to(base.lm.device, torch.float64 if base.lm.dtype == torch.float64 else weight.dtype)
    return policy


@torch.no_grad()
def exact_logprobs(role: Role, batch: Batch, responses: list[Response]) -> Float[Tensor, "batch response vocabulary"]:
    """Log-probabilities of all words at each response token; no padding, as all responses have one length."""
    rows: list[Any] = []
    with role.on() as lm:
        for ids, real in zip(batch.input_ids.cpu(), batch.attention_mask.cpu().bool(), strict=True):
            logits = lm(input_ids=ids[real][None], use_cache=False).logits[0]
            rows.append(logits.log_softmax(-1)[-len(responses[0].token_ids) - 1 : -1])
    return torch.stack(rows)
