"""What a finished run leaves behind: the policy, its outputs, and its figures beside the SFT model's."""

import resource
from typing import Any

import torch

from rlhf.data.source import Prompt, Response
from rlhf.infra.rundir import RunDirectory
from rlhf.stages.baseline import load_baseline
from rlhf.stages.evaluate import Evaluator
from rlhf.stages.judged import judgement_rows
from rlhf.stages.learner import Learner
from rlhf.stages.pipeline import Pipeline
from rlhf.stages.train import Result


def record(
    directory: RunDirectory, pipeline: Pipeline, evaluator: Evaluator, learner: Learner, result: Result
) -> dict[str, Any]:
    """Write outputs, references, judgements and metrics, then mark the run as done; policy/ is there already.

    Returns what metrics.json holds.
    """
    config, (figures, responses, *_) = pipeline.config, result.evaluation
    directory.write_json("outputs.json", model_outputs(evaluator.prompts, responses, directory.path.name))
    directory.write_json("references.json", reference_outputs(evaluator))
    directory.write_rows("judgements.jsonl", judgement_rows(evaluator, result.evaluation))
    own, _ = load_baseline(pipeline.baseline().directory)
    metrics = {
        **figures,
        **evaluator.greedy(learner.policy),
        "algorithm": config.algorithm.name,
        "regularizer": config.regularizer.name,
        "placement": config.regularizer.placement,
        "coef": learner.coefficient.value,
        "seed": config.seed,
        "data_seed": config.data.seed,
        "steps": learner.steps,
        "processes": learner.ranks.size,
        "trainable_weights": sum(weight.numel() for weight in learner.policy_weights),
        "memory": {
            "device": pipeline.device.type,
            "estimate_mib": round(pipeline.memory.total / 2**20),
            "peak_mib": round(peak_memory_mib(pipeline.device.type)),
        },
        "baseline": evaluator.measure(learner.reference, own).figures | evaluator.greedy(learner.reference),
        "asked": pipeline.asked(),
        "stages": {name: done.figures for name, done in pipeline.finished.items()},
        "seconds": {name: done.seconds for name, done in pipeline.finished.items()} | result.seconds,
    }
    directory.write_json("metrics.json", metrics)
    directory.set_status("done", step=learner.steps)
    return metrics


def peak_memory_mib(device: str) -> float:
    """The most that this process has held: of a GPU what torch has allotted, else of main memory."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def reference_outputs(evaluator: Evaluator) -> list[dict[str, Any]]:
    """What the responses were compared with, as model_outputs, each row with the number of its `draw`."""
    draws = enumerate(evaluator.references)
    return [{**row, "draw": number} for number, draw in draws for row in model_outputs(evaluator.prompts, draw, "sft")]


def model_outputs(prompts: list[Prompt], responses: list[Response], generator: str) -> list[dict[str, str]]:
    """AlpacaEval's model_outputs: one row per prompt."""
    return [
        {"instruction": prompt.instruction, "output": response.text, "generator": generator, "dataset": prompt.dataset}
        for prompt, response in zip(prompts, responses, strict=True)
    ]
