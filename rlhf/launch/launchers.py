"""All launchers by name, and what they know of the runs that they have."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from rlhf.errors import ConfigError
from rlhf.launch.local import LocalLauncher
from rlhf.launch.slurm import SlurmLauncher
from rlhf.launch.sweep import LAUNCHER_FILE, SweepLauncher
from rlhf.storage.files import read_json
from rlhf.storage.runs import RunState, read_run

LAUNCHERS: dict[str, type[SweepLauncher]] = {kind.name: kind for kind in (LocalLauncher, SlurmLauncher)}
"""Each by its name in job.json and launcher.json, which is also that of its file in conf/hydra/launcher."""

Found = TypeVar("Found")


def read_runs(paths: Iterable[Path]) -> list[RunState]:
    """The states of runs by their directories and by their launchers."""
    runs = [read_run(path) for path in paths]
    refined = {run.path: run for found in by_launcher(runs, lambda kind, own: kind.refine(own)) for run in found}
    return [refined[run.path] for run in runs]


def by_launcher(runs: Sequence[RunState], ask: Callable[[type[SweepLauncher], list[RunState]], Found]) -> list[Found]:
    """Ask each launcher about its runs; those that none has are on this machine."""
    groups: dict[type[SweepLauncher], list[RunState]] = {}
    for run in runs:
        groups.setdefault(LAUNCHERS.get(str(run.job.get("launcher")), LocalLauncher), []).append(run)
    return [ask(kind, own) for kind, own in groups.items()]


def restored(sweep: Path) -> SweepLauncher:
    """The launcher that has submitted this sweep, with its settings; raises ConfigError where none has."""
    path = sweep / LAUNCHER_FILE
    if not path.exists():
        raise ConfigError(f"{path} does not exist: no launcher has submitted this sweep; give its own command again")
    saved = read_json(path)
    launcher = LAUNCHERS[saved["launcher"]](wait=False, **saved["settings"])
    launcher.directory = Path(saved["directory"])
    return launcher
