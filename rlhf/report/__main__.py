"""The local report on any runs: `python -m rlhf.report [PATH ...] [--by KEY,...] [--out outputs/report]`."""

import argparse
import gc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from rlhf.console import command, console, whole
from rlhf.errors import UserError
from rlhf.escape import one_line
from rlhf.report.load import load_outputs
from rlhf.report.markdown import count
from rlhf.report.page import Report, report, write
from rlhf.report.settings import repeated
from rlhf.report.tables import Row, cells
from rlhf.storage.places import check_folder

MOST_ROWS = 30
NARROW = 110
SHOWN = ("factuality_greedy", "true_kl_per_response")
"""The columns that a terminal of 80 characters has room for beside the win rate; a wider one shows all."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m rlhf.report", description="Write a page on runs and sweeps.")
    made.add_argument(
        "paths", nargs="*", type=Path, default=[Path("outputs")], help="where runs lie, at any depth; default: outputs"
    )
    made.add_argument("--out", type=Path, default=Path("outputs/report"), help="the folder to write")
    made.add_argument(
        "--by",
        metavar="KEY,...",
        default="",
        help="what to compare, as regularizer.name; of the runs that agree on all else the largest set is taken. "
        "Default: all keys in which the runs differ, seeds apart",
    )
    made.add_argument(
        "--responses",
        type=whole(0, 10**6),
        default=32,
        metavar="N",
        help="how many prompts' responses a run's page shows",
    )
    return made


def run(options: argparse.Namespace) -> None:
    check_folder("--out", options.out)
    missing = [str(path) for path in options.paths if not path.is_dir()]
    if missing:
        raise UserError(f"no such directory: {', '.join(missing)}")
    outputs = load_outputs(options.paths)
    if not outputs.runs and not outputs.problems:
        where = ", ".join(map(str, options.paths))
        raise UserError(f"no runs below {where}: a run's directory has a status.json, as python -m rlhf.run makes it")
    with np.errstate(divide="ignore"):  # statsmodels divides by the heterogeneity of worlds that agree
        found = report(outputs, [key for key in options.by.split(",") if key])
        write(found, options.out, options.responses)
    show(found)
    left = f", {count(len(found.ablation.repeats), 'repeated run')} left out" if found.ablation.repeats else ""
    left += f", {count(len(found.unfinished), 'run')} not finished" if found.unfinished else ""
    console.print(f"{options.out / 'index.html'}: {count(len(found.runs), 'run')}{left}")


def show(found: Report) -> None:
    """Print the answer, the first rows of the ablation, and what did not finish."""
    compared = {group.id for group in found.ablation.compared}
    rows = [row for row in found.rows if row.group.id in compared][:MOST_ROWS]
    if rows:
        console.print(table_of(found, rows))
    if len(found.rows) > len(rows):
        console.print(f"and {count(len(found.rows) - len(rows), 'other setting')} on the page")
    if found.answer.problem is not None:
        console.print(f"note: {found.answer.problem}")
    for pair in found.ablation.repeats[:MOST_ROWS]:
        console.print(f"left out: {repeated(pair)}")
    for each in found.unfinished[:MOST_ROWS]:
        console.print(f"{each.path}: {each.state}, {each.progress}: {one_line(each.reason)}")


def table_of(found: Report, rows: Sequence[Row]) -> Table:
    shown = (found.ablation.headline, *SHOWN)
    columns = [column for column in found.columns if console.width >= NARROW or column.name in shown]
    table = Table(title=found.answer.headline, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("setting", overflow="fold")
    table.add_column("runs", no_wrap=True)
    for column in columns:
        table.add_column(f"{column.label}\n{column.qualifier}", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row.group.label, row.extent_told, *cells(row.figures, columns))
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    with command():
        run(parser().parse_args(arguments))


if __name__ == "__main__":
    gc.disable()  # nearly all that is read stays to the end: looking for garbage in it takes a quarter of the time
    main()
