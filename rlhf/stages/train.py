"""The training loop: PPO steps, an evaluation now and then, a row of history for each."""

import math
import time
from dataclasses import dataclass
from typing import Any

from rlhf.errors import CheckError
from rlhf.infra.progress import Track
from rlhf.infra.rundir import RunDirectory
from rlhf.stages.evaluate import Evaluation, Evaluator
from rlhf.stages.learner import PARTS, Learner, Row


@dataclass(frozen=True)
class Result:
    """The last evaluation, and the seconds that training took."""

    evaluation: Evaluation
    seconds: dict[str, float]


def train(learner: Learner, evaluator: Evaluator, directory: RunDirectory) -> Result:
    """All steps. Row 0 of history.jsonl is the policy before the first; evaluated rows hold its figures too."""
    settings = learner.config
    start = time.perf_counter()
    ppo_seconds = 0.0
    learner.save(directory.path)
    evaluation = evaluator(learner.policy, seed=settings.seed)
    directory.append_history({"step": 0, **evaluation.figures})
    steps = learner.steps
    track = Track(range(1, steps + 1), steps, settings.algorithm.name)
    for step in track:
        row: Row = {"step": step, **learner.step()}
        ppo_seconds += sum(row[f"seconds/{part}"] for part in PARTS)
        check_finite(row)
        if step == steps or (settings.evaluation.every and step % settings.evaluation.every == 0):
            learner.save(directory.path)  # before evaluating, so that no failure there loses it
            evaluation = evaluator(learner.policy, seed=settings.seed)
            row |= evaluation.figures
        directory.append_history(row)
        directory.set_status("running", step=step)
        track.note(progress_note(row, evaluation.figures))
    evaluation_seconds = time.perf_counter() - start - ppo_seconds
    return Result(evaluation, {"ppo": round(ppo_seconds, 2), "evaluation": round(evaluation_seconds, 2)})


def check_finite(row: Row) -> None:
    """Raises CheckError, naming the step and the figure, where training has diverged."""
    for name, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            advice = "lower ppo.lr, or raise regularizer.coef"
            raise CheckError(f"PPO has diverged: at step {row['step']} {name} is {value}; {advice}")


def progress_note(row: Row, metrics: dict[str, Any]) -> str:
    """One calm line: this rollout's score and KL, the last win rate, the speed."""
    rate, error = metrics["win_rate"], metrics["win_rate_se"]
    wins = "no win rate" if rate is None else f"win rate {rate:.1f} ± {error:.1f} %"
    return (
        f"score {row['rollout/score']:+.2f}, kl {row['rollout/kl']:.3f}, length {row['rollout/response_length']:.0f}, "
        f"{wins}, {row['samples_per_second']:.0f} samples/s"
    )
