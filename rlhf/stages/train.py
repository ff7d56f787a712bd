"""The training loop: PPO steps, a row of history for each, an evaluation now and then, checkpoints to go on from."""

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rlhf.console import Track
from rlhf.errors import CheckError, Preempted
from rlhf.evaluation.outputs import RESPONSES
from rlhf.process.signals import StopSignals
from rlhf.stages.evaluator import Evaluation, Evaluator, response_rows
from rlhf.stages.learner import PARTS, Learner, Row
from rlhf.storage.checkpoint import load_checkpoint, save_checkpoint
from rlhf.storage.reader import KEPT
from rlhf.storage.rundir import RunDirectory
from rlhf.tracking.tracker import UNTRACKED, Tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """The last evaluation, and the seconds that training took."""

    evaluation: Evaluation
    seconds: dict[str, float]


@dataclass
class Progress:
    """What a checkpoint holds beside the learner's state: how far the run is, and what that took, in seconds."""

    step: int
    metrics: dict[str, Any]
    ppo_seconds: float
    evaluation_seconds: float
    history_size: int


class Training:
    """The state of the loop; `run` it once."""

    def __init__(
        self,
        learner: Learner,
        evaluator: Evaluator,
        directory: RunDirectory,
        stop: StopSignals,
        tracker: Tracker,
        at_start: Evaluation | None,
    ) -> None:
        self.learner, self.evaluator, self.directory, self.stop = learner, evaluator, directory, stop
        self.tracker, self.at_start = tracker, at_start
        self.interim = evaluator.first(evaluator.config.evaluation.interim_prompts)
        self.settings, self.ranks, self.steps = learner.config, learner.ranks, learner.steps
        self.progress = Progress(0, {}, 0.0, 0.0, 0)
        self.evaluation: Evaluation | None = None
        self.saved_at = time.monotonic()

    def run(self) -> Result:
        """All steps that are left. Row 0 of history.jsonl is the policy before the first."""
        with self.stop.held():
            if not self._go_on():
                self._start()
            track = Track(train(self.learner), self.steps, self.settings.algorithm.name, self.progress.step)
            for row in track:
                self._finish_step(row)
                track.note(progress_note(row, self.progress.metrics))
        evaluation = self.evaluation or self._evaluate(self.steps)  # anew, if gone on from after the last step
        seconds = {"ppo": self.progress.ppo_seconds, "evaluation": self.progress.evaluation_seconds}
        rounded = {name: round(value, 2) for name, value in seconds.items()}
        return Result(evaluation, rounded)

    def _start(self) -> None:
        self.directory.cut_history(0)
        self._tell({"step": 0} | self._evaluated_row(0))
        self._boundary(0)

    def _finish_step(self, row: Row) -> None:
        """Evaluate where it is time, and write the row down; adds an evaluation's figures to it."""
        step = row["step"]
        self.progress.ppo_seconds += sum(row[f"seconds/{part}"] for part in PARTS)
        self._keep(step)
        every = self.settings.evaluation.every
        if step == self.steps or (every and step % every == 0):
            row |= self._evaluated_row(step)
        self._tell(row)
        self.directory.set_status("running", step=step)
        self._boundary(step)

    def _keep(self, step: int) -> None:
        """Leave the policy as it is after a step, where it is time."""
        every = self.settings.ppo.keep_every
        if every and step % every == 0 and self.ranks.is_main:
            kept = self.directory.path / KEPT / f"step-{step}"
            kept.mkdir(parents=True, exist_ok=True)
            self.learner.save(kept)

    def _tell(self, row: Row) -> None:
        self.directory.append_history(row)
        self.tracker.log(row)

    def _evaluated_row(self, step: int) -> Row:
        """What an evaluation adds to a row of history; the responses are there to be read at once."""
        before = self.progress.evaluation_seconds
        evaluation = self.at_start if step == 0 and self.at_start is not None else self._evaluate(step)
        evaluator = self.evaluator if len(evaluation.responses) == len(self.evaluator.prompts) else self.interim
        self.progress.metrics = evaluation.figures
        rows = response_rows(evaluator, evaluation, step)
        self.directory.write_rows(RESPONSES, rows)
        self.tracker.responses(step, rows)
        return evaluation.figures | {"seconds/evaluation": round(self.progress.evaluation_seconds - before, 4)}

    def _evaluate(self, step: int) -> Evaluation:
        """Evaluate the policy, which is saved first, so that no failure here loses it; the last step on all prompts."""
        start = time.perf_counter()
        if self.ranks.is_main:
            self.directory.check_held()
            self.learner.save(self.directory.path)
        evaluator = self.evaluator if step == self.steps else self.interim
        self.evaluation = evaluator(self.learner.policy, self.settings.seed, self.learner.coefficient.value)
        self.progress.evaluation_seconds += time.perf_counter() - start
        return self.evaluation

    def _boundary(self, step: int) -> None:
        """Between two steps: save if it is time, or if any rank was asked to stop, and then stop, all of them."""
        due = time.monotonic() - self.saved_at >= self.settings.checkpoint_seconds
        wish = self.ranks.largest(2 if self.stop.received else int(due and step < self.steps))
        self.progress.step = step
        if wish > 0:
            self._save()
        if wish > 1:
            raise Preempted(self.stop.received or "another rank was asked to stop")

    def _save(self) -> None:
        self.directory.check_held()
        self.ranks.check_same(self.learner.policy_weights)
        self.progress.history_size = self.directory.history_size()
        state = {"learner": self.learner.state(), "progress": asdict(self.progress)}
        if self.ranks.is_main:
            save_checkpoint(self.directory.checkpoints, self.progress.step, state)
        self.saved_at = time.monotonic()

    def _go_on(self) -> bool:
        """Take up the last checkpoint; false where there is none."""
        state = load_checkpoint(self.directory.checkpoints)
        if state is None:
            return False
        self.learner.load_state(state["learner"])
        self.progress = Progress(**state["progress"])
        self.directory.cut_history(self.progress.history_size)
        self.directory.set_status("running", self.progress.step)
        log.info(f"going on after step {self.progress.step} of {self.steps}")
        return True


