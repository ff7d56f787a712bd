"""Long work that can be stopped: its state is saved now and then and when a signal asks, and it goes on from there.

Supervised training saves after its steps, sampling and scoring after their batches, PPO after its steps. What goes on
computes what undisturbed work computes, to the last bit; on another processor it says that it may not.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from rlhf.console import TELL_SECONDS
from rlhf.models.backbone import CPU, processor
from rlhf.process.distributed import ALONE, Ranks
from rlhf.process.signals import StopSignals
from rlhf.storage.checkpoint import copy_newest, load_checkpoint, local_folder, save_checkpoint

log = logging.getLogger(__name__)

Result = TypeVar("Result")
State = dict[str, Any]

SAVING_SHARE = 1 / 20
"""The share of the time that saving may take: a checkpoint that takes long to write is written less often."""

PROCESSOR = "processor"
"""What a checkpoint calls that which computed it."""

ROUNDING = "the results may differ in rounding from those of work that was not stopped"

COPY_EVERY = 10
"""So many checkpoints on the node's own disk, by time, to one in the run's directory."""


class Saver:
    """Saves the state of work at its boundaries, where it is time, and where any rank was asked to stop: then it ends.

    `seconds` lie between two checkpoints at least; 0: one at each boundary. With a `disk` of the node they go there;
    one every COPY_EVERY times these seconds, and the last one before the work ends, go to `folder` too. `device` is
    what computes.
    """

    def __init__(
        self,
        folder: Path,
        stop: StopSignals,
        seconds: float,
        ranks: Ranks = ALONE,
        disk: str | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.folder, self.stop, self.seconds, self.ranks, self.disk = folder, stop, seconds, ranks, disk
        self.saved_at, self.cost = time.monotonic(), 0.0
        self.copied_at, self.processor = self.saved_at, processor(device)

    def load(self) -> State | None:
        """The last state that was saved whole, here or in `folder`; None where there is none.

        Warns where another processor has saved it.
        """
        if self.disk is not None:
            disk = self.disk
            self.ranks.run_on_main(lambda: copy_newest(local_folder(disk, self.folder), self.folder))
        state = load_checkpoint(self.folder)
        before = self.processor if state is None else state.pop(PROCESSOR, self.processor)
        if before != self.processor:
            log.warning(f"goes on on {self.processor}, was saved on {before}: {ROUNDING}")
        return state

    def boundary(self, step: int, state: Callable[[], State]) -> None:
        """Save what `state` returns, which all ranks call, if it is time; raises Preempted, after saving, if asked."""
        wait = max(self.seconds, self.cost / SAVING_SHARE) if self.seconds else 0.0
        due = time.monotonic() - self.saved_at >= wait
        asked, due = max(self.ranks.gather_objects([(self.stop.received or "", due)]))
        if asked or due:
            self.save(step, state, last=bool(asked))
        if asked:
            self.stop.end(asked)

    def save(self, step: int, state: Callable[[], State], last: bool) -> None:
        """Save what `state` returns, which all ranks call; `last`: nothing is saved after it."""
        start, found = time.perf_counter(), state()
        if self.ranks.is_main:
            folder = self.folder if self.disk is None else local_folder(self.disk, self.folder)
            save_checkpoint(folder, step, found | {PROCESSOR: self.processor})
            if folder != self.folder and (last or time.monotonic() - self.copied_at >= COPY_EVERY * self.seconds):
                copy_newest(folder, self.folder)
                self.copied_at = time.monotonic()
        self.cost, self.saved_at = time.perf_counter() - start, time.monotonic()


class Pieces:
    """The results of work's parts, plain values, which are asked for in the same order whenever the work is begun."""

    def __init__(self, boundary: Callable[[], None], known: list[Any] | None = None) -> None:
        self.boundary, self.results, self.place = boundary, known or [], 0

    def __call__(self, compute: Callable[[], Result]) -> Result:
        """What `compute` returns, or has returned before the work was stopped; then a boundary."""
        if self.place == len(self.results):
            self.results.append(compute())
            self.place += 1
            self.boundary()
        else:
            self.place += 1
        return self.results[self.place - 1]

    def begin(self) -> None:
        """From here the parts are asked for from the first on."""
        self.place = 0

    def clear(self) -> None:
        """Forget the results: other work begins."""
        self.results, self.place = [], 0


class Progress:
    """How far one stage is: `training`, what `fit` has left, and the `pieces` of all else that takes long.

    Without a `saver` nothing is kept and nothing stops the work.
    """

    def __init__(self, title: str = "", saver: Saver | None = None) -> None:
        self.title, self.saver = title, saver
        state = (saver.load() if saver else None) or {"training": None, "pieces": []}
        self.training: State | None = state["training"]
        self.pieces = Pieces(self._pass, state["pieces"])
        self.start = self.told = time.monotonic()
        if self.training or self.pieces.results:
            log.info(f"{title}: going on from where it was stopped")

    def piece(self, compute: Callable[[], Result]) -> Result:
        """What `compute` returns, or has returned before the stage was stopped."""
        if self.saver is None:
            return compute()
        with self.saver.stop.held():
            return self.pieces(compute)

    def boundary(self, steps: int, training: Callable[[], State]) -> None:
        """Between two steps of training: save its state if it is time; raises Preempted, after saving, if asked."""
        if self.saver is not None:
            self.saver.boundary(steps, lambda: {"training": training(), "pieces": []})

    def trained(self, training: State) -> None:
        """Training is over, and has left this."""
        if self.saver is not None:
            self.training = training

    def _pass(self) -> None:
        assert self.saver is not None
        now, done = time.monotonic(), len(self.pieces.results)
        if now - self.told >= TELL_SECONDS:
            self.told = now
            log.info(f"{self.title}: batch {done} is done, {now - self.start:.0f} s")
        steps = self.training["step"] if self.training else 0
        self.saver.boundary(steps + done, lambda: {"training": self.training, "pieces": self.pieces.results})


NOT_KEPT = Progress()
"""Stands for work that nobody goes on with."""
