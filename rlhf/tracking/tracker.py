"""Who follows a run beside its own files: wandb or TensorBoard, behind one small interface.

A tracker is told in a thread of its own, and is never waited for but for a while at the end. So whatever is wrong with
it, or with the network, costs the run nothing: it is said once on the console, and the tracker is told no more. Only
the main rank tells.
"""

import logging
import re
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, runtime_checkable

from rlhf.config.run import Config
from rlhf.storage.files import read_json, write_json

log = logging.getLogger(__name__)

Row = Mapping[str, Any]

STOPPED_PATIENCE = 5.0
"""Seconds that a run which was stopped waits at most: who stops it may not wait for longer."""

RESPONSE_COLUMNS = ("instruction", "reference", "response", "preference", "score", "correct", "wrong")
"""Of a row of responses.jsonl; preference is the mean over the references, 1 (SFT) to 2 (policy)."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: done, failed or preempted; with what metrics.json holds, where it is done."""

    state: str
    metrics: Row = field(default_factory=dict)


@runtime_checkable
class Tracker(Protocol):
    """What is told of a run, in its order."""

    def log(self, row: Row) -> None:
        """A row of history.jsonl."""
        ...

    def responses(self, step: int, rows: Sequence[Row]) -> None:
        """The rows of responses.jsonl, of the evaluation after `step`."""
        ...

    def finish(self, outcome: Outcome) -> None: ...


class Untracked:
    """Nobody follows."""

    def log(self, row: Row) -> None: ...

    def responses(self, step: int, rows: Sequence[Row]) -> None: ...

    def finish(self, outcome: Outcome) -> None: ...


UNTRACKED = Untracked()


class InBackground:
    """Tells the tracker that `make` returns whatever it is told itself, later and in another thread."""

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
        """Wait until all is told, but not for longer than `patience`."""

        def last(tracker: Tracker) -> None:
            self.ended = True
            tracker.finish(outcome)

        self._later(last)
        patience = self.patience if outcome.state == "done" else min(self.patience, STOPPED_PATIENCE)
        self.thread.join(patience)
        if self.thread.is_alive():
            self.left_behind = True
            self._say(f"has not taken everything in {patience:.0f} s, and is left behind")

    def _later(self, call: Callable[[Tracker], None]) -> None:
        if not self.ended:
            self.calls.put(call)

    def _work(self) -> None:
        try:
            tracker = self.make()
            while not self.ended:
                self.calls.get()(tracker)
        except BaseException as error:  # whatever it is, the run must not suffer
            self.ended = True
            if not self.left_behind:
                self._say(f"is dropped, and the run goes on without: {in_a_line(error)}")

    def _say(self, text: str) -> None:
        log.info(f"tracker={self.name} {text}")


def plain(config: Config) -> dict[str, Any]:
    """The configuration as nested dictionaries, without the tracker's own."""
    return {name: value for name, value in asdict(config).items() if name != "tracker"}


def stable_id(directory: Path) -> str:
    """By what the tracker knows the run or sweep here, however often it goes on; made at the first start."""
    path = directory / "tracker.json"
    if not path.exists():
        write_json(path, {"id": secrets.token_hex(4)})
    return str(read_json(path)["id"])


def sweep_of(directory: Path) -> str | None:
    """The sweep that a run belongs to: Hydra leaves a multirun.yaml in its directory."""
    return directory.resolve().parent.name if (directory.parent / "multirun.yaml").exists() else None


def overrides_of(directory: Path) -> list[str]:
    """Those that a run's directory is named by; a comma inside a value parts nothing."""
    return re.split(r",(?=[^,=]+=)", directory.resolve().name)


def numbers(row: Row) -> dict[str, int | float]:
    """What can be drawn of a row of history.jsonl, under the names that sort it into sections of a dashboard."""
    found = {name: value for name, value in row.items() if isinstance(value, int | float)}
    return {name if "/" in name or name == "step" else f"{section(name)}/{name}": found[name] for name in found}


def section(name: str) -> str:
    return "throughput" if name == "samples_per_second" else "evaluation"


def response_cells(row: Row) -> list[Any]:
    """One for each of RESPONSE_COLUMNS."""
    known = [preference for preference in row["preferences"] or [] if preference is not None]
    preference = sum(known) / len(known) if known else None
    return [preference if name == "preference" else row[name] for name in RESPONSE_COLUMNS]


def in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
