"""The states of runs, read from their directories alone; rundir.py lists the files.

Nothing here raises on a file that is torn or malformed: such a run is `unreadable`, with the reason. What a launcher
knows beside that is added in rlhf.launch.launchers. Imports no torch.
"""

import heapq
import os
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlhf.compose import identifying, run_name
from rlhf.config.algorithms import training_steps
from rlhf.errors import DataError
from rlhf.figures import headline
from rlhf.storage.files import LEASE_SECONDS
from rlhf.storage.lease import is_leased
from rlhf.storage.reader import (
    CONFIG,
    ENDED,
    HISTORY,
    JOB,
    STATUS,
    history_row,
    numbered_lines,
    present,
    read_job,
    read_made_by,
    read_metrics,
    read_settings,
    read_status,
    select,
)

RECENT_STEPS = 10
"""How many steps, at least, the pace is judged by."""

LONGEST_CURVE = 12
"""How many evaluations, the last ones, a run's curve shows."""

LEFT_TO_DO = ("running", "pending")
"""States of runs that are being worked on, or will be without anybody's doing."""

BAD = ("failed", "lost", "unreadable")
"""lost: taken on by a process or a launcher that is gone; unreadable: its files say nothing."""

GONE = "its launcher is gone"


@dataclass(frozen=True)
class RunState:
    """One run: `pace` is seconds per step lately, `job` what job.json holds, `time` when `state` was written.

    `win_rate` is the one that `headline` names, so far or at the end. `recoverable`: its job has ended by no fault of
    the run's, and one submitted anew goes on, not on these `nodes`.
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
    recoverable: bool = False
    nodes: str = ""

    @property
    def log(self) -> Path | None:
        """None where there is none yet: a job that never started has not made one."""
        log = self.path.parent / str(self.job["log"]) if self.job.get("log") else None
        return log if log and log.exists() else None

    def seconds_left(self, now: float) -> float | None:
        """By the pace of the recent steps; of a running one, what has passed since the last step is taken off."""
        if self.state in ENDED:
            return 0.0
        if self.state not in LEFT_TO_DO or self.pace is None or self.steps is None:
            return None
        passed = now - (self.time or now) if self.state == "running" and self.step is not None else 0.0
        return max(0.0, self.pace * (self.steps - (self.step or 0)) - passed)


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run directories at or below `paths`: those with a status.json or a job.json, and all that can't be listed.

    Links are followed, as to a sweep on another disk; no directory is looked into twice.
    """
    found: set[Path] = set()
    seen: set[Path] = set()

    def unreadable(error: OSError) -> None:
        found.add(Path(error.filename))

    for path in paths:
        for folder, below, files in os.walk(path, onerror=unreadable, followlinks=True):
            place = Path(folder).resolve()
            if place in seen:
                below.clear()
                continue
            seen.add(place)
            if STATUS in {*files, *below} or JOB in {*files, *below}:
                found.add(Path(folder))
                below.clear()  # a run holds no other
    return sorted(found)


def read_run(path: Path, whole: bool = True) -> RunState:
    """The state of a run by its directory: `lost` where it was running or taken on, and nobody works on it.

    Not `whole`: without how far it is on its way and how well it does, which takes most of the time.
    """
    look = _read if whole else _read_state
    try:
        run = look(path)
        if run.state == "running" and not is_leased(path):
            run = look(path)  # it may have ended between the two looks
            if run.state == "running":
                return lost(run, "its process is gone, or has given no sign of life")
        taking = LEASE_SECONDS  # that a launcher has, which has just made the directory, to say that it has the run
        if run.state == "pending" and not run.job and time.time() - (run.time or 0.0) > taking:
            return lost(run, GONE)
        return run
    except (DataError, OSError) as error:
        return RunState(path, "unreadable", reason=" ".join(str(error).split()))


def lost(run: RunState, reason: str) -> RunState:
    return replace(run, state="lost", reason=reason)


def _read_state(path: Path) -> RunState:
    return RunState(path, **read_status(path), job=read_job(path))


def _read(path: Path) -> RunState:
    run = _read_state(path)
    is_done = run.state == "done"
    steps, every = (run.step, 0) if is_done and run.step else _plan(path, stamp(path / CONFIG))
    going = not is_done and present(path / HISTORY)
    pace, evaluated = _history(path, max(RECENT_STEPS, every), 1) if going else (None, [])
    metrics = read_metrics(path) if is_done else evaluated[-1] if evaluated else {}
    figure = headline(metrics)
    rate = metrics.get(figure)
    return replace(
        run,
        steps=steps,
        pace=pace,
        headline=None if rate is None else figure,
        win_rate=rate,
        win_rate_se=metrics.get(f"{figure}_se"),
    )


def stamp(path: Path) -> tuple[int, ...] | None:
    """Another one whenever a file is written anew, or grows; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


@lru_cache(maxsize=10_000)
def _plan(path: Path, stamped: tuple[int, ...] | None) -> tuple[int, int]:
    """Steps of training, and after how many of them the policy is evaluated (0: at the end only).

    Read again where config.yaml was `stamped` anew: settings take longest to read, and who follows runs looks often.
    """
    settings = read_settings(path)
    name, steps = (select(settings, key, needed=True) for key in ("algorithm.name", "ppo.steps"))
    return training_steps(name, steps), select(settings, "evaluation.every") or 0


def curve(path: Path) -> list[tuple[float, float | None]]:
    """The headline and the KL per response of a run's last evaluations; none where its history can't be read."""
    try:
        stamped = stamp(path / HISTORY)
        return [] if stamped is None else _curve(path, stamped)
    except (DataError, OSError):
        return []


@lru_cache(maxsize=1024)
def _curve(path: Path, stamped: tuple[int, ...]) -> list[tuple[float, float | None]]:
    """Kept for as long as the history is the same: a live overview asks again and again."""
    evaluated = _history(path, 0, LONGEST_CURVE)[1]
    return [(row[headline(row)], row.get("true_kl_per_response")) for row in evaluated]


def _history(path: Path, recent: int, most: int) -> tuple[float | None, list[dict[str, Any]]]:
    """Mean seconds of the last `recent` steps, and the `most` last evaluated rows; parses no more than that takes."""
    seconds: list[float] = []
    evaluated: list[dict[str, Any]] = []
    for number, line in reversed(numbered_lines(path / HISTORY, being_written=True)):
        if len(seconds) == recent and (len(evaluated) == most or '"win_rate' not in line):
            continue
        row = history_row(line, number)
        if row["step"] > 0 and len(seconds) < recent:
            seconds.append(sum(value or 0.0 for key, value in row.items() if key.startswith("seconds/")))
        if len(evaluated) < most and row.get(headline(row)) is not None:
            evaluated.append(row)
    return statistics.fmean(seconds) if seconds else None, evaluated[::-1]


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
    except DataError:
        return [path.name]
    return overrides if run_name(overrides) == path.name else [path.name]
