"""What wandb shows of a whole sweep: `python -m rlhf.dashboard sweep|workspace SWEEP_DIR`.

`sweep` adds one run that compares the others: the tables and figures of the local report. A sweep that follows its runs
to their end does so itself; the command makes it anew from the directories alone. `workspace` builds the panels.
"""

import argparse
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from hydra.core.global_hydra import GlobalHydra
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from rlhf.compose import CONF, from_saved
from rlhf.config.tracker import WandbConfig
from rlhf.console import command, console
from rlhf.errors import DataError
from rlhf.storage.reader import read_settings
from rlhf.storage.runs import LEFT_TO_DO, find_runs, read_run
from rlhf.tracking.tracker import InBackground, Outcome, Tracker
from rlhf.tracking.wandb import open_run


class SweepDashboard(Callback):
    """Set in conf/config.yaml; Hydra calls it when all runs are done, and turns what it raises into a warning."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        settings, sweep = OmegaConf.to_object(config.tracker), Path(config.hydra.sweep.dir)
        if not isinstance(settings, WandbConfig):
            return
        if any(
            read_run(run, whole=False).state in LEFT_TO_DO for run in find_runs([sweep])
        ):  # a launcher that does not wait
            console.print(f"once its runs are done: python -m rlhf.dashboard sweep {sweep}")
            return
        GlobalHydra.instance().clear()  # the sweep needs it no more, and the report composes configurations itself
        track(sweep, settings)


def track(sweep: Path, settings: WandbConfig) -> None:
    """Raises DataError where the sweep has no finished run."""
    found = compared(sweep)
    name = f"{settings.name}, summary of {sweep.name}"
    InBackground(name, lambda: SweepTracker(sweep, settings, found), settings.patience).finish(Outcome("done"))


@dataclass(frozen=True)
class Compared:
    """A sweep's comparison: by name `tables`, with their `columns` and `data`, and `figures` as PNG."""

    config: dict[str, Any]
    summary: dict[str, Any]
    tables: dict[str, dict[str, Any]]
    figures: dict[str, bytes]


def compared(sweep: Path) -> Compared:
    """What the local report says of the sweep; raises DataError where no run of it is done."""
    from rlhf.report.load import load_outputs
    from rlhf.report.page import report, tables_of
    from rlhf.report.plots import write_plots
    from rlhf.report.settings import common

    outputs = load_outputs([sweep])
    if not outputs.runs:
        raise DataError(f"{sweep} holds no finished run")
    found = report(outputs, [])
    with tempfile.TemporaryDirectory() as folder:
        names = write_plots(Path(folder), found.pictures)
        figures = {name: (Path(folder) / f"{name}.png").read_bytes() for name in names}
    tables = {
        table.name: cells(list(table.numbers.columns), table.numbers.to_dict("records")) for table in tables_of(found)
    }
    best = found.ablation.compared[0]
    summary = {"best": best.label, "answer": found.answer.headline, "runs": len(outputs.runs)}
    summary |= {"unfinished": len(outputs.problems), "headline": found.ablation.headline}
    return Compared({"sweep": sweep.resolve().name, "settings": common(outputs.runs)}, summary, tables, figures)


def cells(columns: Sequence[object], rows: Sequence[Mapping[Any, Any]]) -> dict[str, Any]:
    """What is missing, which pandas may have made NaN, as None."""
    data = [[None if row[column] != row[column] else row[column] for column in columns] for row in rows]
    return {"columns": [str(column) for column in columns], "data": data}


class SweepTracker(Tracker):
    """The one run of a sweep that compares its others; made anew, it takes the place of what it showed before."""

    def __init__(self, sweep: Path, settings: WandbConfig, found: Compared) -> None:
        name = sweep.resolve().name
        about = {"name": name, "group": name, "job_type": "sweep", "tags": ["sweep"], "config": found.config}
        self.run, self.found = open_run(settings, sweep, about), found

    def finish(self, outcome: Outcome) -> None:
        import wandb
        from PIL import Image

        shown: dict[str, Any] = {}
        for name, table in self.found.tables.items():
            shown[f"tables/{name}"] = wandb.Table(**table, allow_mixed_types=True)
        for name, data in self.found.figures.items():
            shown[f"figures/{name}"] = wandb.Image(Image.open(io.BytesIO(data)))
        self.run.log(shown)
        self.run.summary.update(self.found.summary)
        self.run.finish()


def settings_of(sweep: Path, options: argparse.Namespace) -> WandbConfig:
    """Where the sweep's runs are, as the first that wandb follows says, or conf/; changed by the command line."""
    kept = (tracker_of(run) for run in find_runs([sweep]))
    settings = next((found for found in kept if isinstance(found, WandbConfig)), None) or default_settings()
    asked = {"name": options.tracker, "project": options.project, "entity": options.entity}
    return replace(settings, **{name: value for name, value in asked.items() if value is not None})


def tracker_of(run: Path) -> object:
    try:
        return from_saved(read_settings(run)).tracker
    except Exception:  # whatever makes a run unreadable: another run of the sweep has it too
        return None


def default_settings() -> WandbConfig:
    values = cast(DictConfig, OmegaConf.load(CONF / "tracker" / "wandb_offline.yaml"))
    del values["defaults"]
    return cast(WandbConfig, OmegaConf.to_object(OmegaConf.merge(WandbConfig, values)))


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    with command():
        if not options.sweep.is_dir():
            raise DataError(f"no such directory: {options.sweep}")
        settings = settings_of(options.sweep, options)
        if options.what == "sweep":
            track(options.sweep, settings)
        else:
            show_workspace(options.sweep, settings, options.save)


def show_workspace(sweep: Path, settings: WandbConfig, save: bool) -> None:
    """Build and check the workspace, and save it where asked; else say what it holds."""
    from rlhf.tracking.workspace import build, described

    if settings.entity is None:
        raise DataError("whose workspace? give --entity USER_OR_TEAM, or tracker.entity in the runs")
    workspace = build(sweep.resolve().name, settings.project, settings.entity)
    console.print(described(workspace))
    if save:
        workspace.save()
    else:
        console.print("checked, and not saved: --save sends it to wandb")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m rlhf.dashboard", description="What wandb shows of a whole sweep.")
    kinds = made.add_subparsers(dest="what", required=True)
    sweep = kinds.add_parser("sweep", help="add the run that compares the sweep's others, or make it anew")
    workspace = kinds.add_parser("workspace", help="build the panels for the sweep's runs")
    for each in (sweep, workspace):
        each.add_argument("sweep", type=Path, metavar="SWEEP_DIR", help="as outputs/sweeps/regularizers")
        each.add_argument("--project", help="default: the runs' tracker.project")
        each.add_argument("--entity", help="user or team; default: the runs' tracker.entity")
        each.set_defaults(tracker=None)
    sweep.add_argument("--tracker", choices=("wandb", "wandb_offline"), help="default: as the sweep's runs")
    workspace.add_argument("--save", action="store_true", help="send it to wandb; else it is checked and described")
    return made


if __name__ == "__main__":
    main()
