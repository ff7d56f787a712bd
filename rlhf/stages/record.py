"""What a finished run leaves behind: the policy, its outputs, and its figures beside the SFT model's."""

import math
import resource
from collections.abc import Sequence
from typing import Any

import torch

from rlhf.config.rl import followed
from rlhf.config.run import Config
from rlhf.data.source import Prompt, Response
from rlhf.evaluation.outputs import GREEDY_OUTPUTS, GREEDY_REFERENCES, OUTPUTS, REFERENCES, RESPONSES
from rlhf.stages.evaluator import Evaluation, Evaluator, response_rows
from rlhf.stages.learner import Learner
from rlhf.stages.setting import Setting
from rlhf.stages.train import Result
from rlhf.storage.rundir import RunDirectory

MOST_CLIPPED = 0.3
"""The share of clipped ratios, averaged over a run, above which its learning rate is the likeliest fault."""


def record(
    directory: RunDirectory, setting: Setting, evaluator: Evaluator, learner: Learner, result: Result
) -> dict[str, Any]:
    """Write outputs, references, responses and metrics, then mark the run as done; policy/ is there already.

    Returns what metrics.json holds.
    """
    config, figures = learner.config, result.evaluation.figures
    write_outputs(directory, evaluator, result.evaluation, learner.steps, directory.path.name)
    baseline, pipeline = setting.baseline(evaluator), setting.pipeline
    metrics = {
        **figures,
        "objective_problem": objective_problem(config, figures, directory.read_history()),
        "algorithm": config.algorithm.name,
        "regularizer": config.regularizer.name,
        "placement": config.regularizer.placement,
        "coef": learner.coefficient.value,
        "seed": config.seed,
        "data_seed": config.data_seed,
        "steps": learner.steps,
        "processes": learner.ranks.size,
        "trainable_weights": sum(weight.numel() for weight in learner.policy_weights),
        "memory": {
            "device": pipeline.device.type,
            "estimate_mib": round(setting.memory(config).total / 2**20),
            "peak_mib": round(peak_memory_mib(pipeline.device.type)),
        },
        "baseline": baseline["own"],
        "controls": baseline["controls"],
        "asked": evaluator.asked(),
        "stages": {name: done.figures for name, done in pipeline.finished.items()},
        "seconds": {name: done.seconds for name, done in pipeline.finished.items()} | result.seconds,
    }
    directory.write_json("metrics.json", metrics)
    directory.set_status("done", step=learner.steps)
    return metrics


def write_outputs(
    directory: RunDirectory, evaluator: Evaluator, evaluation: Evaluation, step: int, generator: str
) -> None:
    """Write responses after a step, what they are compared with, and verdicts; `generator` names the policy in them."""
    directory.write_json(OUTPUTS, model_outputs(evaluator.prompts, evaluation.responses, generator))
    directory.write_json(REFERENCES, reference_outputs(evaluator))
    directory.write_rows(RESPONSES, response_rows(evaluator, evaluation, step))
    if evaluation.greedy is not None:
        directory.write_json(GREEDY_OUTPUTS, model_outputs(evaluator.prompts, evaluation.greedy, generator))
        references = model_outputs(evaluator.prompts, evaluator.greedy_reference, "sft")
        directory.write_json(GREEDY_REFERENCES, references)


def objective_problem(config: Config, final: dict[str, Any], history: Sequence[dict[str, Any]]) -> str | None:
    """Says where a run ended below its own starting objective, and the likeliest reason; None where it did not.

    `history` begins with the evaluation before the first step.
    """
    start = history[0]
    before, after = start["objective"], final["objective"]
    if after is None or round(after, 2) >= round(before, 2):
        return None
    error = math.hypot(start["objective_se"], final["objective_se"])
    form = config.regularizer
    clipped = [row["ppo/clip_fraction"] for row in history if "ppo/clip_fraction" in row]
    if followed(form.name, form.placement) is None:
        reason = (
            f"{form.name} with regularizer.placement={form.placement} does not follow the gradient of its own "
            "expectation (docs/regularizers.md): use regularizer.placement=both, or a lower regularizer.coef"
        )
    elif clipped and sum(clipped) / len(clipped) > MOST_CLIPPED:
        reason = f"{100 * sum(clipped) / len(clipped):.0f} % of the ratios were clipped: lower ppo.lr"
    else:
        reason = "updates followed the noise of their rollouts: lower ppo.lr, or raise rollout.batch_size or ppo.steps"
    doubt = ", within two standard errors" if before - after < 2 * error else ""
    return f"the objective ended at {after:+.2f}, below {before:+.2f} at its start{doubt}: {reason}"


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
