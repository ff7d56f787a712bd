"""A run's directory, which is all that reports and other tools know of it.

config.yaml (resolved), status.json (state; step, of how many steps; reason; time), history.jsonl (a row per PPO step),
metrics.json (the final figures), outputs.json (AlpacaEval's model_outputs), judgements.jsonl (what was made of each, a
row per evaluation prompt), policy/ (the trained adapter or model), checkpoint/ (to go on from, until the run is done),
job.json (where a launcher has put it: its job, its log).
"""

import difflib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import SoftFileLease, Timeout
from omegaconf import OmegaConf

from rlhf.compose import from_yaml
from rlhf.config.run import Config
from rlhf.errors import ConfigError, Preempted
from rlhf.infra.files import read_json, write_json, write_text

STATES = ("pending", "running", "preempted", "failed", "cancelled", "done")
"""pending: a launcher has taken it on; preempted: stopped by a signal after saving, to go on when started again."""

LEASE_SECONDS = 30.0
"""So long without a sign of life, and a run or a stage's builder on another machine is taken for dead."""


class RunDirectory:
    """One run's directory: `open` it first, do the work inside `outcome_recorded`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self, config: Config) -> None:
        """Make the directory this config's, before anything runs there.

        Raises ConfigError, with the lines that differ, where the directory holds a run of another config.
        """
        text = OmegaConf.to_yaml(OmegaConf.structured(config))
        saved = self.path / "config.yaml"
        if saved.exists():
            self._check_same(saved.read_text(), text)
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(saved, text)

    def _check_same(self, saved: str, asked: str) -> None:
        if saved != asked:
            lines = difflib.unified_diff(saved.splitlines(), asked.splitlines(), "saved", "asked", n=1, lineterm="")
            advice = "remove it, or choose another hydra.run.dir"
            raise ConfigError(f"{self.path} holds a run of another configuration; {advice}:\n" + "\n".join(lines))

    def config(self) -> Config:
        """The run's configuration, as it was saved; raises ConfigError where it can't be read any more."""
        try:
            return from_yaml(self.path / "config.yaml")
        except Exception as error:  # YAML's, OmegaConf's and our own have no base in common
            raise ConfigError(f"{self.path} holds no run that can be started: {error}") from error

    def open(self, config: Config) -> bool:
        """Take the directory for this process; true if the run is done already."""
        self.prepare(config)
        if self.state == "done":
            return True
        self._lock()
        self.set_status("running", self.status.get("step"))
        return False

    def _lock(self) -> None:
        """Held until `outcome_recorded` ends, or the process; raises ConfigError where another one runs here."""
        self.lease = SoftFileLease(self.path / ".lock", lease_duration=LEASE_SECONDS)
        try:
            self.lease.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(f"{self.path} is in use: another process is running there") from error

    @property
    def status(self) -> dict[str, Any]:
        """What status.json holds; nothing where nothing has happened yet."""
        path = self.path / "status.json"
        return read_json(path) if path.exists() else {}

    @property
    def state(self) -> str | None:
        return self.status.get("state")

    def set_status(self, state: str, step: int | None = None, reason: str | None = None) -> None:
        assert state in STATES
        status = {"state": state, "step": step, "reason": reason, "time": round(time.time(), 3)}
        write_json(self.path / "status.json", status)

    @contextmanager
    def outcome_recorded(self) -> Iterator[None]:
        """Whatever ends the block early stands in status.json, and is raised again."""
        try:
            yield
        except Preempted as stop:
            self.set_status("preempted", self.status["step"], str(stop))
            raise
        except BaseException as error:
            self.set_status("failed", self.status["step"], str(error) or type(error).__name__)
            raise
        finally:
            self.lease.release()

    def append_history(self, row: dict[str, Any]) -> None:
        with (self.path / "history.jsonl").open("a") as history:
            history.write(json.dumps(row, allow_nan=False) + "\n")

    def history_size(self) -> int:
        """Bytes of history.jsonl, all of them on disk when this returns."""
        with (self.path / "history.jsonl").open("a") as history:
            os.fsync(history.fileno())
            return history.tell()

    def cut_history(self, size: int) -> None:
        """Take back what was written after the first `size` bytes."""
        with (self.path / "history.jsonl").open("a") as history:
            history.truncate(size)

    def read_metrics(self) -> dict[str, Any]:
        return read_json(self.path / "metrics.json")
