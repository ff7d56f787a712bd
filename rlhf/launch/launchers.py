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
    """The launcher that has submitted this sweep, with its settings; raises ConfigError where none has.

    The file is data, and starts no code of its own choice: its launcher is one of LAUNCHERS, which finds nothing in its
    settings that is run unseen, and Python looks for modules in no folder but the one that the user is in.
    """
    path = sweep / LAUNCHER_FILE
    again = "give the sweep's own command again"
    if not path.exists():
        raise ConfigError(f"{path} does not exist: no launcher has submitted this sweep; {again}")
    try:
        saved = read_json(path)
        name, settings, directory = saved["launcher"], saved["settings"], Path(saved["directory"])
        known = name in LAUNCHERS and "wait" not in settings and all(isinstance(key, str) for key in settings)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} can't be read ({type(error).__name__}: {error}): {again}") from error
    if not known:
        raise ConfigError(f"{path}: launcher={name!r} is not one of {', '.join(LAUNCHERS)}: {again}")
    if directory.resolve() != Path.cwd():
        raise ConfigError(f"{path}: this sweep was started in {directory}: go there first, then ask again")
    launcher = LAUNCHERS[name](wait=False, **settings)
    launcher.check_restored(path)
    return launcher
