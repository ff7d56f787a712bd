"""The answer and the first rows of the ablation, on the terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from rlhf.console import console
from rlhf.report.columns import Row, with_error
from rlhf.report.export import extent_of
from rlhf.report.markdown import count
from rlhf.report.page import Report

MOST_ROWS = 30
NARROW = 110
SHOWN = ("factuality_greedy", "true_kl_per_response")
"""The columns that a terminal of 80 characters has room for beside the win rate; a wider one shows all."""


def show(found: Report) -> None:
    compared = {group.id for group in found.ablation.compared}
    rows = [row for row in found.rows if row.group.id in compared]
    if rows:
        console.print(table_of(found, rows[:MOST_ROWS]))
    if len(found.rows) > len(rows[:MOST_ROWS]):
        console.print(f"and {count(len(found.rows) - len(rows[:MOST_ROWS]), 'other setting')} on the page")
    if found.answer.problem is not None:
        console.print(escape(f"note: {found.answer.problem}"))
    for each in found.unfinished[:MOST_ROWS]:
        console.print(escape(f"{each.path}: {each.state}, {each.progress}: {each.reason}"))


def table_of(found: Report, rows: Sequence[Row]) -> Table:
    wide = console.width >= NARROW
    shown = (found.ablation.headline, *SHOWN)
    places = [place for place, column in enumerate(found.columns) if wide or column.name in shown]
    table = Table(title=escape(found.answer.headline), title_justify="left", box=SIMPLE_HEAD)
    table.add_column("setting", overflow="fold")
    table.add_column("runs", no_wrap=True)
    for place in places:
        table.add_column(f"{found.columns[place].label}\n{found.columns[place].unit}", justify="right", no_wrap=True)
    for row in rows:
        figures = [with_error(row.figures[place], found.columns[place].digits) for place in places]
        table.add_row(escape(row.group.label), extent_of(row), *figures)
    return table
