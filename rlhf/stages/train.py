"""The training loop: PPO steps, a row of history for each, an evaluation now and then, checkpoints to go on from."""

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from rlhf.console import Track
from rlhf.errors import Preempted
from rlhf.evaluation.outputs import RESPONSES
from rlhf.process.signals import StopSignals
from rlhf.search.pruning import Pruning
from rlhf.stages.checks import check_finite
from rlhf.stages.evaluator import Evaluation, Evaluator, response_rows
from rlhf.stages.learner import PARTS, Learner, Row
from rlhf.stages.progress import Pieces, Saver
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


class Training:
    """The state of the loop; `run` it once.

    `pending` is the row of a step whose evaluation is under way, `pieces` what that has computed so far.
    """

    def __init__(
        self,
        learner: Learner,
        evaluator: Evaluator,
        directory: RunDirectory,
        stop: StopSignals,
        tracker: Tracker,
        at_start: Evaluation | None,
    ) -> None:
        self.learner, self.directory, self.stop, self.tracker = learner, directory, stop, tracker
        self.settings, self.ranks, self.steps = learner.config, learner.ranks, learner.steps
        disk = self.settings.checkpoint_local_dir
        seconds, device = self.settings.checkpoint_seconds, learner.sampler.device
        self.saver = Saver(directory.checkpoints, stop, seconds, self.ranks, disk, device)
        self.pieces = Pieces(self._boundary)
        self.pending: Row | None = None
        self.evaluator = replace(evaluator, sampler=evaluator.sampler.in_pieces(self.pieces))
        self.interim = self.evaluator.first(self.settings.evaluation.interim_prompts)
        self.progress, self.at_start = Progress(0, {}, 0.0, 0.0), at_start
        self.evaluation: Evaluation | None = None
        self.pruning = Pruning(self.settings, directory)

    def run(self) -> Result:
        """All steps that are left; row 0 of history.jsonl is before the first. Raises Pruned, after saving."""
        with self.stop.held():
            row = self._begin()
            if row is not None:
                self._finish_step(row)
            else:
                self._check_pruned(None)
            track = Track(train(self.learner), self.steps, self.settings.algorithm.name, self.progress.step)
            for row in track:
                self.progress.ppo_seconds += sum(row[f"seconds/{part}"] for part in PARTS)
                self._keep(row["step"])
                self._finish_step(row)
                track.note(progress_note(row, self.progress.metrics))
            evaluation = self.evaluation or self._evaluate(self.steps)  # where no step was left to take
        seconds = {"ppo": self.progress.ppo_seconds, "evaluation": self.progress.evaluation_seconds}
        rounded = {name: round(value, 2) for name, value in seconds.items()}
        return Result(evaluation, rounded)

    def _begin(self) -> Row | None:
        """Take up the last checkpoint, if there is one; returns the row that is still to be finished."""
        state = self.saver.load()
        if state is None:
            self.directory.restore_history("")
            return {"step": 0}
        self.learner.load_state(state["learner"])
        self.progress = Progress(**state["progress"])
        if len(state["pieces"]) == self.ranks.size:  # else the evaluation begins anew
            self.pieces.results = state["pieces"][self.ranks.rank]
        self.directory.restore_history(state["history"])
        self.directory.set_step(self.progress.step, at_once=True)
        log.info(f"going on after step {self.progress.step} of {self.steps}")
        return state["row"]

    def _finish_step(self, row: Row) -> None:
        """Evaluate where it is time, and write the row down; adds an evaluation's figures to it."""
        self.progress.step = step = row["step"]
        every, figures = self.settings.evaluation.every, None
        is_evaluated = step in (0, self.steps) or (every > 0 and step % every == 0)
        self.directory.set_step(step, at_once=is_evaluated)
        if is_evaluated:
            self.pending = dict(row)
            self._boundary()
            figures = self._evaluated_row(step)
            row |= figures
        if step < self.steps:
            self.pending = None
            self.pieces.clear()
        self.directory.append_history(row)
        self.tracker.log(row)
        if step < self.steps:
            self._check_pruned(figures)
            self._boundary()

    def _check_pruned(self, figures: Row | None) -> None:
        """Raise Pruned, the state saved, where it is decided that the run ends here."""
        step = self.progress.step
        decided = self.ranks.run_on_main(lambda: self.pruning.check(step, figures))
        if decided is not None:
            self.saver.save(step, self._state, last=True)
            raise decided

    def _keep(self, step: int) -> None:
        """Leave the policy as it is after a step, where it is time."""
        every = self.settings.ppo.keep_every
        if every and step % every == 0 and self.ranks.is_main:
            kept = self.directory.path / KEPT / f"step-{step}"
            kept.mkdir(parents=True, exist_ok=True)
            self.learner.save(kept)

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
        self.pieces.begin()
        evaluator = self.evaluator if step == self.steps else self.interim
        try:
            self.evaluation = evaluator(self.learner.policy, self.settings.seed, self.learner.coefficient.value)
        except Preempted:
            if self.ranks.size == 1 and not self.stop.ending:  # a judge was being asked: save what came before
                self._boundary()
            raise
        self._boundary()
        self.progress.evaluation_seconds += time.perf_counter() - start
        return self.evaluation

    def _boundary(self) -> None:
        """Between two steps or parts of an evaluation: save if it is time, or if asked to stop, and then stop."""
        self.saver.boundary(self.progress.step, self._state)

    def _state(self) -> dict[str, Any]:
        self.directory.check_held()
        self.ranks.check_same(self.learner.policy_weights)
        pieces = self.ranks.gather_objects([self.pieces.results])
        mine = {"progress": asdict(self.progress), "row": self.pending, "pieces": pieces}
        return {"learner": self.learner.state(), "history": self.directory.history_text(), **mine}


def train(learner: Learner) -> Iterator[Row]:
    """Take the PPO steps that are left; yields a row of history.jsonl after each.

    Raises CheckError where training has diverged.
    """
    while learner.step_count < learner.steps:
        row = learner.step()
        row = {"step": learner.step_count, **row}
        advice = "lower ppo.lr, or raise regularizer.coef"
        check_finite("PPO", {f"at step {row['step']} {name}": value for name, value in row.items()}, advice)
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
    `stop` has received a signal, and Pruned where it is decided that the run ends before its last step.
    """
    return Training(learner, evaluator, directory, stop, tracker, at_start).run()


def progress_note(row: Row, metrics: dict[str, Any]) -> str:
    """One calm line: the rollout's mean score, objective and KL per response, the last win rates, the speed."""
    names = {"greedy": "win_rate_greedy", "sampled": "win_rate"}
    rates = [f"{label} {metrics[name]:.1f}" for label, name in names.items() if metrics.get(name) is not None]
    wins = f"win rate {', '.join(rates)} %" if rates else f"reward {metrics['reward']:+.2f} when evaluated"
    speed = row["samples_per_second"]
    return (
        f"score {row['rollout/score']:+.2f}, objective {row['rollout/objective']:+.2f}, "
        f"kl {row['rollout/kl_per_response']:.2f}, length {row['rollout/response_length']:.0f}, "
        f"{wins}, {speed:.{0 if speed >= 10 else 2}f} samples/s"
    )
