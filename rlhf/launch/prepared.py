"""Which runs share their stages, and whether these are built: read off config.yaml, without the code that builds."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from rlhf.config.stages import STAGES, identity
from rlhf.errors import DataError
from rlhf.storage.cache import MARKER
from rlhf.storage.files import read_json, write_json
from rlhf.storage.reader import read_settings


def by_stages(runs: Sequence[Path], directory: Path) -> tuple[list[Path], dict[str, list[Path]]]:
    """Runs whose stages are known to be built, and the others by the identity of their stages.

    Relative cache_dirs are in `directory`.
    """
    built: list[Path] = []
    others: dict[str, list[Path]] = {}
    for run in runs:
        settings = read_settings(run)
        key = identity(settings, STAGES)
        (built if _is_built(directory, settings, key) else others.setdefault(key, [])).append(run)
    return built, others


@cache
def stages_of(run: Path) -> str | None:
    """The identity of its stages before PPO, which runs share; None where its settings can't be read."""
    try:
        return identity(read_settings(run), STAGES)
    except (DataError, KeyError):
        return None


def note(run: Path, stages: Sequence[Path]) -> None:
    """Remember that all stages of this run are built, and where."""
    settings = read_settings(run)
    marker = _marker(Path(), settings, identity(settings, STAGES))
    write_json(marker, {"run": str(run), "stages": [stage.name for stage in stages]})


def _is_built(directory: Path, settings: dict[str, Any], key: str) -> bool:
    marker = _marker(directory, settings, key)
    return marker.exists() and all((marker.parent / name / MARKER).exists() for name in read_json(marker)["stages"])


def _marker(directory: Path, settings: dict[str, Any], key: str) -> Path:
    return directory / settings["cache_dir"] / f"prepared-{key[:16]}.json"
