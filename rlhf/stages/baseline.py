"""The baseline: the SFT model's responses to the evaluation prompts, drawn once and shared by all runs on that model.

`evaluation.references` draws and one greedy response are what policies are compared with, each with its like; one
further draw stands for the SFT model itself, so that its own figures are measured like a policy's. As controls it is
also sampled at lower temperatures: what those win, sharpening alone wins.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from rlhf.config.run import Config
from rlhf.console import Track
from rlhf.data.source import Prompt, Response, Source
from rlhf.evaluation.winrate import Judgement
from rlhf.models.adapters import SharedBase
from rlhf.models.sampler import Sampler
from rlhf.stages.evaluator import Evaluation, Evaluator
from rlhf.storage.files import read_json, write_json

VERSION, FIGURES_VERSION = 3, 2

BY_DEFINITION = {"win_rate": 50.0, "win_rate_greedy": 50.0}
"""What the SFT model wins against itself; a draw of it against other draws would only add their noise."""

NOT_OF_ITSELF = ("win_rate", "n_eval", "n_null", "judge_problem")


@dataclass(frozen=True)
class Baseline:
    """The SFT model's own draw, the draws and the greedy responses to compare with, and draws at lower temperatures."""

    own: list[Response]
    references: list[list[Response]]
    greedy: list[Response]
    controls: dict[str, list[Response]]


def evaluation_prompts(config: Config, source: Source) -> list[Prompt]:
    """The prompts on which every run of this data and configuration is evaluated."""
    return source.prompts(config.evaluation.split, config.evaluation.prompts, Random(f"{config.data_seed}/evaluation"))  # pyright: ignore[reportArgumentType]


def draw_baseline(
    config: Config, prompts: list[Prompt], base: SharedBase, sampler: Sampler, directory: Path
) -> dict[str, Any]:
    """Sample all draws into `directory`; returns their number, and how many prompts were cut, where any was."""
    generator = torch.Generator(sampler.device).manual_seed(config.data_seed)
    settings = config.evaluation
    limits = settings.max_response_tokens, settings.max_prompt_tokens
    lower = settings.control_temperatures if settings.temperature > 0 else []  # beside sampled references only
    temperatures = [settings.temperature] * (settings.references + 1) + [0.0, *lower]
    draws = [
        sampler.sample(base.reference(), prompts, temperature, generator, *limits)
        for temperature in Track(temperatures, len(temperatures), "baseline")
    ]
    own, *references = draws[: settings.references + 1]
    greedy, *controls = draws[settings.references + 1 :]
    named = dict(zip(map(str, lower), controls, strict=True))
    write_json(directory / "draws.json", asdict(Baseline(own, references, greedy, named)))
    cut = sampler.count_cut(prompts, settings.max_prompt_tokens)
    return {"draws": len(draws), **({"cut_prompts": cut} if cut else {})}


def load_baseline(directory: Path) -> Baseline:
    """All draws of the baseline in `directory`."""
    found = read_json(directory / "draws.json")
    return Baseline(
        responses(found["own"]),
        [responses(draw) for draw in found["references"]],
        responses(found["greedy"]),
        {temperature: responses(draw) for temperature, draw in found["controls"].items()},
    )


def responses(rows: list[dict[str, Any]]) -> list[Response]:
    return [Response(**row) for row in rows]


def measure_baseline(evaluator: Evaluator, baseline: Baseline) -> dict[str, Any]:
    """The SFT model's `own` figures, the `scores` of its own draw, and its `controls`' figures by temperature."""
    silent = replace(evaluator, judge=lambda prompts, outputs, references: [None] * len(prompts))
    found = silent.add_greedy(silent.measure(evaluator.reference, baseline.own), baseline.greedy)
    own = {name: value for name, value in found.figures.items() if not name.startswith(NOT_OF_ITSELF)}
    controls = {
        temperature: without_objective(evaluator.measure(evaluator.reference, draw, temperature=float(temperature)))
        for temperature, draw in baseline.controls.items()
    }
    rates = {} if evaluator.config.judge.name == "none" else BY_DEFINITION
    return {"own": own | rates, "scores": found.scores, "controls": controls}


def without_objective(evaluation: Evaluation) -> dict[str, Any]:
    """The figures of responses that no run's penalty is weighed with."""
    return {name: value for name, value in evaluation.figures.items() if not name.startswith("objective")}


def evaluation_at_start(baseline: Baseline, measured: dict[str, Any]) -> Evaluation:
    """What an evaluation of a policy gives that is still the SFT model: nothing is sampled or measured again."""
    sampled, greedy = unjudged(baseline.own, baseline.references), unjudged(baseline.greedy, [baseline.greedy])
    return Evaluation(measured["own"], baseline.own, sampled, measured["scores"], baseline.greedy, greedy)


def unjudged(given: list[Response], references: list[list[Response]]) -> list[Judgement]:
    """Judgements that hold lengths alone."""
    rows = zip(*references, strict=True)
    lengths = [[len(reference.token_ids) for reference in row] for row in rows]
    return [Judgement(None, len(own.token_ids), row) for own, row in zip(given, lengths, strict=True)]
