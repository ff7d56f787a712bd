"""The baseline: the SFT model's responses to the evaluation prompts, drawn once and shared by all runs on that model.

`evaluation.references` draws are what policies are compared with; one further draw stands for the SFT model itself, so
that its own figures are measured like a policy's.
"""

from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import torch

from rlhf.config.run import Config
from rlhf.data.source import Prompt, Response, Source
from rlhf.infra.files import read_json, write_json
from rlhf.infra.progress import Track
from rlhf.models.adapters import SharedBase
from rlhf.rl.rollout import Sampler

VERSION = 2


def evaluation_prompts(config: Config, source: Source) -> list[Prompt]:
    """The prompts on which every run of this data and configuration is evaluated."""
    return source.prompts(config.evaluation.split, config.evaluation.prompts, Random(f"{config.data.seed}/evaluation"))  # pyright: ignore[reportArgumentType]


def draw_baseline(
    config: Config, prompts: list[Prompt], base: SharedBase, sampler: Sampler, directory: Path
) -> dict[str, Any]:
    """Sample all draws into `directory`; returns their number, and how many prompts were cut, where any was."""
    generator = torch.Generator(sampler.device).manual_seed(config.data.seed)
    settings = config.evaluation
    count = settings.references + 1
    draws = [
        sampler.sample(base.reference(), prompts, settings.temperature, generator, settings.max_response_tokens)
        for _ in Track(range(count), count, "baseline")
    ]
    write_json(directory / "draws.json", [[asdict(response) for response in draw] for draw in draws])
    cut = sampler.count_cut(prompts)
    return {"draws": count, **({"cut_prompts": cut} if cut else {})}


def load_baseline(directory: Path) -> tuple[list[Response], list[list[Response]]]:
    """The SFT model's own draw, and the draws that responses are compared with."""
    own, *references = [[Response(**row) for row in draw] for draw in read_json(directory / "draws.json")]
    return own, references
