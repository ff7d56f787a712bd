"""A run's directory, which is all that reports and other tools know of it.

config.yaml (resolved), status.json (state: running, done or failed; step; reason), history.jsonl (a row per PPO step),
metrics.json (the final figures), outputs.json (AlpacaEval's model_outputs), references.json (what they are compared
with), judgements.jsonl (what was made of each, a row per evaluation prompt), policy/ (the trained adapter or model).
"""

import difflib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from rlhf.config.run import Config
from rlhf.errors import ConfigError
from rlhf.infra.files import read_json, write_json, write_text


class RunDirectory:
    """One run's directory: `open` it first, do the work inside `failures_recorded`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, config: Config) -> bool:
        """Make the directory this config's; true if the run is done already.

        Raises ConfigError, with the lines that differ, where the directory holds a run of another config.
        """
        text = OmegaConf.to_yaml(OmegaConf.structured(config))
        saved = self.path / "config.yaml"
        if saved.exists() and saved.read_text() != text:
            lines = difflib.unified_diff(
                saved.read_text().splitlines(), text.splitlines(), "saved", "asked", n=1, lineterm=""
            )
            advice = "remove it, or choose another hydra.run.dir"
            raise ConfigError(f"{self.path} holds a run of another configuration; {advice}:\n" + "\n".join(lines))
        if self.state == "done":
            return True
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock()
        (self.path / "history.jsonl").unlink(missing_ok=True)
        write_text(saved, text)
        self.set_status("running")
        return False

    def _lock(self) -> None:
        """Held until `failures_recorded` ends, or the process; raises ConfigError where another one runs here."""
        try:
            self.lock = FileLock(self.path / ".lock")
            self.lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(f"{self.path} is in use: another process is running there") from error

    @property
    def state(self) -> str | None:
        path = self.path / "status.json"
        return read_json(path)["state"] if path.exists() else None

    def set_status(self, state: str, step: int | None = None, reason: str | None = None) -> None:
        write_json(
            self.path / "status.json", {"state": state, "step": step, "reason": reason, "time": round(time.time(), 3)}
        )

    @contextmanager
    def failures_recorded(self) -> Iterator[None]:
        """Whatever ends the block early stands in status.json, and is raised again."""
        try:
            yield
        except BaseException as error:
            reason = str(error) or type(error).__name__
            self.set_status("failed", read_json(self.path / "status.json")["step"], reason)
            raise
        finally:
            self.lock.release()

    def append_history(self, row: dict[str, Any]) -> None:
        with (self.path / "history.jsonl").open("a") as history:
            history.write(json.dumps(row, allow_nan=False) + "\n")

    def read_metrics(self) -> dict[str, Any]:
        return read_json(self.path / "metrics.json")
