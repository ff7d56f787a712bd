"""Run directories as runs and launchers leave them, without the runs."""

import json
import re
from pathlib import Path
from typing import Any


def made_up(
    path: Path,
    state: str | None = "running",
    step: int | None = None,
    reason: str | None = None,
    time: float = 1000.0,
    steps: int = 40,
    every: int = 0,
    algorithm: str = "ppo",
    rows: list[dict[str, Any]] | None = None,
    metrics: dict[str, Any] | None = None,
    job: dict[str, Any] | None = None,
    alive: bool = False,
) -> Path:
    """A run's directory; `alive`: its lease has been touched just now."""
    path.mkdir(parents=True, exist_ok=True)
    config = f"algorithm:\n  name: {algorithm}\nppo:\n  steps: {steps}\nevaluation:\n  every: {every}\n"
    (path / "config.yaml").write_text(config)
    made_by = {"config": "config", "overrides": re.split(r",(?=[^,=]+=)", path.name)}
    files = {"metrics.json": metrics, "job.json": job, "overrides.json": made_by}
    if state is not None:
        files["status.json"] = {"state": state, "step": step, "reason": reason, "time": time}
    for name, value in files.items():
        if value is not None:
            (path / name).write_text(json.dumps(value))
    if rows is not None:
        (path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if alive:
        (path / ".lock").touch()
    return path


def step_rows(count: int, seconds: float) -> list[dict[str, Any]]:
    """Rows of an evaluation before the first step, and of so many steps, each `seconds` long in two parts."""
    parts = {"seconds/rollout": seconds / 4, "seconds/update": seconds * 3 / 4}
    first = {"step": 0, "win_rate_greedy": 50.0, "win_rate": 50.0}  # without errors: it is the SFT model
    return [first] + [{"step": n, **parts} for n in range(1, count + 1)]


def win_rates(greedy: float | None, sampled: float) -> dict[str, Any]:
    """Of metrics.json, or an evaluated row: a greedy win rate is missing where the best of several was taken."""
    found = {"win_rate": sampled, "win_rate_se": 1.0}
    return found if greedy is None else found | {"win_rate_greedy": greedy, "win_rate_greedy_se": 1.25}
