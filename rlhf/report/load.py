"""Runs read from their directories: finished ones whole, of the others what is known and why they can't be used."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from rlhf.errors import DataError
from rlhf.figures import FIGURES, headline
from rlhf.storage.reader import (
    CONFIG,
    HISTORY,
    METRICS,
    SETTINGS,
    MadeBy,
    Row,
    read_chosen,
    read_history,
    read_judgements,
    read_made_by,
    read_metrics,
    read_parent,
    read_settings,
    read_status,
    typed,
    with_cost,
)
from rlhf.storage.runs import find_runs

Leaf = str | int | float | bool | None
T = TypeVar("T")

NEEDED = {CONFIG: ("seed", "data.seed", "regularizer.name"), METRICS: ("reward",)}
SINCE = ("true_kl_per_response", "objective")
"""Figures that earlier code did not write, under whose other figures something else was meant."""


@dataclass(frozen=True)
class Run:
    """A finished run: `config` maps dotted keys to leaves, `history` holds a row per PPO step.

    `metrics` is metrics.json with the run's own seconds as `cost`, `chosen` what `rlhf choose` has chosen.
    """

    path: str
    config: dict[str, Leaf]
    metrics: Row
    history: list[Row]
    judgements: list[Row] | None
    made_by: MadeBy | None = None
    chosen: Row | None = None

    @cached_property
    def checkpoints(self) -> list[Row]:
        """The evaluated rows of the history."""
        figure = headline(self.metrics)
        return [row for row in self.history if row.get(figure) is not None]

    @property
    def world(self) -> int:
        return int(self.config["data.seed"] or 0)

    @property
    def seed(self) -> int:
        return int(self.config["seed"] or 0)


@dataclass(frozen=True)
class Outputs:
    """What was found: finished runs by path, and (path, reason) of the rest."""

    runs: list[Run]
    problems: list[tuple[str, str]]


def load_outputs(paths: Iterable[Path]) -> Outputs:
    """All run directories below `paths`; what can't be read is among the problems."""
    runs, problems = [], []
    for directory in find_runs(paths):
        try:
            runs.append(load_run(directory))
        except DataError as error:
            problems.append((str(directory), str(error)))
    return Outputs(runs, problems)


def load_run(directory: Path) -> Run:
    """Raises a DataError that says what is wrong with a directory that holds no finished, readable run."""
    run = read_run(directory)
    for name, found in ((CONFIG, run.config), (METRICS, run.metrics)):
        typed(dict(found), name, {}, NEEDED[name])
    if not run.metrics.keys() >= set(SINCE):
        raise DataError("made by an earlier version, whose figures mean something else: run it again")
    history = since_branch(read_history(directory), read_parent(directory))
    run = replace(run, history=history, judgements=read_judgements(directory))
    if not run.checkpoints:
        raise DataError(f"{HISTORY} has no evaluated step")
    return run


def since_branch(history: list[Row], parent: Row | None) -> list[Row]:
    """The rows of a run that went on from another's step, from the last evaluation on that both have."""
    if parent is None:
        return history
    shared = [row["step"] for row in history if row["step"] <= parent["step"] and row.get(headline(row)) is not None]
    return [row for row in history if row["step"] >= max(shared, default=0)]


def read_run(directory: Path) -> Run:
    """A finished run's settings and figures alone; raises DataError where it isn't finished or can't be read."""
    status = read_status(directory)
    if status["state"] != "done":
        reason = " ".join((status["reason"] or "").split())
        step = "" if status["step"] is None else f" at step {status['step']}"
        raise DataError(f"{status['state']}{step}{f': {reason}' if reason else ''}")
    config, parent = read_config(directory), read_parent(directory)
    if parent is not None:
        config["parent"] = f"{Path(parent['path']).name}@{parent['step']}"
    made_by, chosen = read_made_by(directory), read_chosen(directory)
    return Run(str(directory), config, with_cost(read_metrics(directory)), [], None, made_by, chosen)


@dataclass(frozen=True)
class Unfinished:
    """A run without results: `state` is that of status.json, or unreadable.

    `step` is the last that history.jsonl holds, `steps` how many were asked for, `config` the settings, each None where
    it is not known.
    """

    path: str
    state: str
    reason: str
    step: int | None
    steps: int | None
    config: dict[str, Leaf] | None

    @property
    def progress(self) -> str:
        if self.step is None:
            return "before the first step"
        return f"step {self.step}" if self.steps is None else f"step {self.step} of {self.steps}"


def unfinished(path: str, problem: str) -> Unfinished:
    """What is known of a directory that `load_outputs` could not use because of `problem`."""
    directory = Path(path)
    status = readable(read_status, directory) or {"state": "done"}
    state, reason = status["state"], status.get("reason")
    if state == "done":
        state, reason = "unreadable", problem
    config = readable(read_config, directory)
    steps = (config or {}).get("ppo.steps")
    history = readable(read_history, directory) or []
    known = [(FIGURES[headline(row)], row[headline(row)]) for row in history if row.get(headline(row)) is not None]
    if state == "pruned" and known:
        figure, value = known[-1]
        last = f"{value:.{figure.digits}f} {figure.unit}".strip()
        reason = f"{reason or 'no reason is known'}; its last {figure.label} is {last}"
    return Unfinished(
        path,
        state,
        reason or "no end recorded: it is still running, or was killed",
        step=max((row["step"] for row in history), default=None),
        steps=steps if isinstance(steps, int) else None,
        config=config,
    )


def readable(read: Callable[[Path], T], directory: Path) -> T | None:
    try:
        return read(directory)
    except DataError:
        return None


def read_config(directory: Path) -> dict[str, Leaf]:
    """The settings of a run that have an effect, by dotted keys."""
    return effective(typed(flatten(read_settings(directory)), CONFIG, SETTINGS))


def flatten(tree: Any, prefix: str = "") -> dict[str, Leaf]:
    """Dotted keys to leaves; a list is one leaf, written as JSON."""
    if not isinstance(tree, dict):
        return {prefix: json.dumps(tree) if isinstance(tree, list) else tree}
    nested = [flatten(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in tree.items()]
    return {key: leaf for leaves in nested for key, leaf in leaves.items()}


def effective(config: dict[str, Leaf]) -> dict[str, Leaf]:
    """Without what has no effect: `strength` of no penalty; LoRA's settings in full fine-tuning, and the reverse."""
    config = dict(config)
    if not config.get("regularizer.coef"):
        config["regularizer.strength"] = 1.0
    full_lr = config.pop("ppo.lr_full", None)
    if config.get("lora.r") is None:
        config = {key: leaf for key, leaf in config.items() if not key.startswith("lora.")} | {"lora.r": None}
        config["ppo.lr"] = config.get("ppo.lr") if full_lr is None else full_lr
    return config
