"""Trackers: dashboards that a run logs to beside its own files, wandb or TensorBoard, behind one small interface.

A tracker works in a thread of its own, and only the end of a run waits for it, for a limited time. A tracker or network
that fails therefore costs the run nothing: the failure is logged once, and the tracker is dropped. Only the main rank
logs to it.
"""

import logging
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from rlhf.config.gate import as_written
from rlhf.config.run import Config
from rlhf.endpoints.said import clean
from rlhf.process.signals import block_until_handled
from rlhf.storage.files import read_json, write_json

log = logging.getLogger(__name__)

Row = Mapping[str, Any]

STOPPED_PATIENCE = 5.0
"""Seconds that a stopped run waits at most: what stopped it may not wait for longer."""

RESPONSE_COLUMNS = ("instruction", "reference", "response", "preference", "score", "correct", "wrong")
"""The columns of a table of responses; preference is the mean over the references, from 1 (SFT) to 2 (policy)."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `state` is done, failed or preempted; `metrics` are metrics.json's, where it is done."""

    state: str
    metrics: Row = field(default_factory=dict)


class Tracker:
    """The interface of trackers, whose methods are called in a run's order; this one ignores all calls."""

    def log(self, row: Row) -> None:
        """Take a row of history.jsonl."""

    def responses(self, step: int, rows: Sequence[Row]) -> None:
        """Take the rows of responses.jsonl, of the evaluation after `step`."""

    def finish(self, outcome: Outcome) -> None:
        """End with the run."""


UNTRACKED = Tracker()


class InBackground(Tracker):
    """Passes all calls on to the tracker that `make` returns, later and in another thread."""

    def __init__(self, name: str, make: Callable[[], Tracker], patience: float) -> None:
        self.name, self.make, self.patience = name, make, patience
        self.calls: SimpleQueue[Callable[[Tracker], None]] = SimpleQueue()
        self.ended = self.left_behind = False
        self.thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self.thread.start()

    def log(self, row: Row) -> None:
        self._later(lambda tracker: tracker.log(row))

    def responses(self, step: int, rows: Sequence[Row]) -> None:
        self._later(lambda tracker: tracker.responses(step, rows))

    def finish(self, outcome: Outcome) -> None:
        """Wait until the tracker has taken all calls, but no longer than `patience`."""

        def last(tracker: Tracker) -> None:
            self.ended = True
            tracker.finish(outcome)

        self._later(last)
        patience = self.patience if outcome.state == "done" else min(self.patience, STOPPED_PATIENCE)
        self.thread.join(patience)
        if self.thread.is_alive():
            self.left_behind = True
            self._warn(f"has not taken everything in {patience:.0f} s, and is left behind")

    def _later(self, call: Callable[[Tracker], None]) -> None:
        if not self.ended:
            self.calls.put(call)

    def _work(self) -> None:
        block_until_handled()  # SLURM signals all of a job's processes, those too that a tracker starts
        try:
            tracker = self.make()
            while not self.ended:
                self.calls.get()(tracker)
        except BaseException as error:  # whatever it is, the run goes on
            self.ended = True
            if not self.left_behind:
                self._warn(f"is dropped, and the run goes on without: {in_a_line(error)}")

    def _warn(self, text: str) -> None:
        log.info(f"tracker={self.name} {text}")


def plain(config: Config) -> dict[str, Any]:
    """The configuration as nested dictionaries, without the section `tracker`."""
    return {name: value for name, value in as_written(config).items() if name != "tracker"}


def stable_id(directory: Path) -> str:
    """The tracker's id of a run or sweep, made at its first start and kept there; a wandb agent brings its own."""
    path = directory / "tracker.json"
    if "WANDB_SWEEP_ID" in os.environ and "WANDB_RUN_ID" in os.environ:
        write_json(path, {"id": os.environ["WANDB_RUN_ID"]})
    if not path.exists():
        write_json(path, {"id": secrets.token_hex(4)})
    return str(read_json(path)["id"])


def numbers(row: Row) -> dict[str, int | float]:
    """The numbers of a row of history.jsonl, under names that sort them into the sections of a dashboard."""
    sections = {"step": "", "samples_per_second": "throughput/"}
    return {
        name if "/" in name else f"{sections.get(name, 'evaluation/')}{name}": value
        for name, value in row.items()
        if isinstance(value, int | float)
    }


def response_cells(row: Row) -> list[Any]:
    """The cells of a row of responses.jsonl, one for each of RESPONSE_COLUMNS."""
    known = [preference for preference in row["preferences"] or [] if preference is not None]
    preference = sum(known) / len(known) if known else None
    return [preference if name == "preference" else row[name] for name in RESPONSE_COLUMNS]


def in_a_line(error: BaseException) -> str:
    """An error's message without line breaks, and without keys: it may be a server's."""
    return " ".join(clean(str(error)).split()) or type(error).__name__
