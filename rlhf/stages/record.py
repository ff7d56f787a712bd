"""What a finished run leaves behind: the policy, its outputs, and its figures beside the SFT model's."""

import resource

from rlhf.data.source import Prompt, Response
from rlhf.infra.files import write_json
from rlhf.infra.rundir import RunDirectory
from rlhf.stages.baseline import load_baseline
from rlhf.stages.evaluate import Evaluator
from rlhf.stages.pipeline import Pipeline
from rlhf.stages.ppo import Learner
from rlhf.stages.train import Result


def record(directory: RunDirectory, pipeline: Pipeline, evaluator: Evaluator, learner: Learner, result: Result) -> None:
    """Write outputs.json and metrics.json, then mark the run as done; policy/ is there since the last step."""
    config = pipeline.config
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
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
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
