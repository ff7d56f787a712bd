"""Finished runs, read from their directories; whatever can't be used is named with its reason."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from rlhf.figures import headline
from rlhf.storage.files import read_json
from rlhf.storage.rundir import MadeBy

Leaf = str | int | float | bool | None
Row = dict[str, Any]

NEEDED = {"config.yaml": ("seed", "data.seed", "regularizer.name"), "metrics.json": ("win_rate", "win_rate_se")}
SINCE = ("true_kl_per_response", "objective")
"""Figures that earlier code did not write, under whose other figures something else was meant."""


@dataclass(frozen=True)
class Run:
    """A finished run: `config` maps dotted keys to leaves, `history` holds a row per PPO step."""

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
    status = read_object(directory / "status.json")
    if status.get("state") != "done":
        reason = status.get("reason")
        raise ValueError(f"{status.get('state')} at step {status.get('step')}{f': {reason}' if reason else ''}")
    config = effective(flatten(read_object(directory / "config.yaml")))
    metrics = read_object(directory / "metrics.json")
    for name, found in (("config.yaml", config), ("metrics.json", metrics)):
        missing = [key for key in NEEDED[name] if found.get(key) is None]
        if missing:
            raise ValueError(f"{name} lacks {', '.join(missing)}")
    if not metrics.keys() >= set(SINCE):
        raise ValueError("made by an earlier version, whose figures mean something else: run it again")
    judgements = directory / "judgements.jsonl"
    rows = read_rows(judgements) if judgements.exists() else None
    made_by = read_json(directory / "overrides.json") if (directory / "overrides.json").exists() else None
    run = Run(str(directory), config, metrics, read_rows(directory / "history.jsonl"), rows, made_by)
    if not run.checkpoints:
        raise ValueError("history.jsonl has no evaluated step")
    return run


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
