"""Which runs share their stages, and whether these are built: read off config.yaml, without the code that builds."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rlhf.config.evaluation import BASELINE_READS
from rlhf.storage.cache import MARKER
from rlhf.storage.files import read_json, write_json

UNREAD = ("seed", "checkpoint_seconds", "distributed", "lora", "regularizer", "value", "ppo", "algorithm", "tracker")
"""Sections that no stage before PPO reads."""


def stage_settings(run: Path) -> dict[str, Any]:
    """All of a run's configuration that its stages may read: runs that agree on it share every stage."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where libyaml is there
    settings = yaml.load((run / "config.yaml").read_text(encoding="utf-8"), Loader=loader)
    evaluation = {name: settings["evaluation"][name] for name in BASELINE_READS}
    return {name: value for name, value in settings.items() if name not in UNREAD} | {"evaluation": evaluation}


def to_prepare(runs: Sequence[Path], directory: Path) -> list[Path]:
    """One run for each set of stages that is not known to be built; relative cache_dirs are in `directory`."""
    settings = {run: stage_settings(run) for run in runs}
    first = {_key(settings[run]): run for run in reversed(runs)}
    return [run for run in first.values() if not _is_built(directory, settings[run])][::-1]


def note(run: Path, stages: Sequence[Path]) -> None:
    """Remember that all stages of this run are built, and where."""
    settings = stage_settings(run)
    write_json(_marker(Path(), settings), {"run": str(run), "stages": [stage.name for stage in stages]})


def _is_built(directory: Path, settings: dict[str, Any]) -> bool:
    marker = _marker(directory, settings)
    return marker.exists() and all((marker.parent / name / MARKER).exists() for name in read_json(marker)["stages"])


def _marker(directory: Path, settings: dict[str, Any]) -> Path:
    return directory / settings["cache_dir"] / f"prepared-{_key(settings)[:16]}.json"


def _key(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
