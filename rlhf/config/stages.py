"""What each stage before PPO reads of a configuration, and what runs must agree on to share loaded models.

A cached stage's identity is made of these keys, its parents and its data. Imports no torch.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

SFT_MODEL = (
    *("model.dtype", "model.attention", "model.quantization"),
    *("rollout.max_prompt_tokens", "rollout.max_response_tokens", "rollout.temperature", "rollout.decode_batch_size"),
)
"""How the SFT model is loaded, and how it is sampled from: what every stage reads that runs it."""

RANDOM = (
    *("model.hidden_size", "model.layers", "model.heads", "model.intermediate_size", "model.vocab_size"),
    *("model.context", "model.initializer_range", "model.tied", "pretrain"),
)

BASELINE = (
    *("evaluation.split", "evaluation.prompts", "evaluation.references", "evaluation.temperature"),
    *("evaluation.control_temperatures", "evaluation.max_prompt_tokens", "evaluation.max_response_tokens"),
)

READS: dict[str, tuple[str, ...]] = {
    "pretrain": RANDOM,
    "sft": ("sft",),
    "sft_figures": (*SFT_MODEL, "factuality.name", "checks.prompts"),
    "samples": (*SFT_MODEL, "data.comparison_prompts", "reward.standard_prompts"),  # text comes with its comparisons
    "reward": (*SFT_MODEL, "reward"),
    "ensemble": (*SFT_MODEL, "reward.combine"),
    "baseline": (*SFT_MODEL, *BASELINE),
    "baseline_figures": (*SFT_MODEL, "judge", "factuality", "ppo.missing_eos_score", "ppo.raw_scores"),
}
"""Keys by stage; the name of a section stands for all of its keys. Beside these each stage reads its data."""

STAGES = tuple(dict.fromkeys(("cache_dir", "data", "model.path", *(key for keys in READS.values() for key in keys))))
"""What any stage reads: runs that agree on these share every stage."""

SETTING = (
    *(*STAGES, "model", "rollout.engine", "rollout.cuda_graphs"),
    *("checks", "device", "device_memory", "distributed"),
)
"""What runs must agree on to share the models that are loaded in a process."""


def picked(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return the values of `keys` as nested mappings, without nulls: a new key that is null changes no identity."""
    found: dict[str, Any] = {}
    for key in keys:
        *sections, name = key.split(".")
        source, place = config, found
        for section in sections:
            source, place = source[section], place.setdefault(section, {})
        if source.get(name) is not None:
            place[name] = without_nulls(source[name])
    return found


def without_nulls(value: Any) -> Any:
    """Return the value without the entries of its mappings, at any depth, that are null."""
    if not isinstance(value, Mapping):
        return value
    return {name: without_nulls(part) for name, part in value.items() if part is not None}


def identity(config: Mapping[str, Any], keys: Iterable[str]) -> str:
    """Return a SHA-256 of the values of `keys`, the same for a Config as a mapping and for its config.yaml."""
    text = json.dumps(picked(config, keys), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