def train(learner: Learner) -> Iterator[Row]:
    """Take the PPO steps that are left; yields a row of history.jsonl after each.

    Raises CheckError where training has diverged.
    """
    while learner.step_count < learner.steps:
        row = learner.step()
        row = {"step": learner.step_count, **row}
        check_finite(row)
        yield row


def train_in(
    learner: Learner,
    evaluator: Evaluator,
    directory: RunDirectory,
    stop: StopSignals,
    tracker: Tracker = UNTRACKED,
    at_start: Evaluation | None = None,
) -> Result:
    """Train a learner in a run's directory, from its last checkpoint on; evaluated rows hold the policy's figures too.

    `at_start` is the evaluation before the first step, where that is known. Raises Preempted, after saving, where
    `stop` has received a signal.
    """
    return Training(learner, evaluator, directory, stop, tracker, at_start).run()


def check_finite(row: Row) -> None:
    """Raises CheckError, naming the step and the figure, where training has diverged."""
    for name, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            advice = "lower ppo.lr, or raise regularizer.coef"
            raise CheckError(f"PPO has diverged: at step {row['step']} {name} is {value}; {advice}")


def progress_note(row: Row, metrics: dict[str, Any]) -> str:
    """One calm line: the rollout's mean score, objective and KL per response, the last win rates, the speed."""
    names = {"greedy": "win_rate_greedy", "sampled": "win_rate"}
    rates = [f"{label} {metrics[name]:.1f}" for label, name in names.items() if metrics.get(name) is not None]
    wins = f"win rate {', '.join(rates)} %" if rates else "no win rate"
    return (
        f"score {row['rollout/score']:+.2f}, objective {row['rollout/objective']:+.2f}, "
        f"kl {row['rollout/kl_per_response']:.2f}, length {row['rollout/response_length']:.0f}, "
        f"{wins}, {row['samples_per_second']:.0f} samples/s"
    )
