"""Runs read from their directories: finished ones whole, of the others what is known and why they can't be used."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml

from rlhf.figures import headline
from rlhf.storage.files import read_json
from rlhf.storage.rundir import MadeBy, read_made_by

Leaf = str | int | float | bool | None
Row = dict[str, Any]
T = TypeVar("T")

NEEDED = {"config.yaml": ("seed", "data.seed", "regularizer.name"), "metrics.json": ("win_rate", "win_rate_se")}
SINCE = ("true_kl_per_response", "objective")
"""Figures that earlier code did not write, under whose other figures something else was meant."""

OWN_STAGES = ("ppo", "evaluation")
"""What a run does itself; the stages before are shared between runs."""


@dataclass(frozen=True)
class Run:
    """A finished run: `config` maps dotted keys to leaves, `history` holds a row per PPO step.

    `metrics` is metrics.json with the run's own seconds as `cost`.
    """

    path: str
    config: dict[str, Leaf]
    metrics: Row
    history: list[Row]
    judgements: list[Row] | None
    made_by: MadeBy | None = None

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
    """All run directories below `paths`: those with a status.json."""
    directories = sorted({status.parent for path in paths for status in path.rglob("status.json")})
    runs, problems = [], []
    for directory in directories:
        try:
            runs.append(load_run(directory))
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append((str(directory), " ".join(str(error).split())))
    return Outputs(runs, problems)


def load_run(directory: Path) -> Run:
    """Raises an error that says what is wrong with a directory that holds no finished, readable run."""
    run = read_run(directory)
    for name, found in (("config.yaml", run.config), ("metrics.json", run.metrics)):
        missing = [key for key in NEEDED[name] if found.get(key) is None]
        if missing:
            raise ValueError(f"{name} lacks {', '.join(missing)}")
    if not run.metrics.keys() >= set(SINCE):
        raise ValueError("made by an earlier version, whose figures mean something else: run it again")
    judgements = directory / "judgements.jsonl"
    rows = read_rows(judgements) if judgements.exists() else None
    run = replace(run, history=read_rows(directory / "history.jsonl"), judgements=rows)
    if not run.checkpoints:
        raise ValueError("history.jsonl has no evaluated step")
    return run


def read_run(directory: Path) -> Run:
    """A finished run's settings and figures alone; raises ValueError where it isn't finished or can't be read."""
    status = read_object(directory / "status.json")
    if status.get("state") != "done":
        reason = status.get("reason")
        raise ValueError(f"{status.get('state')} at step {status.get('step')}{f': {reason}' if reason else ''}")
    config = read_config(directory / "config.yaml")
    metrics = with_cost(read_object(directory / "metrics.json"))
    return Run(str(directory), config, metrics, [], None, read_made_by(directory))


def with_cost(metrics: Row) -> Row:
    """The same with the seconds of training and evaluation as `cost`, where they are known."""
    taken = metrics.get("seconds") or {}
    known = [float(taken[stage]) for stage in OWN_STAGES if taken.get(stage) is not None]
    return metrics | {"cost": sum(known)} if known else metrics


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
    status = readable(read_object, directory / "status.json") or {"state": "done"}
    state, reason = str(status.get("state")), status.get("reason")
    if state == "done":
        state, reason = "unreadable", problem
    config = readable(read_config, directory / "config.yaml")
    steps = (config or {}).get("ppo.steps")
    history = readable(read_rows, directory / "history.jsonl") or []
    return Unfinished(
        path,
        state,
        str(reason or "no end recorded: it is still running, or was killed"),
        step=max((row["step"] for row in history if isinstance(row.get("step"), int)), default=None),
        steps=steps if isinstance(steps, int) else None,
        config=config,
    )


def readable(read: Callable[[Path], T], path: Path) -> T | None:
    try:
        return read(path)
    except (OSError, ValueError):
        return None


def read_config(path: Path) -> dict[str, Leaf]:
    """The settings that have an effect, by dotted keys."""
    return effective(flatten(read_object(path)))


def read_object(path: Path) -> Row:
    """The mapping that a JSON or YAML file holds; raises ValueError that names the file."""
    try:
        found = read_yaml(path) if path.suffix == ".yaml" else read_json(path)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no mapping")
    return {str(key): value for key, value in found.items()}


def read_yaml(path: Path) -> Any:
    """A config.yaml, which holds no interpolations: by libyaml where it is there, ten times as fast as OmegaConf."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), loader)


def read_rows(path: Path) -> list[Row]:
    """JSON lines; raises ValueError that names the file and the line."""
    rows: list[Row] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path.name}, line {number}: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path.name}, line {number} holds no mapping")
        rows.append(row)
    return rows


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
