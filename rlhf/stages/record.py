"""What a finished run leaves behind: the policy, its outputs, its figures beside the SFT model's, a table of them."""

from typing import Any

from rich.table import Table

from rlhf.data.source import Prompt, Response
from rlhf.infra.files import write_json
from rlhf.infra.progress import console
from rlhf.infra.rundir import RunDirectory
from rlhf.stages.baseline import load_baseline
from rlhf.stages.evaluate import Evaluator
from rlhf.stages.pipeline import Pipeline
from rlhf.stages.ppo import POLICY, Learner
from rlhf.stages.train import Result

TABLE = {
    "win_rate": "win rate against SFT, %",
    "win_rate_ties_as_losses": "the same, ties as losses",
    "factuality": "factuality, %",
    "true_kl_per_token": "true KL to SFT, nats per token",
    "response_length": "response length, tokens",
    "repeats": "repeated 4-grams, share",
    "finished": "ended by EOS, share",
    "reward": "reward, SFT deviations",
}
"""Rows of the summary table; a metric's standard error stands under its name with `_se`."""


def record(directory: RunDirectory, pipeline: Pipeline, evaluator: Evaluator, learner: Learner, result: Result) -> None:
    """Write policy/, outputs.json and metrics.json, then mark the run as done."""
    config = pipeline.config
    learner.policy.save(directory.path / POLICY, base=str(pipeline.sft().directory.resolve()))
    write_json(directory.path / "outputs.json", model_outputs(evaluator.prompts, result.responses, directory.path.name))
    own, _ = load_baseline(pipeline.baseline().directory)
    metrics = {
        **result.metrics,
        "regularizer": config.regularizer.name,
        "coef": learner.coefficient.value,
        "seed": config.seed,
        "data_seed": config.data.seed,
        "steps": config.ppo.steps,
        "trainable_weights": sum(weight.numel() for weight in learner.policy_weights),
        "baseline": evaluator.measure(learner.reference, own),
        "stages": {name: done.figures for name, done in pipeline.finished.items()},
        "seconds": {name: done.seconds for name, done in pipeline.finished.items()} | result.seconds,
    }
    write_json(directory.path / "metrics.json", metrics)
    directory.set_status("done", step=config.ppo.steps)


def model_outputs(prompts: list[Prompt], responses: list[Response], generator: str) -> list[dict[str, str]]:
    """AlpacaEval's model_outputs: one row per prompt."""
    return [
        {"instruction": prompt.instruction, "output": response.text, "generator": generator, "dataset": prompt.dataset}
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def show(directory: RunDirectory, state: str) -> dict[str, Any]:
    """Print a finished run's figures beside the SFT model's; returns them."""
    metrics = directory.read_metrics()
    table = Table("", "SFT", "policy", title=f"{directory.path}: {state}", title_justify="left")
    for name, label in TABLE.items():
        if metrics[name] is not None:
            table.add_row(label, _figure(metrics["baseline"], name), _figure(metrics, name))
    console.print(table)
    return metrics


def _figure(metrics: dict[str, Any], name: str) -> str:
    error = metrics.get(f"{name}_se")
    figure = f"{metrics[name]:.3g}"
    return figure if error is None else f"{figure} ± {error:.2g}"
