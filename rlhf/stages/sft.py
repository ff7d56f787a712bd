"""Supervised fine-tuning on demonstrations: its result is the base of all roles, the reference, and the baseline."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.config.run import Config
from rlhf.data.encoding import encode_prompt, encode_response, special_ids
from rlhf.data.source import Source
from rlhf.errors import ConfigError
from rlhf.evaluation.factuality import measure_factuality
from rlhf.models.adapters import Role, SharedBase
from rlhf.models.backbone import resolve_device, save_backbone
from rlhf.models.batch import collate
from rlhf.models.layers import room
from rlhf.models.logprobs import token_logprobs
from rlhf.models.sampler import Sampler
from rlhf.stages.fit import fit, shuffled_batches
from rlhf.stages.pretrain import load_model
from rlhf.stages.progress import NOT_KEPT, Progress

log = logging.getLogger(__name__)

VERSION, FIGURES_VERSION = 1, 2

Example = tuple[list[int], list[int]]

CUT_SHARE = 0.3
"""The share of responses that are cut off above which the score of a missing EOS is most of what PPO learns."""


def sft(
    config: Config, source: Source, base: str | None, directory: Path, progress: Progress = NOT_KEPT
) -> dict[str, Any]:
    """Fine-tune the causal LM at `base`, all of it in float32, and save it in `directory`; returns its last loss.

    Without a `base` it starts from random weights.
    """
    torch.manual_seed(config.data_seed)
    device = resolve_device(config.device)
    whole = replace(config.model, dtype="float32", quantization=None)
    lm, tokenizer = load_model(config, source, base, whole, device)
    role = Role(lm, recompute=config.model.gradient_checkpointing)
    examples = _examples(config, source, tokenizer, room(lm))
    rng, pad_id = Random(f"{config.data_seed}/sft"), special_ids(tokenizer)[0]
    batches = shuffled_batches(examples, config.sft.epochs, config.sft.batch_size, rng)

    def losses(chosen: list[Example]) -> Iterator[Tensor]:
        prompts, responses = zip(*chosen, strict=True)
        batch = collate(prompts, responses, pad_id, device)
        states = batch.before_responses(role.hidden(batch))
        yield -token_logprobs(role, states, batch, temperature=1.0).sum() / batch.mask.sum()

    lm.train()
    last = fit(list(lm.parameters()), batches, len(batches), losses, config.sft, "sft", progress)
    save_backbone(lm.eval(), tokenizer, directory)
    return {"loss": last}


def measure_sft(config: Config, source: Source, base: SharedBase, sampler: Sampler) -> dict[str, Any]:
    """Figures of the SFT model's own responses on the tuning split, and how many prompts were cut, where any was."""
    prompts = source.prompts("tune", config.checks.prompts, Random(f"{config.data_seed}/sft check"))
    generator = torch.Generator(sampler.device).manual_seed(config.data_seed)
    responses = sampler.sample(base.reference(), prompts, config.rollout.temperature, generator)
    factuality = measure_factuality(config.factuality, source, prompts, responses)
    finished = sum(response.finished for response in responses) / len(responses)
    warn_of_cut(1 - finished, config)
    cut = sampler.count_cut(prompts)
    return {"finished": finished, **factuality, **({"cut_prompts": cut} if cut else {})}


def warn_of_cut(share: float, config: Config) -> None:
    """Say so where many responses of the SFT model never end, and the reward is one for ending early above all."""
    score, limit = config.ppo.missing_eos_score, config.rollout.max_response_tokens
    if share > CUT_SHARE and score is not None:
        log.warning(
            f"{100 * share:.0f} % of the SFT model's responses are cut off at rollout.max_response_tokens={limit}, and "
            f"ppo.missing_eos_score={score:g} is their score whatever they say: PPO will learn to be brief before "
            "anything else; raise the former, or set the latter to null"
        )


def _examples(config: Config, source: Source, tokenizer: PreTrainedTokenizerBase, context: int) -> list[Example]:
    """Demonstrations as token ids; those longer than the context are left out, and counted on the console."""
    demonstrations = source.demonstrations()
    encoded = [
        (encode_prompt(tokenizer, item.prompt), encode_response(tokenizer, item.text)) for item in demonstrations
    ]
    examples = [(prompt, response) for prompt, response in encoded if len(prompt) + len(response) <= context]
    if len(examples) < len(encoded):
        log.info(
            f"sft: {len(encoded) - len(examples)} of {len(encoded)} demonstrations exceed {context} tokens, left out"
        )
    if len(examples) < config.sft.batch_size:
        raise ConfigError(
            f"sft.batch_size={config.sft.batch_size} is not allowed: the data has {len(examples)} demonstrations"
        )
    return examples
