"""Which runs share their stages, and whether these are built: read off config.yaml, without the code that builds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf.config.stages import STAGES, identity
from rlhf.storage.cache import MARKER
from rlhf.storage.files import read_json, write_json
from rlhf.storage.reader import read_settings


def to_prepare(runs: Sequence[Path], directory: Path) -> list[Path]:
    """One run for each set of stages that is not known to be built; relative cache_dirs are in `directory`."""
    settings = {run: read_settings(run) for run in runs}
    first = {identity(settings[run], STAGES): run for run in reversed(runs)}
    return [run for run in first.values() if not _is_built(directory, settings[run])][::-1]


def note(run: Path, stages: Sequence[Path]) -> None:
    """Remember that all stages of this run are built, and where."""
    settings = read_settings(run)
    write_json(_marker(Path(), settings), {"run": str(run), "stages": [stage.name for stage in stages]})


def _is_built(directory: Path, settings: dict[str, Any]) -> bool:
    marker = _marker(directory, settings)
    return marker.exists() and all((marker.parent / name / MARKER).exists() for name in read_json(marker)["stages"])


def _marker(directory: Path, settings: dict[str, Any]) -> Path:
    return directory / settings["cache_dir"] / f"prepared-{identity(settings, STAGES)[:16]}.json"
