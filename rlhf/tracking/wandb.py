"""Weights & Biases: a run per run directory, whose files lie there too.

Curves are drawn over the row's `step`, not over wandb's own count of entries, which must not fall and is the same only
where a run was never interrupted. A run that goes on from a checkpoint logs some steps a second time, with the same
values, so that no curve changes; leaving them out could lose what a killed process had logged but not written.
"""

import atexit
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlhf.compose import identifying
from rlhf.config.run import Config
from rlhf.config.tracker import WandbConfig
from rlhf.storage.reader import read_made_by
from rlhf.tracking.tracker import (
    RESPONSE_COLUMNS,
    Outcome,
    Row,
    Tracker,
    in_a_line,
    numbers,
    plain,
    response_cells,
    stable_id,
)

log = logging.getLogger(__name__)

LONGEST_NAME, LONGEST_TAG = 128, 64
"""wandb's limits, in characters."""

EXIT_CODES = {"done": 0, "pruned": 0, "preempted": 143}


class WandbTracker(Tracker):
    """Continues the directory's run if it has one already: the same id, and online the same page."""

    def __init__(self, config: Config, settings: WandbConfig, directory: Path) -> None:
        self.settings, self.directory = settings, directory
        about = {
            "name": directory.resolve().name[:LONGEST_NAME],
            "group": sweep_of(directory),
            "job_type": config.algorithm.name,
            "tags": sorted({override[:LONGEST_TAG] for override in overrides_of(directory)}),
            "config": plain(config),
        }
        self.run = open_run(settings, directory, about)
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def log(self, row: Row) -> None:
        self.run.log(numbers(row))

    def responses(self, step: int, rows: Sequence[Row]) -> None:
        import wandb

        cells: list[Any] = [response_cells(row) for row in rows[: self.settings.responses]]
        shown = {"step": step, "evaluation/responses": wandb.Table(list(RESPONSE_COLUMNS), cells)}
        self.run.log(shown, commit=False)  # one entry with the step's row, so that wandb's own count is the step

    def finish(self, outcome: Outcome) -> None:
        self.run.summary.update(dict(outcome.metrics))
        if outcome.state == "pruned":
            self.run.tags = (*(self.run.tags or ()), "pruned")
        if outcome.state == "preempted" and "WANDB_SWEEP_ID" not in os.environ:  # an agent's run, which it has ended
            self.run.mark_preempting()
        if self.settings.artifact and outcome.state == "done":
            self._log_policy(outcome.metrics)
        self.run.finish(exit_code=EXIT_CODES.get(outcome.state, 1))
        if outcome.state == "done":
            shutil.rmtree(Path(self.run.dir).with_name("logs"), ignore_errors=True)  # of wandb's own doings

    def _log_policy(self, metrics: Row) -> None:
        import wandb

        about = {name: value for name, value in metrics.items() if isinstance(value, int | float | str)}
        artifact = wandb.Artifact(f"policy-{self.run.id}", type="model", metadata=about)
        for file in sorted((self.directory / "policy").iterdir()):
            artifact.add_file(str(file), policy="immutable")
        self.run.log_artifact(artifact)


def sweep_of(directory: Path) -> str | None:
    """The sweep that a run belongs to: an agent's, or that in which there is Hydra's multirun.yaml, or a search."""
    if "WANDB_SWEEP_ID" in os.environ:
        return os.environ["WANDB_SWEEP_ID"]
    searched = "sweeper" in (read_made_by(directory) or {})
    return directory.resolve().parent.name if searched or (directory.parent / "multirun.yaml").exists() else None


def overrides_of(directory: Path) -> list[str]:
    """The overrides that made a run what it is."""
    made_by = read_made_by(directory)
    return identifying(made_by["overrides"]) if made_by else []


def place_of(settings: WandbConfig) -> dict[str, str | None]:
    """The project and the entity; the environment's where the settings have their defaults."""
    project, entity = settings.project, settings.entity or os.environ.get("WANDB_ENTITY") or None
    if project == WandbConfig.project:
        project = os.environ.get("WANDB_PROJECT") or project
    return {"project": project, "entity": entity}


def is_online(settings: WandbConfig) -> bool:
    """Whether anything may be sent: the environment can forbid it."""
    return settings.name == "wandb" and os.environ.get("WANDB_MODE", "online") == "online"


def end_service() -> None:
    """End wandb's service; where a signal to all of a job's processes has ended it already, without wandb's trace."""
    import wandb

    with suppress(Exception):
        wandb.teardown()


def open_run(settings: WandbConfig, directory: Path, about: dict[str, Any]) -> Any:
    """Start or continue a directory's run; offline where wandb can't be reached, so that nothing is lost."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its reports would delay a process's end
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    atexit.unregister(end_service)
    atexit.register(end_service)  # after wandb's own, which so has nothing left to do
    where = place_of(settings) | {"id": stable_id(directory), "dir": str(directory)}
    patience = {"init_timeout": settings.patience, "finish_timeout": settings.patience}
    quiet = {"silent": True, "console": "off", "reinit": "create_new", "symlink": False}

    def init(mode: Any) -> Any:
        return wandb.init(**where, **about, mode=mode, resume="allow", settings=wandb.Settings(**patience, **quiet))

    if is_online(settings):
        try:
            if "WANDB_API_KEY" not in os.environ and not wandb.login(prompt=False):
                raise RuntimeError("no API key: `wandb login`, or WANDB_API_KEY")
            run = init("online")
            log.info(f"wandb: {run.url}")
            return run
        except Exception as error:
            log.info(f"wandb can't be reached, so the run is logged offline: {in_a_line(error)}")
            wandb.teardown()  # else its service keeps trying, and keeps the id
    run = init("offline")
    log.info(f"wandb, offline: wandb sync {Path(run.dir).parent}")
    return run
