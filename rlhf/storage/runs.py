"""The states of runs, read from their directories alone; rundir.py lists the files.

Nothing here raises on a file that is torn or malformed: such a run is `unreadable`, with the reason. What a launcher
knows beside that is added in rlhf.launch.launchers. Imports no torch.
"""

import heapq
import json
import os
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from rlhf.compose import identifying, run_name
from rlhf.config.algorithms import training_steps
from rlhf.figures import headline
from rlhf.storage.files import LEASE_SECONDS
from rlhf.storage.lease import is_leased
from rlhf.storage.rundir import STATES, read_made_by

RECENT_STEPS = 10
"""How many steps, at least, the pace is judged by."""

LEFT_TO_DO = ("running", "pending")
"""States of runs that are being worked on, or will be without anybody's doing."""

BAD = ("failed", "lost", "unreadable")
"""lost: taken on by a process or a launcher that is gone; unreadable: its files say nothing."""

GONE = "its launcher is gone"


@dataclass(frozen=True)
class RunState:
    """One run: `pace` is seconds per step lately, `job` what job.json holds, `time` when `state` was written.

    `win_rate` is the one that `headline` names, so far or at the end.
    """

    path: Path
    state: str
    step: int | None = None
    steps: int | None = None
    pace: float | None = None
    time: float | None = None
    headline: str | None = None
    win_rate: float | None = None
    win_rate_se: float | None = None
    reason: str | None = None
    job: Mapping[str, Any] = field(default_factory=dict)

    @property
    def log(self) -> Path | None:
        return self.path.parent / str(self.job["log"]) if self.job.get("log") else None

    def seconds_left(self, now: float) -> float | None:
        """By the pace of the recent steps; of a running one, what has passed since the last step is taken off."""
        if self.state == "done":
            return 0.0
        if self.state not in LEFT_TO_DO or self.pace is None or self.steps is None:
            return None
        passed = now - (self.time or now) if self.state == "running" and self.step is not None else 0.0
        return max(0.0, self.pace * (self.steps - (self.step or 0)) - passed)


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run directories at or below `paths`: those with a status.json or a job.json."""
    found = set()
    for path in paths:
        for folder, below, files in os.walk(path):
            if "status.json" in files or "job.json" in files:
                found.add(Path(folder))
                below.clear()  # a run holds no other
    return sorted(found)


def read_run(path: Path) -> RunState:
    """The state of a run by its directory: `lost` where it was running or taken on, and nobody works on it."""
    try:
        run = _read(path)
        if run.state == "running" and not is_leased(path):
            run = _read(path)  # it may have ended between the two looks
            if run.state == "running":
                return lost(run, "its process is gone, or has given no sign of life")
        taking = LEASE_SECONDS  # that a launcher has, which has just made the directory, to say that it has the run
        if run.state == "pending" and not run.job and time.time() - (run.time or 0.0) > taking:
            return lost(run, GONE)
        return run
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        return RunState(path, "unreadable", reason=" ".join(str(error).split()) or type(error).__name__)


def lost(run: RunState, reason: str) -> RunState:
    return replace(run, state="lost", reason=reason)


def _read(path: Path) -> RunState:
    status = _file(path / "status.json") if (path / "status.json").exists() else {"state": "pending"}
    if status.get("state") not in STATES:
        raise ValueError(f"status.json: no such state: {status.get('state')!r}")
    steps, every = _plan(path / "config.yaml")
    history = path / "history.jsonl"
    pace, evaluated = _history(history, max(RECENT_STEPS, every)) if history.exists() else (None, {})
    metrics = _file(path / "metrics.json") if status["state"] == "done" else evaluated
    step, figure = _number(status, "step"), headline(metrics)
    rate = _number(metrics, figure)
    return RunState(
        path,
        state=status["state"],
        step=None if step is None else int(step),
        steps=steps,
        pace=pace,
        time=_number(status, "time"),
        headline=None if rate is None else figure,
        win_rate=rate,
        win_rate_se=_number(metrics, f"{figure}_se"),
        reason=None if status.get("reason") is None else str(status["reason"]),
        job=_file(path / "job.json") if (path / "job.json").exists() else {},
    )


def _number(found: Mapping[str, Any], key: str) -> float | None:
    value = found.get(key)
    if value is not None and not isinstance(value, int | float):
        raise ValueError(f"{key} is {value!r}, no number")
    return None if value is None else float(value)


def _file(path: Path) -> dict[str, Any]:
    return _mapping(path.read_bytes(), path.name)


def _mapping(text: bytes, place: str) -> dict[str, Any]:
    try:
        found = json.loads(text.decode())
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{place} holds no mapping")
    return found


def _plan(path: Path) -> tuple[int, int]:
    """Steps of training, and after how many of them the policy is evaluated (0: at the end only)."""
    with path.open("rb") as file:
        config = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(config, dict):
        raise ValueError(f"{path.name} holds no mapping")
    steps = training_steps(config["algorithm"]["name"], int(config["ppo"]["steps"]))
    return steps, int(config["evaluation"]["every"] or 0)


def _history(path: Path, recent: int) -> tuple[float | None, dict[str, Any]]:
    """Mean seconds of the last `recent` steps, and the last evaluated row; read no further back than that takes."""
    *lines, _ = path.read_bytes().split(b"\n")  # what follows the last newline is still being written
    seconds: list[float] = []
    evaluated: dict[str, Any] = {}
    for number, line in reversed(list(enumerate(lines, start=1))):
        if len(seconds) == recent and b'"win_rate' not in line:
            continue
        row = _mapping(line, f"{path.name}, line {number}")
        if row["step"] > 0 and len(seconds) < recent:
            seconds.append(sum(value for key, value in row.items() if key.startswith("seconds/")))
        if row.get(headline(row)) is not None:
            evaluated = evaluated or row
        if evaluated and len(seconds) == recent:
            break
    return statistics.fmean(seconds) if seconds else None, evaluated


def sweep_seconds_left(runs: Iterable[RunState], now: float) -> float | None:
    """Until the last run is done, if as many go on running at a time as are running now; None where it is unknown.

    A run that has no step yet is taken to keep the others' mean pace.
    """
    runs = list(runs)
    paces = [run.pace for run in runs if run.pace is not None]
    usual = statistics.fmean(paces) if paces else None
    left = [(run.state, replace(run, pace=run.pace or usual).seconds_left(now)) for run in runs]
    slots = [seconds for state, seconds in left if state == "running" and seconds is not None]
    if not slots:
        return None
    heapq.heapify(slots)
    for seconds in (seconds for state, seconds in left if state == "pending" and seconds is not None):
        heapq.heapreplace(slots, slots[0] + seconds)
    return max(slots)


def short_names(paths: Iterable[Path]) -> dict[Path, str]:
    """The overrides that distinguish each run from those beside it; its directory's name where that is another."""
    parts = {path: _parts(path) for path in paths}
    common: dict[Path, set[str]] = {}
    for path, own in parts.items():
        common[path.parent] = common.get(path.parent, set(own)).intersection(own)
    names = {path: [part for part in own if part not in common[path.parent]] for path, own in parts.items()}
    return {path: ",".join(own) or path.name for path, own in names.items()}


def _parts(path: Path) -> list[str]:
    try:
        made_by = read_made_by(path)
        overrides = identifying(made_by["overrides"]) if made_by else []
    except (OSError, ValueError, KeyError, TypeError):
        return [path.name]
    return overrides if run_name(overrides) == path.name else [path.name]
